"""A classifier to fine-tune: the body of a language model with a fresh head.

Notable:
- It is transformers' own classifier of the architecture, so its checkpoints are ordinary
  `...ForSequenceClassification` models.
- A causal classifier finds its last real token by the padding id, which is the end-of-text token
  unless the parent has one. It is at no text's end, since a causal model reads no END there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lmlab.config.objective import pair_of
from lmlab.config.training import ParentConfig, TrainConfig
from lmlab.data.labelled_store import Labels, read_labels
from lmlab.data.order import FORWARD
from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer, pretrained_tokenizer
from lmlab.data.windows import key
from lmlab.errors import UserError
from lmlab.models.behaviour import (
    ASSUMED_LENGTH,
    Behaviour,
    InputLength,
    behaviour,
    input_length,
)
from lmlab.models.files import load_body, load_classifier
from lmlab.numerics.classification import class_weights
from lmlab.training.parent import Parent, check_fit, find_parent

_HEAD_SEED = 0xC1A5


@dataclass(frozen=True)
class ClassifierParent:
    """What must be known of a language model before texts are prepared for it."""

    tokenizer: TextTokenizer
    order: str
    room: int
    """Tokens of the longest text that it can read, special tokens not counted."""


def classifier_parent(name: str) -> ClassifierParent:
    """Of a run folder, checkpoint, saved transformers model or Hub name.

    Raises `UserError` where it cannot be found, is damaged, or is no model.
    """
    parent = find_parent(ParentConfig(name))
    assert parent is not None
    tokenizer = pretrained_tokenizer(parent.name)
    length = _tried(parent.name, parent.identity)[1].tokens
    unbounded = parent.record.get("context", ASSUMED_LENGTH)
    return ClassifierParent(
        tokenizer,
        parent.record.get("order", FORWARD),
        unbounded if length is None else length - 2,
    )


def classification_record(config: TrainConfig, parent: Parent, labels: Labels) -> dict[str, Any]:
    """What `objectives.from_record` needs: of the store its classes, of the parent how it
    reads.

    Raises `UserError` for class weights without classes, or where a class has no training text.
    """
    weights = None
    if config.class_balanced:
        if labels.regression:
            raise UserError("`class_balanced`: these labels are values, not classes")
        train_N = labels.by_split[TRAIN].astype(np.int64)
        absent = sorted({*range(len(labels.classes))} - {*train_N.tolist()})
        if absent:
            raise UserError(
                f"`class_balanced`: no training text of class '{labels.classes[absent[0]]}'"
            )
        weights = class_weights(train_N, len(labels.classes)).tolist()
    return {
        "name": "classification",
        "classes": list(labels.classes),
        "both_ways": reads_both_ways(parent),
        "weights": weights,
    }


def reads_both_ways(parent: Parent) -> bool:
    """Whether a parent is a masked language model."""
    if parent.record:
        return pair_of(parent.record["objective"]["name"]).reading == "masked"
    return _tried(parent.name, parent.identity)[0].bidirectional


@lru_cache
def _tried(name: str, identity: str) -> tuple[Behaviour, InputLength]:
    """What the body of a model from elsewhere does; `identity` says when it is another one."""
    body = load_body(name)
    tried = behaviour(body)
    return tried, input_length(body, tried.table)


def classifier_of(
    config: TrainConfig, parent: Parent, store: TokenStore, tokenizer: TextTokenizer
) -> Any:
    """A float32 classifier with the parent's body, frozen if `config` says so, and a fresh head.

    Raises `UserError` where the parent cannot be loaded, does not fit the store's tokenizer or
    `context`, or reads in another order than `config`.
    """
    labels = read_labels(store)
    if parent.record and parent.record["order"] != config.order:
        raise UserError(
            f"`order` {config.order}: {parent.name} reads in the order {parent.record['order']}"
        )
    longest = int(max(store.split(name).documents_M3[:, 1].max() for name in labels.by_split))
    if longest > config.context:
        raise UserError(
            f"`context` {config.context}: the store holds texts of {longest} tokens; raise it"
        )
    settings: dict[str, Any] = {}
    if not reads_both_ways(parent):
        settings["pad_token_id"] = tokenizer.end_of_text_id
    model = load_classifier(
        parent.name,
        fresh=len(labels.classes) or 1,
        seed=key(config.seed, _HEAD_SEED),
        problem_type="regression" if labels.regression else "single_label_classification",
        **settings,
    )
    check_fit(model, parent, config, tokenizer)
    if config.parent.freeze_body:
        for name, parameter in model.base_model.named_parameters():
            # BERT's pooler is as fresh as the head
            parameter.requires_grad_(name.startswith("pooler."))
    return model
