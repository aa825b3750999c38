"""What a run measures on held-out text while it trains, and when it has seen enough.

Notable: early stopping looks at the validation split only. What it knows is in the journal, so a
resumed run stops where an uninterrupted one does.

Shapes: N labelled texts, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from lmlab.config.training import TrainConfig
from lmlab.data.labelled_store import LabelledSplit, Labels, read_labels
from lmlab.data.splits import VALIDATION
from lmlab.data.store import TokenStore
from lmlab.data.windows import evaluation_windows
from lmlab.models.backbone import Backbone
from lmlab.numerics.classification import metric
from lmlab.objectives.base import Objective
from lmlab.objectives.classification import label_criterion, outputs_for, predictions
from lmlab.objectives.evaluate import evaluate, evaluation_batch


def make_validation(config: TrainConfig, store: TokenStore, objective: Objective) -> Validation:
    """The validation of a run. Raises `UserError` for a store without labels where they are
    needed."""
    if config.is_classification:
        labels = read_labels(store)
        texts = LabelledSplit(store.split(VALIDATION), labels.by_split[VALIDATION])
        return LabelledValidation(objective, texts, labels, batch=config.step_windows)
    return TextValidation(config, store, objective)


class TextValidation:
    """Nats per token of a fixed random sample of windows.

    As every validation, `measure` gives fields of the journal that begin with `validation_`, and
    `goodness` what early stopping compares of a record, larger is better; None for a step without.
    """

    def __init__(self, config: TrainConfig, store: TokenStore, objective: Objective) -> None:
        self.objective, self.context = objective, config.context
        self.share = not config.fsdp  # who has a shard of the weights must take part in every batch
        self.windows = evaluation_windows(
            store.split(VALIDATION), config.context, max_windows=config.evaluation_windows
        )

    def measure(self, backbone: Backbone) -> dict[str, float]:
        batch = evaluation_batch(self.context, backbone.model)
        scored = evaluate(
            self.objective,
            backbone,
            self.windows,
            batch=batch,
            padded=backbone.takes_padding,
            share=self.share,
        )
        return {"validation_nats_per_token": scored.nats_per_token}

    def goodness(self, record: Mapping[str, Any]) -> tuple[float, ...] | None:
        nats = record.get("validation_nats_per_token")
        return None if nats is None else (-nats,)


class LabelledValidation:
    """The task's metrics over the validation split, and the mean loss, which settles ties."""

    def __init__(
        self, objective: Objective, texts: LabelledSplit, labels: Labels, *, batch: int
    ) -> None:
        self.objective, self.texts, self.labels, self.batch = objective, texts, labels, batch

    def measure(self, backbone: Backbone) -> dict[str, float]:
        outputs_NC = outputs_for(self.objective, backbone, self.texts, batch=self.batch)
        predicted_N = predictions(self.labels.classes, outputs_NC)
        loss = label_criterion(self.objective).mean_loss(outputs_NC, self.texts.label_N)
        return {
            "validation_loss": loss,
            **{
                f"validation_{name}": metric(
                    name, predicted_N, self.texts.label_N, classes=len(self.labels.classes) or None
                )
                for name in self.labels.metrics
            },
        }

    def goodness(self, record: Mapping[str, Any]) -> tuple[float, ...] | None:
        value = record.get(f"validation_{self.labels.metrics[0]}")
        return None if value is None else (value, -record["validation_loss"])


Validation: TypeAlias = TextValidation | LabelledValidation


class Patience:
    """Which validation was the best, and how many followed without a better one."""

    def __init__(self, validation: Validation, limit: int, history: Iterable[Mapping[str, Any]]):
        self.validation, self.limit = validation, limit
        self.best_step, self.since = 0, 0
        self._best: tuple[float, ...] | None = None
        for record in history:
            self.saw(record)

    def saw(self, record: Mapping[str, Any]) -> bool:
        """Takes in a record of the journal; whether it is the best so far."""
        goodness = self.validation.goodness(record)
        if goodness is None:
            return False
        if self._best is None or goodness > self._best:
            self._best, self.best_step, self.since = goodness, record["step"], 0
            return True
        self.since += 1
        return False

    @property
    def exhausted(self) -> bool:
        return self.since >= self.limit
