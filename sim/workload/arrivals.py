"""When requests come: arrival processes, called with a number of requests and a generator.

Each returns sorted int64 nanoseconds, [n], the first of them 0, so that n requests at rate qps span (n - 1) / qps
seconds on average. Invalid parameters raise InputError when the process is made, not when it is drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError, UnknownName
from sim.workload.workload import Column

Arrivals = Callable[[int, np.random.Generator], Column]

_NS = 1_000_000_000


def _positive(what: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"{what} is {value}; it must be a positive number")


def _from_gaps(gaps_s: NDArray[np.float64]) -> Column:
    return _to_ns(np.concatenate([[0.0], np.cumsum(gaps_s)]))


def _to_ns(times_s: NDArray[np.float64]) -> Column:
    if times_s[-1] * _NS > 2.0**62:
        raise InputError(f"the arrivals span {times_s[-1]:.3g} s, beyond the clock; raise the rate")
    return np.rint(times_s * _NS).astype(np.int64)


@dataclass(frozen=True)
class Poisson:
    """Independent users: exponential gaps, coefficient of variation 1."""

    qps: float

    def __post_init__(self) -> None:
        _positive("qps", self.qps)

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        return _from_gaps(rng.exponential(1 / self.qps, n - 1))


@dataclass(frozen=True)
class Gamma:
    """Gamma gaps with coefficient of variation `cv`: below 1 smoother than Poisson, above it burstier.

    `vllm bench serve --burstiness b` is cv = 1 / sqrt(b).
    """

    qps: float
    cv: float

    def __post_init__(self) -> None:
        _positive("qps", self.qps)
        _positive("cv", self.cv)

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        shape = self.cv**-2
        return _from_gaps(rng.gamma(shape, 1 / (shape * self.qps), n - 1))


@dataclass(frozen=True)
class Bursty:
    """An interrupted Poisson process: bursts at rate peak · qps, silence between them, qps on average.

    Bursts last `burst_s` seconds on average and silences (peak - 1) times as long, both exponential, so the source is
    on for 1 / peak of the time. Gaps are a renewal sequence: the on-time to the next request, g ~ Exp(peak · qps),
    meets Poisson(g / burst_s) silences.
    """

    qps: float
    peak: float
    burst_s: float = 10.0

    def __post_init__(self) -> None:
        _positive("qps", self.qps)
        _positive("burst_s", self.burst_s)
        if not (np.isfinite(self.peak) and self.peak >= 1):
            raise InputError(f"peak is {self.peak}; the peak-to-mean ratio is at least 1")

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        on = rng.exponential(1 / (self.peak * self.qps), n - 1)
        silences = rng.poisson(on / self.burst_s)
        off = rng.standard_gamma(silences) * self.burst_s * (self.peak - 1)  # a sum of exponentials; 0 for none
        return _from_gaps(on + off)


@dataclass(frozen=True)
class Constant:
    """One request every 1 / qps seconds, to the nanosecond, without drift."""

    qps: float

    def __post_init__(self) -> None:
        _positive("qps", self.qps)

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        return _to_ns(np.arange(n) / self.qps)


@dataclass(frozen=True)
class Offline:
    """Everything is there at time 0: a batch job."""

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        return np.zeros(n, dtype=np.int64)


ARRIVALS: Mapping[str, tuple[str, ...]] = {
    "poisson": (),
    "gamma": ("cv",),
    "bursty": ("peak", "burst_s"),
    "constant": (),
    "offline": (),
}


def arrivals_named(spec: str, qps: float) -> Arrivals:
    """The process that "poisson", "gamma:cv=2", "bursty:peak=4,burst_s=30", "constant" or "offline" names.

    Raises UnknownName for another name, InputError for an option that is missing, unknown or not a number.
    """
    name, _, tail = spec.partition(":")
    if name not in ARRIVALS:
        raise UnknownName("arrival process", name, ARRIVALS)
    options: dict[str, float] = {}
    for item in filter(None, tail.split(",")):
        key, _, value = item.partition("=")
        if key not in ARRIVALS[name]:
            takes = ", ".join(ARRIVALS[name]) or "none"
            raise InputError(f"arrivals {spec!r}: {name} has no option {key!r}; it takes {takes}")
        try:
            options[key] = float(value)
        except ValueError:
            raise InputError(f"arrivals {spec!r}: {key}={value!r} is not a number") from None
    try:
        return _BUILDERS[name](qps, options)
    except KeyError as missing:
        raise InputError(f"arrivals {spec!r}: write {name}:{missing.args[0]}=NUMBER") from None


_BUILDERS: Mapping[str, Callable[[float, dict[str, float]], Arrivals]] = {
    "poisson": lambda qps, o: Poisson(qps),
    "gamma": lambda qps, o: Gamma(qps, o["cv"]),
    "bursty": lambda qps, o: Bursty(qps, o["peak"], o.get("burst_s", 10.0)),
    "constant": lambda qps, o: Constant(qps),
    "offline": lambda qps, o: Offline(),
}
