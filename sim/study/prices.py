"""What a token costs: dollars and kilowatt-hours from stated assumptions.

Prices are assumptions, round figures of what a rented GPU cost per hour in 2025; replace them by your own
(`--gpu-price`). Energy is the board's full power for the share of time the replica was busy, host and cooling left
out: an upper bound of what the boards draw.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

from sim.cost.deployment import Deployment
from sim.errors import InputError

DOLLARS_PER_GPU_HOUR: Mapping[str, float] = MappingProxyType(
    {
        "a100-40": 1.3,
        "a100-80": 1.8,
        "h100": 2.5,
        "h200": 3.5,
        "b200": 5.0,
        "l40s": 1.0,
        "l4": 0.6,
        "rtx-4090": 0.4,
        "a100-pcie": 1.4,
        "gh200": 2.0,
        "h100-nvl": 2.3,
        "h100-pcie": 2.0,
        "h20": 1.5,
        "rtx-pro-6000": 1.2,
    }
)
MILLION = 1e6


def price_of(gpu: str, given: float | None = None) -> float:
    """Dollars per GPU-hour: the one given, else the assumption. Raises InputError for a price that is none."""
    if given is None:
        if gpu not in DOLLARS_PER_GPU_HOUR:
            raise InputError(f"no price is assumed for {gpu}; give one with --gpu-price")
        return DOLLARS_PER_GPU_HOUR[gpu]
    if not (math.isfinite(given) and given >= 0):
        raise InputError(f"gpu price is {given}; it must be a number of dollars per hour, 0 or more")
    return given


def dollars_per_million(on: Deployment, tokens_per_s: float, dollars_per_gpu_hour: float) -> float:
    """Dollars per million tokens of a replica that yields so many per second."""
    return on.tp * dollars_per_gpu_hour / 3600 / tokens_per_s * MILLION


def kwh_per_million(on: Deployment, tokens_per_s: float, busy_share: float) -> float:
    """Kilowatt-hours per million tokens: board power times the busy share of the time."""
    return on.tp * on.gpu.power_w / 1000 * busy_share / 3600 / tokens_per_s * MILLION
