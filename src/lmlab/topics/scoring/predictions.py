"""What a model chose, item by item, in the form that BabyLM's server scores.

Notable: of options that are exactly as likely as each other one is named by a fixed key, so that a
model which cannot tell them apart is at chance on the server too.
"""

from __future__ import annotations

from typing import TypedDict

from lmlab.data.task_items import LastWord, Task
from lmlab.errors import UserError
from lmlab.topics.scoring.zero_shot import TaskScore


class _Prediction(TypedDict):
    id: str
    pred: str


class Prediction(_Prediction, total=False):
    """An item's name, the text of the option chosen, and of word forms the model's share for the
    first."""

    prob: float


def predictions(task: Task, score: TaskScore) -> dict[str, list[Prediction]]:
    """The predictions of each subset of a task, in the order of its items.

    Ids count the items of a subset from 0, so they are the server's only for a task that was read
    without a limit. Raises `UserError` for a task without options (LAMBADA).
    """
    made: dict[str, list[Prediction]] = {}
    for n, (item, (subset, name)) in enumerate(zip(task.items, task.ids, strict=True)):
        if isinstance(item, LastWord):
            raise UserError(f"{task.name} has no options to choose from, so no predictions")
        prediction = Prediction(id=name, pred=item.texts[score.chosen[n]])
        if len(score.first_share):
            prediction["prob"] = float(score.first_share[n])
        made.setdefault(subset, []).append(prediction)
    return made
