"""The replica's loop, compiled: the very functions of scheduler, memory, price and replica, through numba.

Nothing is written twice: the interpreted functions are the oracle of the compiled ones. The cache on disk is keyed by
the source of all of them, since numba itself only watches the outermost file.
"""

import hashlib
import inspect
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numba
from numba.extending import register_jitable

from sim.cost import counters, grid, price, tally
from sim.run import replica
from sim.serving import columns, config, memory, scheduler

# The loop allocates nothing, so reference counts of its columns need not be kept: that alone is a factor of ten.
OPTIONS: dict[str, Any] = {"_nrt": False}
SOURCES: tuple[ModuleType, ...] = (memory, scheduler, grid, counters, tally, price, replica)


def source_digest() -> str:
    """Twelve hex digits of all that is compiled."""
    text = "".join(inspect.getsource(module) for module in (*SOURCES, columns, config))
    return hashlib.sha256((text + numba.__version__).encode()).hexdigest()[:12]


@cache
def compiled_advance() -> Callable[[replica.Replica, int], int]:
    """`sim.run.replica.advance`, compiled on first use and cached on disk (about half a minute, once per version)."""
    default = Path(__file__).resolve().parents[2] / ".numba_cache"
    root = Path(os.environ.get("ELIDE_CACHE", default))
    numba.config.CACHE_DIR = str(root / source_digest())  # type: ignore[attr-defined]
    for module in SOURCES:
        for function in vars(module).values():
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                register_jitable(**OPTIONS)(function)
    compiled: Callable[[replica.Replica, int], int] = numba.njit(cache=True, **OPTIONS)(replica.advance)
    return compiled
