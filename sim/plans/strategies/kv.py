"""Strategies that change where keys and values come from and where they live: SwiftKV, cross-layer sharing."""

import numpy as np

from sim.errors import PlanError
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, FULL, KV, SkipPlan, plan_of
from sim.plans.strategies.arguments import spec_of, unless, whole


def swift_kv(model: ModelShape, *, keep: int | None = None, group: int = 1) -> SkipPlan:
    """A plan whose prompt tokens run the first `keep` layers and only leave keys and values in the others.

    From layer l* = `keep` on (half of the layers when nothing is given), K and V of each layer are projected from the
    one stream that enters layer l* (SingleInputKV); consecutive `group`s of those layers share the leader's cache
    (AcrossKV). The prompt token that is sampled and generated tokens run every layer. Needs distilled weights.
    SwiftKV, Qiao et al., arXiv 2410.03960. `keep` = L is the dense plan. Raises PlanError when l* lies outside 1..L,
    or the layers above it do not split into groups.
    """
    layers, me = model.layers, "swift_kv"
    split = whole(me, "keep", max(1, layers // 2) if keep is None else keep, 1, layers)
    g = whole(me, "group", group, 1, max(1, layers - split))
    if (layers - split) % g:
        raise PlanError(f"{me}: group={g} must divide the {layers - split} layers above keep={split}")
    layer = np.arange(layers)
    upper = layer >= split
    owner = np.where(upper, layer - (layer - split) % g, layer)
    run = np.where(owner == layer, FULL, ATTN | FFN)
    return plan_of(
        layers,
        name=spec_of(me, keep=split, group=unless(g, 1)),
        prompt=np.where(upper, run & KV, FULL),
        sampled=run,
        decode=run[None],
        kv_input=np.minimum(layer, split),
        kv_owner=owner,
    )


def cross_layer_kv(model: ModelShape, *, group: int = 2) -> SkipPlan:
    """A plan in which every `group` consecutive layers read the cache of the lowest of them; nothing is skipped.

    It saves capacity and KV writes, not reads: each layer reads the shared cache again. Needs a model trained so.
    Cross-Layer Attention, Brandon et al., arXiv 2405.12981. Raises PlanError when `group` does not divide L.
    """
    layers = model.layers
    g = whole("cross_layer_kv", "group", group, 1, layers)
    if layers % g:
        raise PlanError(f"cross_layer_kv: group={g} must divide the {layers} layers of {model.name}")
    layer = np.arange(layers)
    owner = layer - layer % g
    run = np.where(owner == layer, FULL, ATTN | FFN)
    name = spec_of("cross_layer_kv", group=g)
    return plan_of(layers, name=name, prompt=run, sampled=run, decode=run[None], kv_owner=owner)
