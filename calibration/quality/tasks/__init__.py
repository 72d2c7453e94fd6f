"""The tasks by name, each chosen for what it breaks under."""

from calibration.quality.tasks.code import Code
from calibration.quality.tasks.facts import Facts
from calibration.quality.tasks.figures import Sum, Tally
from calibration.quality.tasks.item import Item, Split, Task
from calibration.quality.tasks.lookup import Copy, Recall, Resume
from calibration.quality.tasks.orders import Order
from calibration.quality.vocabulary import Vocabulary

__all__ = ["KINDS", "Item", "Split", "Task", "tasks_of"]

KINDS = (Facts, Recall, Copy, Resume, Sum, Tally, Order, Code)
EXACT = tuple(kind.name for kind in KINDS if kind is not Code)  # tasks with one right answer


def tasks_of(vocabulary: Vocabulary) -> dict[str, Task]:
    """Every task over a vocabulary, by name."""
    return {kind.name: kind(vocabulary) for kind in KINDS}
