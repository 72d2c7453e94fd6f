"""Numbers as people read them."""

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def human(value: float | None) -> str:
    """A number in three significant digits: "1,230", "0.0123", "4.5 × 10⁻⁷"; "—" where there is none."""
    if value is None or math.isnan(value):
        return "—"
    if value == 0 or math.isinf(value):
        return {0.0: "0", math.inf: "∞", -math.inf: "−∞"}[float(value)]
    exponent = int(f"{value:.2e}".partition("e")[2])
    if not -4 <= exponent <= 6:
        mantissa = f"{value:.2e}".partition("e")[0].rstrip("0").rstrip(".")
        return f"{mantissa} × 10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", "−")
    rounded = round(value, 2 - exponent)
    return f"{rounded:,.{max(0, 2 - exponent)}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """A share as a percentage with at most one decimal: "12.5%"."""
    if share is None or math.isnan(share):
        return "—"
    digits = 0 if abs(share) >= 0.9995 else 1
    text = f"{100 * share:.{digits}f}"
    text = "0" if float(text) == 0 else text.removesuffix(".0")
    return f"{text}%".replace("-", "−")
