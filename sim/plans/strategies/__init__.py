"""The skip strategies: each is a function from a model to a plan, with the paper it comes from."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan, plan_of
from sim.plans.strategies.composition import compose
from sim.plans.strategies.depth import early_exit, self_speculative, skip_decode, static_depth, unified_skip
from sim.plans.strategies.ffn import ffn_skip
from sim.plans.strategies.kv import cross_layer_kv, swift_kv

__all__ = [
    "STRATEGIES",
    "compose",
    "cross_layer_kv",
    "dense",
    "early_exit",
    "ffn_skip",
    "self_speculative",
    "skip_decode",
    "static_depth",
    "swift_kv",
    "unified_skip",
]


def dense(model: ModelShape) -> SkipPlan:
    """The plan that skips nothing: the model as published."""
    return plan_of(model.layers, name="dense")


STRATEGIES: Mapping[str, Callable[..., SkipPlan]] = MappingProxyType(
    {
        strategy.__name__: strategy
        for strategy in (
            dense,
            skip_decode,
            ffn_skip,
            swift_kv,
            unified_skip,
            static_depth,
            early_exit,
            self_speculative,
            cross_layer_kv,
        )
    }
)
