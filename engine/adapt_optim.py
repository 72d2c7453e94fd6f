"""How adapted and trained weights are stepped: Muon for matrices, AdamW for the rest, one learning-rate shape."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sim.errors import InputError


class Optimisers:
    """Muon (Jordan 2024, as in torch) for the matrices of layers at `lr`, AdamW for everything else at `adam_lr`.

    `lr=0` hands everything to AdamW. The rates rise linearly over the first `warmup` share of the steps and fall
    linearly to zero over the last `decay` share.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        steps: int,
        lr: float,
        adam_lr: float,
        warmup: float = 0.05,
        decay: float = 0.4,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        self.steps, self.warmup, self.decay = steps, warmup, decay
        named = [(name, p) for name, p in parameters if p.requires_grad]
        matrices = [p for name, p in named if lr and p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        self.parameters = [*matrices, *rest]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=lr, weight_decay=0.0))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=adam_lr, betas=betas, weight_decay=0.0))
        self.rates = [group["lr"] for part in self.parts for group in part.param_groups]

    def share(self, step: int) -> float:
        """What part of the full rate step `step` (from 0) takes."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rise, fall)

    def step(self, step: int, *, clip: float = 1.0) -> float:
        """Take one step with the gradients that there are, and clear them; the norm that they had."""
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip))
        for part in self.parts:
            for group, rate in zip(part.param_groups, self.rates[self.parts.index(part) :]):
                group["lr"] = rate * self.share(step)
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as named tensors."""
        out = {}
        for i, part in enumerate(self.parts):
            for index, values in part.state_dict()["state"].items():
                for name, value in values.items():
                    out[f"{i}.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return out

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state that `state` gave. Raises InputError where it belongs to another set of weights."""
        for i, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                which, index, name = key.split(".", 2)
                if int(which) == i:
                    state.setdefault(int(index), {})[name] = value
            groups = part.state_dict()["param_groups"]
            if len(state) != len(groups[0]["params"]):
                raise InputError("the optimiser's state belongs to another model; start the training anew")
            part.load_state_dict({"state": state, "param_groups": groups})


def check_finite(loss: Tensor, *, step: int, kept: str) -> None:
    """Raises InputError when the loss is no number any more; `kept` says what is left of the run."""
    if not torch.isfinite(loss):
        raise InputError(
            f"training diverged at step {step}: the loss is {float(loss)}; {kept}; lower the learning rate"
        )
