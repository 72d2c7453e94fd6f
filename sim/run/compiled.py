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

from sim.cost import ahead, counters, grid, price, tables, tally
from sim.run import flow, glide, loop, replica, steady
from sim.serving import columns, completion, config, memory, scheduler

# The loop allocates nothing, so reference counts of its columns need not be kept: that alone is a factor of ten.
OPTIONS: dict[str, Any] = {"_nrt": False}
# The state is a tuple of some sixty arrays, copied at every call that is not inlined: another factor of ten. These few
# are called at most once per iteration and stay calls, or compiling would take minutes.
CALLS = frozenset({"schedule", "enter", "leave", "preempt"})
Advance = Callable[[replica.Replica, flow.Flow, int], int]
SOURCES: tuple[ModuleType, ...] = (
    memory, scheduler, completion, grid, counters, tally, price, ahead, replica, flow, steady, glide, loop,
)  # fmt: skip


def source_digest() -> str:
    """Twelve hex digits of all that is compiled."""
    text = "".join(inspect.getsource(module) for module in (*SOURCES, columns, config, tables))
    return hashlib.sha256((text + repr((OPTIONS, sorted(CALLS))) + numba.__version__).encode()).hexdigest()[:12]


@cache
def compiled_advance() -> Advance:
    """`sim.run.loop.advance`, compiled on first use and cached on disk (about half a minute, once per version)."""
    default = Path(__file__).resolve().parents[2] / ".numba_cache"
    root = Path(os.environ.get("ELIDE_CACHE", default))
    numba.config.CACHE_DIR = str(root / source_digest())  # type: ignore[attr-defined]
    for module in SOURCES:
        for function in vars(module).values():
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                register_jitable(**OPTIONS, forceinline=function.__name__ not in CALLS)(function)
    compiled: Advance = numba.njit(cache=True, **OPTIONS)(loop.advance)
    return compiled
