"""The per-request lists that `--save-detailed` and `--output-details` add to a result, as metrics.

`ttfts` and `itls` are in seconds, one entry and one list per request; a failed request has an error text, or no output.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from calibration.importers.reading import Record, summary
from calibration.units import tpot_from_e2e
from sim.errors import InputError

LISTS = ("input_lens", "output_lens", "ttfts", "itls")
# Aggregates are computed by the tool from the same lists; only rounding may differ.
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Detail:
    """What the lists say: metrics in canonical names, and the bounds of the lengths."""

    measured: Mapping[str, float]
    isl_range: tuple[float, float]
    osl_range: tuple[float, float]


def detail_of(record: Record) -> Detail | None:
    """Metrics recomputed from the lists; None for a result saved without them.

    Raises InputError for lists of different length, for a list that holds no successful request, and where a mean
    differs by more than 1 % from the aggregate in the same record.
    """
    if any(record.get(name) is None for name in LISTS):
        return None
    prompts, outputs, ttfts, gaps = (record.get(name) for name in LISTS)
    errors = record.get("errors") or [""] * len(outputs)
    if len({len(prompts), len(outputs), len(ttfts), len(gaps), len(errors)}) != 1:
        raise InputError(f"{record.where}: the per-request lists {', '.join(LISTS)} differ in length")
    ok = [i for i in range(len(outputs)) if not errors[i] and outputs[i] > 0]
    if not ok:
        raise InputError(f"{record.where}: no request of the lists succeeded")
    ttft_ms = [ttfts[i] * 1e3 for i in ok]
    e2e_ms = [(ttfts[i] + sum(gaps[i])) * 1e3 for i in ok]
    tpot_ms = [tpot_from_e2e(e, t, outputs[i]) for i, e, t in zip(ok, e2e_ms, ttft_ms) if outputs[i] > 1]
    measured = summary("ttft", ttft_ms) | summary("e2e", e2e_ms) | summary("tpot", tpot_ms)
    measured |= summary("itl", [gap * 1e3 for i in ok for gap in gaps[i]])
    bounds = [(float(min(lens[i] for i in ok)), float(max(lens[i] for i in ok))) for lens in (prompts, outputs)]
    return Detail(measured, *bounds)


def merged(record: Record, aggregate: Mapping[str, float], detail: Detail | None) -> dict[str, float]:
    """The aggregate metrics, completed by those of the lists, once the means of both agree."""
    if detail is None:
        return dict(aggregate)
    for name in ("ttft_mean_ms", "tpot_mean_ms", "e2e_mean_ms"):
        if name in aggregate and name in detail.measured:
            told, counted = aggregate[name], detail.measured[name]
            if not math.isclose(told, counted, rel_tol=_TOLERANCE):
                raise InputError(f"{record.where}: {name} = {told:g}, but the per-request lists give {counted:g}")
    return {**detail.measured, **aggregate}
