"""What every source of kernel times takes and gives: float64 columns in, (ns, inside) out."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.errors import InputError

Dtype = Literal["bf16", "fp8"]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Times = tuple[Floats, Bools]
DTYPE_BYTES: Mapping[Dtype, int] = {"bf16": 2, "fp8": 1}


def columns(*arguments: ArrayLike) -> tuple[Floats, ...]:
    """The arguments as float64 arrays of one common shape with at least one axis.

    Raises InputError for a negative size, NaN or infinity.
    """
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, dtype=np.float64)) for a in arguments))
    for array in arrays:
        if not np.isfinite(array).all():
            raise InputError("kernel times need finite sizes, got NaN or infinity")
        if (array < 0).any():
            raise InputError(f"kernel times need sizes of at least 0, got {array.min():g}")
    return tuple(arrays)
