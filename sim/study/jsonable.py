"""Results as valid JSON: numpy and polars values become plain ones, NaN and infinity become null."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np


def plain(value: object) -> object:
    """The value in terms of dict, list, str, bool, int, float and None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def dumps(value: object) -> str:
    """The value as indented JSON."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
