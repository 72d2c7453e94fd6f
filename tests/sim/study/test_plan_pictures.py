"""Pictures of plans tell every flag of every token, at once or step by step."""

import numpy as np
import pytest

from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.study import pictures
from sim.study.pictures.plans import STATES
from tests.sim.study.frames import MODEL, SPECS


@pytest.mark.parametrize("spec", SPECS)
def test_a_plan_table_tells_every_flag_of_every_token(spec: str) -> None:
    plan = strategy_named(spec, MODEL)
    cells = pictures.plan_table(plan).data[0]
    columns = {tuple(row): i for i, row in enumerate(map(tuple, plan.decode))}
    assert len(cells.x) == 2 + len(columns)
    assert len(set(cells.x)) == len(cells.x)
    shown = np.array(cells.z)
    starts = [i for i, row in enumerate(plan.decode) if i == 0 or (row != plan.decode[i - 1]).any()]
    for column, flags in enumerate([plan.prompt, plan.sampled, *(plan.decode[t] for t in starts)]):
        for layer, flag in enumerate(flags):
            assert STATES[shown[layer, column]] == state_of(plan, layer, int(flag), generated=column > 1)


def state_of(plan: SkipPlan, layer: int, flag: int, *, generated: bool) -> str:
    """The state of a cell in words, by cases."""
    if flag & 3 == 3:
        if plan.kv_owner[layer] != layer:
            return "shared cache"
        return "FFN gated" if generated and plan.gate and plan.gate.skip[layer] > 0 else "full"
    return {0: "skipped", 1: "attention only", 2: "FFN only", 4: "KV only", 5: "attention only", 6: "FFN only"}[flag]


@pytest.mark.parametrize("spec", SPECS)
def test_steps_fill_the_plan_in_one_token_at_a_time(spec: str) -> None:
    plan = strategy_named(spec, MODEL)
    tokens = [0, 1, 17, 100, 300]
    figure = pictures.plan_steps({spec: plan}, tokens, seed=5)
    whole = np.array(figure.data[0].z)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == whole.shape[1]
    for shown, frame in enumerate(figure.frames, 1):
        z = np.array(frame.data[0].z)
        assert (z[:, :shown] == whole[:, :shown]).all()
        assert np.isnan(z[:, shown:]).all()
    for column, t in enumerate(tokens, whole.shape[1] - len(tokens)):
        flags = plan.decode[min(t, len(plan.decode) - 1)]
        for layer, flag in enumerate(flags):
            state, left = STATES[whole[layer, column]], state_of(plan, layer, int(flag), generated=True)
            assert state in (("full", "attention only") if left == "FFN gated" else (left,))


def test_steps_draw_a_gate_as_its_rule_has_it() -> None:
    plan = strategy_named("ffn_skip:share=0.25", MODEL)
    gate = plan.gate
    assert gate is not None
    tokens = range(gate.warmup_tokens + 12 * gate.cadence)
    drawn = np.array(pictures.plan_steps({"gate": plan}, tokens).data[0].z)[:, -len(tokens) :]
    out = drawn == STATES.index("attention only")
    assert set(out.sum(axis=0)) == {0, gate.run_length}
    assert not out[gate.skip == 0].any()
    assert not out[:, : gate.warmup_tokens].any()
    assert (out[:, gate.warmup_tokens :: gate.cadence] == 0).all()
    assert out[:, gate.warmup_tokens :].mean() == pytest.approx(gate.mean_skip, rel=0.15)
