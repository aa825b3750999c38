"""The only door to a model: a checkpoint, a run, a folder or a Hub name becomes a `Subject`.

A subject is a model with its tokenizer, objective, order, head and context, ready to analyse. For
lmlab's own checkpoints all of that stands in `lmlab.json`; for a model from elsewhere the objective
follows from its architecture.

Notable: weights are read as safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

import lmlab.models  # noqa: F401 - registers lmlab's own classes
from lmlab.data.order import FORWARD
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer, load_tokenizer, pretrained_tokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.head import attach_bias, read_bias
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.runs.checkpoint import newest_checkpoint, read_json_file, verify_checkpoint

RECORD_FORMAT = "lmlab model 1"


@dataclass(frozen=True)
class Subject:
    """A model ready to analyse."""

    name: str
    """Path or Hub name it was opened from."""
    model: Any
    backbone: Backbone
    tokenizer: TextTokenizer
    objective: Objective
    head: str
    """"tied" or "untied", and what output bias lmlab gave it, if any."""
    context: int
    """Longest window in tokens (BOS not counted)."""
    record: dict[str, Any]
    """The checkpoint's `lmlab.json`; empty for a model from elsewhere."""

    @property
    def order(self) -> str:
        return self.objective.order

    def check_store(self, store: TokenStore) -> None:
        """`UserError` unless `store` was made with this subject's tokenizer."""
        made_with = store.manifest["tokenizer_fingerprint"]
        if made_with != self.tokenizer.fingerprint:
            raise UserError(
                f"{store.path} was made with another tokenizer than {self.name}. Prepare the text "
                f"with this model's: lmlab prepare --tokenizer.kind pretrained --tokenizer.name "
                f"{self.model.name_or_path}"
            )


def open_subject(
    path_or_hub_id: str | Path, *, device: str = "cpu", raw_head: bool = False
) -> Subject:
    """Opens a run folder (its newest verified checkpoint), a checkpoint, a saved transformers
    folder, or a model of the Hub; float32, evaluation mode.

    `raw_head` leaves out the output bias that lmlab gave the model: a headless model then predicts
    by its embeddings alone.

    Raises `UserError` where it cannot be found, is damaged, or is not a language model.
    """
    path = Path(path_or_hub_id)
    if (path / "checkpoints").is_dir():
        found = newest_checkpoint(path)
        if found.path is None:
            why = "; ".join(found.skipped) or "it has none yet"
            raise UserError(f"{path}: no usable checkpoint ({why})")
        path = found.path
    if (path / "lmlab.json").is_file():
        if (path / "manifest.json").is_file():
            verify_checkpoint(path)
        return _own(path, name=str(path_or_hub_id), device=device, raw_head=raw_head)
    return _foreign(str(path_or_hub_id), device=device)


def _load_model(name: str, device: str) -> Any:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # a bar for a load of milliseconds is noise
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name}: the model cannot be loaded: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    torch.nn.Module.to(model, device)
    return model.eval()


def _own(path: Path, *, name: str, device: str, raw_head: bool) -> Subject:
    record = read_json_file(path / "lmlab.json")
    needed = {"tokenizer_fingerprint", "objective", "order", "head", "context"}
    if record.get("format") != RECORD_FORMAT or not needed <= record.keys():
        raise UserError(f"{path / 'lmlab.json'}: not the record of an lmlab model")
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != record["tokenizer_fingerprint"]:
        raise UserError(f"{path}: the tokenizer is not the one this model was trained with")
    model = _load_model(str(path), device)
    head, bias_V = record["head"], read_bias(path)
    if bias_V is not None and raw_head:
        head = f"{head.partition(' ')[0]}, its output bias left out"
    elif bias_V is not None:
        attach_bias(model, bias_V, learnt=False)
    return Subject(
        name=name,
        model=model,
        backbone=Backbone(model),
        tokenizer=tokenizer,
        objective=from_record(record["objective"], order=record["order"], bos_id=tokenizer.bos_id),
        head=head,
        context=record["context"],
        record=record,
    )


def _foreign(name: str, *, device: str) -> Subject:
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: neither a run, a checkpoint, nor a transformers model here or on the Hub: "
            f"{error}"
        ) from error
    kind = config.model_type
    architectures = config.architectures or []
    masked_only = (
        kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    )
    if masked_only or any("MaskedLM" in a for a in architectures):
        raise UserError(f"{name} is a masked language model; lmlab scores causal ones so far")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind != "lmlab_recurrent":
        raise UserError(f"{name}: architecture '{kind}' is not a causal language model")
    model = _load_model(name, device)
    tokenizer = pretrained_tokenizer(name)
    positions = getattr(config, "max_position_embeddings", None)
    tied = model.get_output_embeddings() is not None and (
        model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )
    return Subject(
        name=name,
        model=model,
        backbone=Backbone(model),
        tokenizer=tokenizer,
        objective=from_record({"name": "causal"}, order=FORWARD, bos_id=tokenizer.bos_id),
        head="tied" if tied else "untied",
        context=positions if isinstance(positions, int) else 1024,
        record={},
    )
