"""The validation as one HTML page: errors against load and by source, capacity, peers, misses, rows left out."""

import polars as pl

from calibration.validate_errors import summary
from calibration.validate_public import Validation
from calibration.validate_report import by_load, by_source, exclusions, misses, peers
from sim.cost.profiles import profiles
from sim.study.html import Section, page
from sim.study.pictures.validation import beside_others, error_by_load, predicted_over_measured

SUMMARY = """Every comparable public measurement of a serving system, through the simulator: the point's own lengths, \
load, engine version and metric definitions. Errors in sample are of profiles fitted to these very points; held out, \
of the fit that never saw the configuration (GPU, model, TP).

Rows that cannot be compared are listed with the reason at the end. Nothing was left out for being wrong."""
OURS = "elide, all rows"


def validation_page(validation: Validation) -> str:
    """The page as one HTML document."""
    head = validation.headline()
    served = validation.table.filter(pl.col("load_class") != "static")
    text = f"{head['rows_used']:,} figures are compared, {head['rows_excluded']:,} left out."
    sections = (
        Section("What was reached", text, table=_headline(head)),
        Section(
            "Error against load",
            "A simulator is easy to believe at light load and easy to fool near saturation. Load is the share of the "
            "capacity that the simulator itself finds for the setting.",
            figure=error_by_load(_labelled(served.filter(pl.col("load_share").is_finite()))),
            table=by_load(validation),
        ),
        Section("Predicted and measured", "", figure=predicted_over_measured(_labelled(served))),
        Section("By source", "", table=by_source(validation)),
        Section("By engine and GPU", "", table=summary(validation.table, ("engine", "gpu", "family"))),
        Section(
            "Capacity",
            "Rate sweeps that were driven beyond what the server takes: requests per second at the plateau.",
            table=validation.sweeps,
        ),
        Section(
            "Beside others",
            "What AIConfigurator, AISimulate and BLIS publish or were measured at; their points overlap with ours only "
            "in part, and means are not medians.",
            figure=beside_others(_beside(head)),
            table=pl.DataFrame(peers(), infer_schema_length=None),
        ),
        Section("Known misses", "Explained, not removed.", table=pl.DataFrame(misses())),
        Section("Parameters", "What the fits found, with standard errors in percent.", table=parameters()),
        Section("Every figure", "", table=_every(validation.table)),
        Section("Rows left out", "", table=pl.DataFrame(exclusions(validation), infer_schema_length=None)),
    )
    sources = {name: dict(one.provenance) for name, one in profiles().items()}
    return page("Predicted and measured", SUMMARY, sections, {"engine profiles": sources})


def parameters() -> pl.DataFrame:
    """One row per profile and fitted parameter: value and standard error."""
    rows = []
    for name, one in profiles().items():
        for i, parameter in enumerate(one.fitted):
            error = one.covariance[i][i] ** 0.5 * 100
            rows.append((name, parameter, one.parameters[parameter], error))
    schema = {"profile": pl.String, "parameter": pl.String, "value": pl.Float64, "error": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _headline(head: dict[str, object]) -> pl.DataFrame:
    """Median errors, in sample beside held out."""
    names = {"tpot": "TPOT", "ttft": "TTFT", "e2e": "E2E", "throughput": "throughput"}
    rows = [
        (f"{name}, median error (%)", head[f"{key}_median_ape"], head[f"{key}_held_out_ape"])
        for key, name in names.items()
    ]
    rows.append(("TTFT below 80 % of capacity, median error (%)", head["ttft_below_80_median_ape"], None))
    rows.append(("capacity of KubeCon's rate sweeps, the worse one (%)", head["capacity_ape"], None))
    rows.append(("measurements inside the 90 % interval (%)", None, head["coverage_90"]))
    return pl.DataFrame(
        rows, schema={"figure": pl.String, "in sample": pl.Float64, "held out": pl.Float64}, orient="row"
    )


def _labelled(table: pl.DataFrame) -> pl.DataFrame:
    setting = pl.format(
        "{} {} TP{}, {} in, {} out, {}",
        "model", "gpu", "tp", pl.col("isl").round(0).cast(pl.Int64), pl.col("osl").round(0).cast(pl.Int64), "load",
    )  # fmt: skip
    return table.with_columns(label=setting)


def _every(table: pl.DataFrame) -> pl.DataFrame:
    names = ("source", "engine", "gpu", "model", "weights", "tp", "isl", "osl", "load", "load_share", "metric")
    return table.select(*names, "measured", "predicted", "low", "high", "error", "held_out", "covered")


def _beside(head: dict[str, object]) -> pl.DataFrame:
    names = {"tpot": "TPOT", "ttft": "TTFT", "e2e": "E2E"}
    rows = [{"who": OURS, "metric": names[k], "error": head[f"{k}_median_ape"]} for k in names]
    rows += [{"who": f"{OURS}, held out", "metric": names[k], "error": head[f"{k}_held_out_ape"]} for k in names]
    for peer in peers():
        label = f"{peer['who']}: {peer['points']}"
        rows += [{"who": label, "metric": names[k], "error": peer[k]} for k in names if peer[k] is not None]
    return pl.DataFrame([row for row in rows if row["error"] is not None], infer_schema_length=None)
