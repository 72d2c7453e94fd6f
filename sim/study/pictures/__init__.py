"""Every picture of the project, in one visual language: a frame goes in, a plotly figure comes out."""

from sim.study.numerals import human, percent
from sim.study.pictures.batching import ffn_by_batch, skip_decode_by_batch
from sim.study.pictures.capacity import capacity_bars, cost_quality
from sim.study.pictures.gantt import gantt
from sim.study.pictures.latency import latency_curves, single_stream
from sim.study.pictures.operations import roofline
from sim.study.pictures.plans import plan_table
from sim.study.pictures.runs import attribution, timeline
from sim.study.pictures.saving import waterfall
from sim.study.pictures.steps import plan_steps
from sim.study.pictures.style import colour, label

__all__ = [
    "attribution",
    "capacity_bars",
    "colour",
    "cost_quality",
    "ffn_by_batch",
    "gantt",
    "human",
    "label",
    "latency_curves",
    "percent",
    "plan_steps",
    "plan_table",
    "roofline",
    "single_stream",
    "skip_decode_by_batch",
    "timeline",
    "waterfall",
]
