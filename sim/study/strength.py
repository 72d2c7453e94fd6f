"""How strongly a strategy skips: the same strategy, turned down and up."""

from collections.abc import Callable, Mapping

from sim.errors import PlanError
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named

STRENGTHS = (0.5, 0.75, 1.0, 1.25, 1.5)  # of what was asked to be skipped
Arguments = dict[str, str]
Turn = Callable[[Arguments, float, int], Arguments]  # arguments, strength, layers of the model


def variants(plan: SkipPlan, model: ModelShape) -> dict[float, SkipPlan]:
    """The plan at each strength that fits the model, by strength; only itself, at 1, where nothing can be turned.

    At strength s a strategy leaves out s times the share of layers, or FFNs, that it was asked to: SkipDecode at
    twice the speed skips half of the layers, and a quarter at strength 0.5. Layers come whole and in whole groups.
    """
    found: dict[float, SkipPlan] = {}
    for strength in STRENGTHS:
        try:
            turned = plan if strength == 1 else strategy_named(_turned(plan.name, strength, model.layers), model)
        except PlanError:  # more than the model has
            continue
        found[strength] = turned
    return found if len({p.digest for p in found.values()}) > 1 else {1.0: plan}


def _turned(spec: str, strength: float, layers: int) -> str:
    parts = []
    for part in spec.split("+"):
        name, _, text = part.partition(":")
        arguments = dict(pair.split("=") for pair in text.split(",") if pair)
        if name in TURNS:
            arguments = TURNS[name](arguments, strength, layers)
        said = ",".join(f"{key}={value}" for key, value in arguments.items())
        parts.append(f"{name}:{said}" if said else name)
    return "+".join(parts)


def _speedup(arguments: Arguments, strength: float, _: int) -> Arguments:
    if "speedup" not in arguments:
        return arguments
    kept = 1 - strength * (1 - 1 / float(arguments["speedup"]))
    if kept <= 0:
        raise PlanError(f"speedup={arguments['speedup']}: {strength} times the skip is more than all layers")
    return arguments | {"speedup": f"{1 / kept:.4g}"}


def _share(arguments: Arguments, strength: float, _: int) -> Arguments:
    return arguments | {"share": f"{strength * float(arguments['share']):.4g}"} if "share" in arguments else arguments


def _keep(arguments: Arguments, strength: float, layers: int) -> Arguments:
    group = int(arguments.get("group", 1))
    left_out = round(strength * (layers - int(arguments["keep"])) / group) * group
    return arguments | {"keep": str(layers - left_out)}


def _drop(arguments: Arguments, strength: float, _: int) -> Arguments:
    count = arguments["drop"]
    return arguments if "/" in count else {"drop": str(round(strength * int(count)))}


def _at(arguments: Arguments, strength: float, layers: int) -> Arguments:
    return arguments | {"at": str(layers - round(strength * (layers - int(arguments["at"]))))}


TURNS: Mapping[str, Turn] = {
    "skip_decode": _speedup,
    "unified_skip": _speedup,
    "ffn_skip": _share,
    "swift_kv": _keep,
    "static_depth": _drop,
    "early_exit": _at,
}
