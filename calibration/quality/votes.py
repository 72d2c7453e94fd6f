"""FFN gates that a batch decides together: an FFN is left out where at least half of the rows would leave it out.

No plan says so, because an answer then depends on who else is in the batch; it is examined beside the plans, with known
answers fed token by token, and never counts as a plan's quality.
"""

from collections.abc import Sequence
from pathlib import Path

from calibration.quality.answers import Answers
from calibration.quality.examine import Sheet
from calibration.quality.forced import forced
from calibration.quality.tasks.item import Item
from engine.adapt_folder import read_twin
from engine.adapt_model import Seen
from sim.plans.plan import SkipPlan

NOTE = "scored after the right beginning, in batches drawn from all tasks; nothing was generated"


def vote_sheet(folder: Path, items: Sequence[Item], plan: SkipPlan, *, rows: int, device: str = "cpu") -> Sheet:
    """The sheet of a model under a gate on which batches of `rows` vote.

    What was said is the likeliest token after the right ones: right throughout exactly where greedy decoding would be,
    in a batch whose other rows are right so far. Raises PlanError for a plan of another depth, InputError for no items.
    """
    skipped = 0

    def count(seen: Seen) -> None:
        nonlocal skipped
        if seen.skipped is not None:
            skipped += int(seen.skipped.sum())

    twin = read_twin(folder, device=device)
    scores = forced(twin, items, plan, vote=rows, watch=count)
    tokens = sum(len(item.answer) - 1 for item in items)  # the last one is never fed back
    realised = {"ffn_left_out": round(skipped / (tokens * plan.layers), 4)}
    said = [[int(token) for token in score.best] for score in scores]
    return Sheet(items, Answers(said, realised, 0, (NOTE,)), scores)
