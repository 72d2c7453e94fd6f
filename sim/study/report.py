"""The study's report: what the frames say, in the order in which a planner asks."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from sim.cost.hardware import gpu_named
from sim.run.metrics import Slo
from sim.study.floor import recommendation
from sim.study.html import Section, page
from sim.study.numerals import percent
from sim.study.pictures import (
    capacity_bars,
    cost_quality,
    ffn_by_batch,
    label,
    latency_curves,
    roofline,
    single_stream,
    skip_decode_by_batch,
    waterfall,
)
from sim.study.whatif_page import SCRIPT, what_if_section

ANSWER = (
    "strategy",
    "max_qps_per_gpu",
    "max_qps_low",
    "max_qps_high",
    "gain",
    "gain_low",
    "gain_high",
    "gpus",
    "gpus_low",
    "gpus_high",
    "quality",
    "quality_how",
)
LATENCY = ("strategy", "compared_at_qps", "ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms")
SAVED = (
    "strategy",
    "prompt_skip",
    "decode_skip",
    "flops_saved",
    "weight_bytes_saved",
    "kv_read_bytes_saved",
    "kv_capacity_saved",
    "kv_capacity_tokens",
    "extrapolated_share",
)
COST = ("strategy", "output_tokens_per_s_per_gpu", "dollars_per_million_output_tokens", "kwh_per_million_output_tokens")


def report(frames: Mapping[str, pl.DataFrame], provenance: Mapping[str, object]) -> str:
    """One HTML document that opens offline."""
    question: Any = provenance["question"]
    deployment: Any = provenance["deployment"]
    rows = frames["rows"]
    sections = [
        _answer(rows),
        *what_if_section(frames, question),
        _latency(rows, frames["points"], Slo(**question["slo"])),
        *_reasons(frames),
        *_batching(frames),
        _cost(rows),
        *_known(frames["quality"]),
        _operations(frames["operations"], question["gpu"], deployment["weights"]),
    ]
    kernels: Any = provenance["kernel_times"]
    summary = summary_of(rows, question) + "\n\n" + trust_of(rows, kernels["label"])
    return page(title_of(question), summary, sections, provenance, frames=frames, scripts=[SCRIPT])


def title_of(question: Mapping[str, Any]) -> str:
    """The study in one line."""
    return f"{question['model']} on {question['gpu']}: what skipping is worth"


def summary_of(rows: pl.DataFrame, question: Mapping[str, Any]) -> str:
    """The answer in two paragraphs of plain text."""
    slo = question["slo"]
    asked = (
        f"{question['demand_qps']:g} requests per second of {question['workload']}, of which {slo['percentile']:g} %"
        f" shall have TTFT ≤ {slo['ttft_ms']:g} ms and TPOT ≤ {slo['tpot_ms']:g} ms."
    )
    served = rows.drop_nulls("gpus").sort("gpus", "max_qps_per_gpu", descending=[False, True])
    counts = [f"{label(r['strategy'])}: {r['gpus']} GPUs" for r in served.iter_rows(named=True)]
    unable = rows.filter(pl.col("gpus").is_null())
    failed = [f"{label(r['strategy'])}: {r['note']}" for r in unable.iter_rows(named=True)]
    advice = recommendation(rows, question.get("quality_floor"))
    return asked + "\n\n" + "; ".join(counts + failed) + "." + (f"\n\nRecommended {advice}." if advice else "")


def trust_of(rows: pl.DataFrame, kernels: str) -> str:
    """How far the answer can be trusted, in a paragraph: what is priced outside the measured domain, whose quality."""
    shares = rows["extrapolated_share"].drop_nulls()
    low, high = (percent(float(end)) for end in (shares.min(), shares.max()))  # type: ignore[arg-type]
    known = rows.filter(pl.col("strategy") != "dense")["quality"].drop_nulls().len()
    skipping = rows.filter(pl.col("strategy") != "dense").height
    return (
        f"Simulated, with kernel times {kernels}; {low if low == high else f'{low} to {high}'} of the time is priced"
        f" outside the measured domain. Quality is known of {known} of {skipping} strategies that skip. All assumptions"
        " stand at the end."
    )


def _answer(rows: pl.DataFrame) -> Section:
    return Section(
        "How many requests does one GPU carry?",
        "The largest rate at which the SLO holds and the queue stands still, and the GPUs that the demand needs.",
        capacity_bars(rows.drop_nulls("max_qps_per_gpu")),
        rows.select(ANSWER),
        "Intervals are for 90 %: kernel times, the engine and its server, and traffic of this kind. Strategies are"
        " priced as if the model's weights had been trained for them; quality is the share of the dense model's score"
        " that somebody measured or published, or nothing.",
        missing="not measured",
    )


def _latency(rows: pl.DataFrame, points: pl.DataFrame, slo: Slo) -> Section:
    return Section(
        "What do users feel?",
        "Latency against load, for as long as each strategy keeps up, and side by side at one load.",
        latency_curves(points, slo),
        rows.select(LATENCY),
    )


def _reasons(frames: Mapping[str, pl.DataFrame]) -> list[Section]:
    return [
        Section(
            "Why is it not more?",
            "Each panel starts with the share of blocks that the plan skips in the phase it acts on, and takes away,"
            " one price at a time, what keeps GPU time from falling by as much. Bars that point right give back.",
            waterfall(frames["steps"]),
            frames["rows"].select(SAVED),
            "Shares of the dense model's GPU time for the same requests, all there at once; the last step goes from a"
            " full batch to the load that the SLO allows. The table holds realised shares of work at that load.",
        ),
        Section(
            "When does SwiftKV help the decode?",
            "Alone, a request sees a shorter prompt phase and the same time per token. Under a mixed load its tokens"
            " wait less for the prompts of others.",
            single_stream(frames["streams"]),
            frames["streams"],
        ),
    ]


def _batching(frames: Mapping[str, pl.DataFrame]) -> list[Section]:
    if frames["ffn"].is_empty() or frames["depth"].is_empty():
        return []
    return [
        Section(
            "What does batching do to FFN skipping?",
            "Weights are read if any row of the step needs them. When rows decide one by one, the FFN of a layer is"
            " skipped only where all agree.",
            ffn_by_batch(frames["ffn"]),
            frames["ffn"],
        ),
        Section(
            "What does batching do to SkipDecode?",
            "In a static batch all rows have one age and one depth: the setting of the paper. In continuous batching"
            " the youngest row decides which layers are read, and what remains is KV traffic and arithmetic.",
            skip_decode_by_batch(frames["depth"]),
            frames["depth"],
        ),
    ]


def _cost(rows: pl.DataFrame) -> Section:
    able = rows.drop_nulls("dollars_per_million_output_tokens")
    return Section(
        "What does a token cost?",
        "Each strategy at its own capacity. Prices are assumptions; energy is board power.",
        cost_quality(able),
        able.select(COST),
        missing="not measured",
    )


def _known(known: pl.DataFrame) -> list[Section]:
    if known.is_empty():
        return []
    return [
        Section(
            "What is known about the answers?",
            "Shares of the dense model's score. Rows of kind quality are the strategy's own; all others are of other"
            " settings, models or benchmarks, and small models only rank strategies.",
            table=known,
            unseen=("plan_digest", "measured_strategy", "source"),
        )
    ]


def _operations(frame: pl.DataFrame, gpu: str, weights: str) -> Section:
    sheet = gpu_named(gpu)
    return Section(
        "What are the prices made of?",
        "Each operation of a step on one GPU, from one row to 4,096: left of the ridge memory is the limit, and what is"
        " skipped must be bytes; right of it arithmetic is.",
        roofline(frame, bytes_per_s=sheet.bandwidth_bytes_per_s, flops_per_s=sheet.flops(weights)),
        frame,
        "Hollow markers are priced outside the measured domain. Small passes over memory are served by caches and may"
        " lie above the line, which is the memory's.",
    )
