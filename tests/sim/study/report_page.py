"""A whole report from made-up frames, for tests of the page and of what a browser makes of it."""

from collections.abc import Mapping

from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.study import pictures
from sim.study.html import Section, page
from sim.study.whatif_page import SCRIPT, what_if_section
from tests.sim.study import frames

FIGURES = 12
QUESTION = {
    "demand_qps": 100.0,
    "gpus_per_replica": 2,
    "slo": {"ttft_ms": 1000.0, "tpot_ms": 50.0, "percentile": 90.0},
    "dollars_per_gpu_hour": 3.5,
    "output_tokens_mean": 200.0,
    "grid_seed": 0,
    "quality_floor": None,
}


def study_page(provenance: Mapping[str, object]) -> str:
    """The report of a study that nobody ran, with every picture there is."""
    study, points = frames.capacities(), frames.points()
    plan = strategy_named("swift_kv:group=4+skip_decode", frames.MODEL)
    roofline = pictures.roofline(frames.operations(), bytes_per_s=4e12, flops_per_s=1e15)
    drawn = [
        ("How many requests does one GPU carry?", pictures.capacity_bars(study), study),
        ("What do users feel?", pictures.latency_curves(points, Slo()), points),
        ("Why is it not more?", pictures.waterfall(frames.steps()), frames.steps()),
        ("What does batching do to FFN skipping?", pictures.ffn_by_batch(frames.ffn()), None),
        ("What does batching do to SkipDecode?", pictures.skip_decode_by_batch(frames.depth()), None),
        ("When does SwiftKV help the decode?", pictures.single_stream(frames.streams()), frames.streams()),
        ("What does a token cost?", pictures.cost_quality(study), None),
        ("Where does the time go?", pictures.attribution(frames.seconds()), None),
        ("What did the GPU hold?", pictures.timeline(frames.run(20_000)), None),
        ("What does the plan do?", pictures.plan_table(plan), None),
        ("Who is in which step?", pictures.gantt(frames.run(500)), None),
        ("What are the prices made of?", roofline, None),
    ]
    sections = [Section(h, "Some words.\n\nMore of them.", f, t, "A note.", "not measured") for h, f, t in drawn]
    grid = {"whatif": frames.whatif(), "ladder": frames.ladder()}
    sections += what_if_section(grid, QUESTION)
    summary, all_of_it = "One sentence.\n\nAnother one.", {"question": QUESTION, **provenance}
    return page("What is skipping worth?", summary, sections, all_of_it, frames=grid, scripts=[SCRIPT])
