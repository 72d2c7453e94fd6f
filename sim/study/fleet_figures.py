"""What a fleet's run is worth: its summary with cost, quality and how much was skipped."""

from collections.abc import Mapping, Sequence

import polars as pl

from sim.errors import InputError
from sim.run.cluster import Group
from sim.run.fleet_result import FleetResult
from sim.study.prices import MILLION, price_of
from sim.study.quality import qualities


def check_scores(groups: Sequence[Group], given: Mapping[str, float]) -> None:
    """Raises InputError for an assumed quality of a strategy that no replica runs."""
    names = sorted({group.plan.name for group in groups})
    for name in given:
        if name not in names:
            raise InputError(f"--quality {name}: no replica runs that; the strategies are {', '.join(names)}")


def scores_of(groups: Sequence[Group], given: Mapping[str, float]) -> dict[str, float | None]:
    """The quality of each group's plan: the score assumed for its strategy, else the measured one, else None."""
    found: dict[str, float | None] = {}
    for group in groups:
        measured = qualities(group.deployment.model.name).get(group.plan.digest)
        found[group.name] = given.get(group.plan.name, measured.score if measured else None)
    return found


def fleet_figures(
    result: FleetResult, groups: Sequence[Group], *, given: Mapping[str, float], gpu_price: float | None
) -> dict[str, object]:
    """`FleetResult.summary()` with dollars, GPUs, mean quality and skipped share over the requests served."""
    summary = result.summary()
    dollars = dollars_of(result, groups, gpu_price)
    output = int(str(summary["output_tokens"]))
    hours = result.makespan_s / 3600
    return summary | {
        "mean_gpus": result.gpu_hours / hours if hours else float("nan"),
        "dollars": dollars,
        "dollars_per_million_output_tokens": dollars / output * MILLION if output else float("nan"),
        **served_by_plan(result, groups, given),
    }


def dollars_of(result: FleetResult, groups: Sequence[Group], gpu_price: float | None) -> float:
    """What the GPUs of all lives cost."""
    price = {group.name: price_of(group.deployment.gpu.name, gpu_price) for group in groups}
    return sum(float(str(life["gpu_hours"])) * price[str(life["group"])] for life in result.lives)


def served_by_plan(result: FleetResult, groups: Sequence[Group], given: Mapping[str, float]) -> dict[str, object]:
    """Requests served under each strategy; mean quality over them, None where a plan's is not known; mean skip.

    The skipped share is nominal: of the blocks (attention, FFN) that the dense model runs for the tokens served.
    """
    scores = scores_of(groups, given)
    served: dict[str, int] = {}
    weighted, known, blocks, skipped = 0.0, True, 0.0, 0.0
    for group in groups:
        counts = result.ledger.total(group=result.ledger.groups.index(group.name)).counts
        served[group.plan.name] = served.get(group.plan.name, 0) + counts["completed"]
        score = scores[group.name]
        known &= score is not None or not counts["completed"]
        weighted += counts["completed"] * (score or 0.0)
        blocks += counts["prompt_tokens"] + counts["output_tokens"]
        skipped += counts["prompt_tokens"] * group.plan.prompt_skip + counts["output_tokens"] * group.plan.nominal_skip
    total = sum(served.values())
    return {
        "mean_quality": weighted / total if known and total else None,
        "skipped_share": skipped / blocks if blocks else float("nan"),
        "served": [{"strategy": name, "requests": n} for name, n in served.items()],
    }


def table_of(frame: pl.DataFrame) -> list[dict[str, object]]:
    """A frame as a list of rows."""
    return frame.to_dicts()
