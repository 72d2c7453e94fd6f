"""What the committed models show, through the engine: claims of the papers, asserted with margins where they hold.

The full tables are in calibration/data/quality; these are the few comparisons that must not silently stop being true.
"""

from functools import cache

import torch

from calibration.quality.examine import Sheet, examine
from calibration.quality.run import DATA
from calibration.quality.sampling import held_out
from calibration.quality.tasks import EXACT, tasks_of
from calibration.quality.vocabulary import Vocabulary
from calibration.quality.world import SMALL
from engine.adapt_folder import read_twin
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named

MODELS = DATA / "models"
VOCABULARY = Vocabulary(SMALL)
torch.set_num_threads(1)


@cache
def items():
    return held_out(tasks_of(VOCABULARY), "test", count=24, seed=1, only=EXACT)


@cache
def sheet(model: str, plan: str | SkipPlan) -> Sheet:
    folder = MODELS / model
    made = strategy_named(plan, read_twin(folder).shape) if isinstance(plan, str) else plan
    return examine(folder, items(), made, rows=64, device="cpu")


def exact(model: str, plan: str | SkipPlan, task: str | None = None) -> float:
    """Mean exact match over tasks, or of one."""
    s = sheet(model, plan)
    right = [r for r, item in zip(s.right, s.items) if task in (None, item.task)]
    return sum(right) / len(right)
