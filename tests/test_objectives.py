"""Objectives as pairs of a reading and a criterion: one table of names, records that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from helpers import symbols_tokenizer
from lmlab.config.model import ModelConfig
from lmlab.config.objective import (
    OBJECTIVES,
    CriterionName,
    MaskingConfig,
    ObjectiveName,
    ReadingName,
    objective_name,
)
from lmlab.config.training import TrainConfig
from lmlab.errors import UserError
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.objectives.full import FullCrossEntropy

TOKENIZER = symbols_tokenizer(5).with_mask()
SETTINGS: dict[str, Any] = {
    "masking": {"rate": 0.25, "mask": 0.8, "random": 0.1, "whole_words": False},
    "mixed": {"masked": 0.25},
    "temperature": 0.5,
    "balance": 0.25,
    "classes": ["good", "bad"],
    "weights": [1.5, 0.5],
    "both_ways": True,
}
KEPT = {
    "masked": {"masking"},
    "mixed": {"masking", "mixed"},
    "whole-text": {"both_ways"},
    "contrastive": {"temperature"},
    "fused-towers": {"balance"},
    "labels": {"classes", "weights"},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_name_builds_its_pair_and_its_record_builds_it_again(name):
    reading, criterion = OBJECTIVES[name]
    wanted = KEPT.get(reading, set()) | KEPT.get(criterion, set())
    record = {"name": name, **{key: SETTINGS[key] for key in wanted}}
    objective = from_record(record, order="forward", tokenizer=TOKENIZER)
    assert (objective.reading.name, objective.criterion.name, objective.name) == (
        reading, criterion, name,
    )  # fmt: skip
    assert objective.record().items() >= record.items()
    again = from_record(objective.record(), order="forward", tokenizer=TOKENIZER)
    assert again.record() == objective.record()
    # any reading scores with the softmax of the model's own logits
    if reading != "whole-text":
        assert Objective(objective.reading, FullCrossEntropy()).name == reading


def test_the_table_names_every_part_and_no_pair_twice():
    assert len(set(OBJECTIVES.values())) == len(OBJECTIVES)
    assert {pair.reading for pair in OBJECTIVES.values()} == set(get_args(ReadingName))
    assert {pair.criterion for pair in OBJECTIVES.values()} == set(get_args(CriterionName))
    assert set(OBJECTIVES) - set(get_args(ObjectiveName)) == {"cloze"}
    with pytest.raises(UserError, match="no objective reads a text as cloze and has the criterion"):
        objective_name("cloze", "labels")


def test_options_of_another_objective_are_refused_with_the_names_that_have_them():
    store, model = Path("store"), ModelConfig("gpt2")
    with pytest.raises(
        UserError, match="masked, headless-masked, mixed, towers-masked, probe-masked"
    ):
        TrainConfig(store=store, model=model, masking=MaskingConfig(rate=0.2))
    with pytest.raises(UserError, match="unknown objective 'telepathy'; this lmlab knows causal"):
        TrainConfig(store=store, model=model, objective="telepathy")
