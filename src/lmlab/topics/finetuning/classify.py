"""What a fine-tuned classifier says of labelled texts.

Shapes: N texts, C classes (1 for regression).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lmlab.data.labelled_store import LabelledSplit, read_labels
from lmlab.data.splits import TEST
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import load_tokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.files import load_classifier
from lmlab.objectives import from_record
from lmlab.objectives.classification import LabelCriterion, outputs_for
from lmlab.run_folders.checkpoint import read_json_file, usable_checkpoint

_BATCH = 64


def reported_outputs(path: Path, store: TokenStore) -> np.ndarray:
    """A classifier's outputs (N, C) float64 for the reported texts of a labelled store, in float32.

    `path` is a run folder or a checkpoint. Raises `UserError` where it is no classifier of lmlab,
    is damaged, or has another tokenizer than the store.
    """
    folder = usable_checkpoint(path)
    record = read_json_file(folder / "lmlab.json")
    tokenizer = load_tokenizer(folder)
    if tokenizer.fingerprint != store.manifest["tokenizer_fingerprint"]:
        raise UserError(f"{store.path} was made with another tokenizer than {path}")
    objective = from_record(record["objective"], order=record["order"], tokenizer=tokenizer)
    if not isinstance(objective.criterion, LabelCriterion):
        raise UserError(f"{path} is a language model, not a classifier")
    model = load_classifier(str(folder), fresh=None)
    texts = LabelledSplit(store.split(TEST), read_labels(store).by_split[TEST])
    return outputs_for(objective, Backbone(model), texts, batch=_BATCH)
