"""How adapted and trained weights are stepped: Muon for matrices, AdamW for the rest, one learning-rate shape."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sim.errors import InputError

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at zero, roughly flat near one


def orthogonal(gradients: Tensor) -> Tensor:
    """The nearest matrices with all singular values near one, [n, rows, columns], by five Newton–Schulz steps.

    In bfloat16 on a GPU, else in the matrices' own dtype. (Muon, Jordan et al., https://kellerjordan.github.io/posts/muon.)
    """
    a, b, c = _QUINTIC
    x = gradients.bfloat16() if gradients.is_cuda else gradients
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(gradients.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal; matrices of one shape go through together.

    torch.optim.Muon takes them one by one, which costs a small model on a CPU more than its gradients do.
    """

    def __init__(self, matrices: list[nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One Nesterov step; matrices that had no gradient stay."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, members in shapes.items():
                updates = torch.stack([self._nesterov(p, group["momentum"]) for p in members])
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(members, orthogonal(updates)):
                    p.sub_(update, alpha=scale)

    def _nesterov(self, p: nn.Parameter, momentum: float) -> Tensor:
        assert p.grad is not None
        buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)


class Optimisers:
    """Muon for the matrices of layers at `lr`, AdamW for everything else at `adam_lr`.

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
            self.parts.append(Muon(matrices, lr=lr))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=adam_lr, betas=betas, weight_decay=0.0))
        self.rates = [float(part.defaults["lr"]) for part in self.parts]

    def share(self, step: int) -> float:
        """What part of the full rate step `step` (from 0) takes."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, rise, fall)

    def step(self, step: int, *, clip: float = 1.0) -> float:
        """Take one step with the gradients that there are, and clear them; the norm that they had."""
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip))
        for part, rate in zip(self.parts, self.rates):
            for group in part.param_groups:
                group["lr"] = rate * self.share(step)
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as named tensors."""
        return {
            f"{i}.{index}.{name}": torch.as_tensor(value).detach().cpu().clone().contiguous()
            for i, part in enumerate(self.parts)
            for index, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }

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
        raise InputError(f"training diverged at step {step}: the loss is {float(loss)}; {kept}; lower the rate (--lr)")
