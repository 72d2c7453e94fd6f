"""The dispatcher, compiled: routers and looks at replicas through numba, each replica's own loop called as compiled.

The interpreted functions of `sim.run.dispatch` are the oracle of the compiled ones, as everywhere.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numba
from numba import types
from numba.extending import intrinsic, overload, register_jitable

from sim.run import dispatch, handles, seat
from sim.run.compiled import OPTIONS, compiled_advance, source_digest
from sim.run.dispatch import Batch, Desk
from sim.run.seat import Seat
from sim.serving.columns import Ints

# take a whole seat, a tuple of some hundred arrays that is copied at every call that is not inlined
INLINED = frozenset({"outstanding", "behind", "fold", "give", "bring_keys", "cached_tokens", "blocks_ahead"})

TUPLE: Any = types.BaseTuple
tuple_of: Any = types.UniTuple


class Dispatcher(NamedTuple):
    """`sim.run.dispatch`, with words for members."""

    dispatch: Callable[[Ints, Desk, Batch, int], bool]
    settle: Callable[[Ints, Desk, int], bool]


def compiled_dispatcher(example: Seat) -> Dispatcher:
    """The dispatcher for seats of the example's type, compiled on first use and cached on disk."""
    return _compiled(_writable(numba.typeof(example)))  # type: ignore[no-untyped-call]


@cache
def _compiled(seat_type: types.Type) -> Dispatcher:
    advance = compiled_advance()
    options: Any = OPTIONS
    source = "".join(inspect.getsource(module) for module in (dispatch, handles, seat, sys.modules[__name__]))
    digest = hashlib.sha256((source_digest() + source).encode()).hexdigest()[:12]
    numba.config.CACHE_DIR = str(Path(numba.config.CACHE_DIR).parent / digest)  # type: ignore[attr-defined]
    read = _reader(seat_type)

    overload(handles.seat_at, jit_options=options)(lambda members, i: lambda members, i: read(members, i))
    overload(handles.step_to, jit_options=options)(
        lambda seat, until_ns: lambda seat, until_ns: advance(seat.replica, seat.flow, until_ns)
    )
    for name, function in vars(dispatch).items():
        if isinstance(function, FunctionType) and function.__module__ == dispatch.__name__:
            register_jitable(**OPTIONS, forceinline=name in INLINED)(function)
    compile_ = numba.njit(cache=True, **OPTIONS)
    return Dispatcher(compile_(dispatch.dispatch), compile_(dispatch.settle))


def _writable(of: Any) -> Any:
    """A type of nested tuples of arrays as if all were C-contiguous and writable: their words say nothing else."""
    if isinstance(of, TUPLE):
        return TUPLE.from_types([_writable(part) for part in of.types], of.instance_class)
    if isinstance(of, types.Array):
        return types.Array(of.dtype, of.ndim, "C")
    return of


def _reader(seat_type: types.Type) -> Any:
    """An intrinsic (members, i) → seat that reads the words which `words_of` wrote."""

    @intrinsic
    def read(typing_context: Any, members: Any, i: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            words = context.make_array(signature.args[0])(context, builder, given[0])
            width = builder.extract_value(words.shape, 1)
            row = builder.gep(words.data, [builder.mul(given[1], width)])
            value, _ = _build(context, builder, seat_type, row, 0)
            return value

        return seat_type(types.Array(types.int64, 2, "C"), types.int64), code

    return read


def _build(context: Any, builder: Any, of: Any, row: Any, at: int) -> tuple[Any, int]:
    """The value that the words from `at` on stand for, and where the next one begins."""

    def word(n: int) -> Any:
        return builder.load(builder.gep(row, [context.get_constant(types.intp, n)]))

    if isinstance(of, TUPLE):
        parts = []
        for part in of.types:
            value, at = _build(context, builder, part, row, at)
            parts.append(value)
        return context.make_tuple(builder, of, parts), at
    if isinstance(of, types.Array):
        array = context.make_array(of)(context, builder)
        shape = [word(at + 1 + d) for d in range(of.ndim)]
        item = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(of.dtype)))
        strides = [item]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        count = shape[0]
        for length in shape[1:]:
            count = builder.mul(count, length)
        array.data = builder.inttoptr(word(at), array.data.type)
        array.meminfo = array.meminfo.type(None)
        array.parent = array.parent.type(None)
        array.itemsize, array.nitems = item, count
        array.shape = context.make_tuple(builder, tuple_of(types.intp, of.ndim), shape)
        array.strides = context.make_tuple(builder, tuple_of(types.intp, of.ndim), strides)
        return array._getvalue(), at + 1 + of.ndim
    value = word(at)
    return (builder.bitcast(value, context.get_value_type(of)) if isinstance(of, types.Float) else value), at + 1
