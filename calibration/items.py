"""What can be measured, as data: an item is a kernel or a burst of requests with its sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Item:
    """One measurement: what, and its sizes by name."""

    op: str
    sizes: tuple[tuple[str, int | str], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.sizes)[name]

    def get(self, name: str, otherwise: int | str) -> int | str:
        """A size that not every item of its kind has."""
        return dict(self.sizes).get(name, otherwise)

    @property
    def key(self) -> str:
        """What tells it from every other: "gemm k=4096 m=1 n=6144"."""
        return " ".join([self.op, *(f"{name}={value}" for name, value in sorted(self.sizes))])


def item(op: str, **sizes: int | str) -> Item:
    """An item of these sizes."""
    return Item(op, tuple(sizes.items()))


@dataclass(frozen=True)
class Burst:
    """Requests that arrive together: so many, in so many slots, all of one prompt length.

    Outputs have `output` tokens each, or between half and one and a half times as many where they are `mixed`: then
    requests of every age share a step, as they do in a server.
    """

    requests: int
    slots: int
    prompt: int
    output: int
    mixed: bool = False
    policy: str = "chunked"

    def item(self, plan: str) -> Item:
        """The burst under a plan."""
        return item("step", plan=plan, **{name: int(v) if name != "policy" else v for name, v in vars(self).items()})

    @classmethod
    def of(cls, one: Item) -> "Burst":
        """The burst that an item describes."""
        numbers = {name: int(one[name]) for name in ("requests", "slots", "prompt", "output")}
        return cls(**numbers, mixed=bool(int(one["mixed"])), policy=str(one["policy"]))

    @property
    def longest(self) -> int:
        """Tokens of its longest request."""
        return self.prompt + max(self.outputs)

    @property
    def outputs(self) -> list[int]:
        """Output tokens of each request."""
        if not self.mixed:
            return [self.output] * self.requests
        low, high = max(1, self.output // 2), max(1, self.output * 3 // 2)
        return [int(n) for n in np.random.default_rng(self.requests).integers(low, high + 1, self.requests)]

    @property
    def tokens(self) -> list[int]:
        """Tokens of each request, prompt and output."""
        return [self.prompt + n for n in self.outputs]


_LONG = ((1, 2048), (16, 2048), (4, 8192), (1, 32_512))
BURSTS: Mapping[str, Mapping[str, Sequence[Burst]]] = {
    "steps": {  # what whole steps are fitted to
        "cuda": (
            Burst(1, 128, 512, 48), Burst(32, 128, 512, 32), Burst(8, 128, 512, 32), Burst(128, 128, 512, 32),
            Burst(4, 128, 8192, 16), Burst(64, 32, 512, 64, mixed=True),
        ),
        "cpu": (Burst(1, 8, 32, 24), Burst(8, 8, 32, 24), Burst(4, 8, 48, 24), Burst(16, 4, 40, 16, mixed=True)),
    },
    "depth": {  # SkipDecode's setting, batches of equal age, and a server's
        "cuda": (
            *(Burst(n, 128, 128, 256, policy="static") for n in (1, 8, 32, 128)),
            Burst(192, 64, 128, 256, mixed=True),
        ),
        "cpu": (Burst(4, 4, 16, 8, policy="static"), Burst(6, 3, 16, 8, mixed=True)),
    },
    "ffn": {  # FFN skipping, by sequences at once
        "cuda": tuple(Burst(n, 256, 128, 64) for n in (1, 2, 8, 256)),
        "cpu": (Burst(1, 4, 16, 8), Burst(4, 4, 16, 8)),
    },
    "prompts": {  # SwiftKV's: long prompts, 256 tokens out
        "cuda": tuple(Burst(n, 16, prompt, 256) for n, prompt in _LONG),
        "cpu": (Burst(2, 2, 48, 4),),
    },
}  # fmt: skip
