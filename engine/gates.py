"""The FFN gate of one iteration: which tokens may still start their run of skips, and which FFNs they leave out.

The test itself is fused into the norm that adds the FFN's output (`engine.kernels.norm`); nothing is read back.
"""

from torch import Tensor

from engine.batch import RowSet
from engine.kernels.norm import CosineGate
from sim.plans.rules import FfnGate


class GateState:
    """FFN-SkipLLM's rule for the tokens of one batch (arXiv 2404.03865, the authors' code)."""

    def __init__(self, rule: FfnGate, armed: Tensor, active: Tensor) -> None:
        self.rule = rule
        self.armed = armed  # int8 [rows], tokens that may still start a run
        self.active = active  # int8 [layers, rows], FFNs that are not left out
        self.first = max(1, rule.cold_layers)
        self.end = len(active) - rule.cold_layers

    @classmethod
    def of(cls, rule: FfnGate, eligible: Tensor, layers: int) -> "GateState":
        """The state before the first layer."""
        return cls(rule, eligible.clone(), eligible.new_ones(layers, len(eligible)))

    def first_rows(self, count: int) -> "GateState":
        """What became of the first rows, without the padding behind them."""
        return GateState(self.rule, self.armed[:count], self.active[:, :count])

    def mask(self, layer: int, rows: RowSet) -> Tensor | None:
        """Which of the rows run the layer's FFN, int8 [count]; None where no run can have reached it."""
        if not self.first <= layer < self.end:
            return None
        return self.active[layer] if rows.index is None else self.active[layer][rows.index]

    def test(self, layer: int, rows: RowSet) -> CosineGate | None:
        """The cosine test after the layer's FFN, which may start a run at the next layer; None where there is none."""
        if not self.first - 1 <= layer < self.end - 1:
            return None
        ahead = self.active[layer + 1 : min(layer + 1 + self.rule.run_length, self.end)]
        if rows.index is None:
            return CosineGate(self.rule.threshold, self.armed, ahead)
        return CosineGate(self.rule.threshold, self.armed[rows.index], ahead[:, rows.index])

    def settle(self, test: CosineGate | None, layer: int, rows: RowSet) -> None:
        """Book a test that was made on a copy of some rows."""
        if test is not None and rows.index is not None:
            self.armed[rows.index] = test.armed
            self.active[layer + 1 : layer + 1 + len(test.ahead), rows.index] = test.ahead
