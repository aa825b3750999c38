"""The only door to a model: a checkpoint, a run, a folder or a Hub name becomes a `Subject`.

A subject is a model with its tokenizer, objective, order, head and context, ready to analyse. For
lmlab's own checkpoints all of that stands in `lmlab.json`; for a model from elsewhere the objective
follows from its architecture.

Notable:
- Weights are read as safetensors only, and no code that comes with a model is run.
- Of two towers, RUN is the joint model, RUN@1 and RUN@2 are the towers alone: the probes' run where
  the fusion gives them no distribution of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig

import lmlab.models  # noqa: F401 - registers lmlab's own classes
from lmlab.config import to_mapping
from lmlab.config.hub import where_from
from lmlab.config.objective import MaskingConfig
from lmlab.data.order import FORWARD
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer, load_tokenizer, pretrained_tokenizer
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.files import language_model_kinds, load_pretrained, longest_input
from lmlab.models.head import attach_bias, read_bias
from lmlab.models.towers import TwoTower
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.objectives.towers import plain_record
from lmlab.runs.checkpoint import read_json_file, usable_checkpoint

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

    @property
    def conditions(self) -> str:
        """What each token is scored from, and the token that windows begin with."""
        return f"{self.objective.conditions}; windows begin with {self.tokenizer.begins_with}"

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
    path_or_hub_id: str | Path,
    *,
    device: str = "cpu",
    raw_head: bool = False,
    objective: Literal["auto", "causal", "masked"] = "auto",
) -> Subject:
    """Opens a run folder (its newest verified checkpoint), a checkpoint, a saved transformers
    folder, or a model of the Hub (NAME, or NAME@REVISION); float32, evaluation mode.

    `raw_head` leaves out the output bias that lmlab gave the model: a headless model then predicts
    by its embeddings alone. `objective` insists on one way to read the model.

    Raises `UserError` where it cannot be found, is damaged, is not a language model, or not one for
    `objective`.
    """
    place, tower = which_tower(Path(path_or_hub_id))
    path = usable_checkpoint(place)
    if (path / "lmlab.json").is_file():
        subject = _own(path, str(path_or_hub_id), tower, device=device, raw_head=raw_head)
        reads = "causal" if subject.objective.autoregressive else "masked"
        if objective not in ("auto", reads):
            raise UserError(
                f"{path_or_hub_id} is a {reads} model of lmlab and cannot be scored as a "
                f"{objective} one; leave --objective out"
            )
        return subject
    return _foreign(str(path_or_hub_id), device=device, objective=objective)


def plain_objective(subject: Subject) -> Objective:
    """The subject's objective with cross-entropy, for a head that is no longer the embedding."""
    record = subject.objective.record()
    plain: dict[str, Any] = {"name": "causal"}
    if record["name"] == "cloze":
        plain = {"name": "cloze"}
    elif "masking" in record:
        plain = {"name": "masked", "masking": record["masking"]}
    return from_record(plain, order=subject.order, tokenizer=subject.tokenizer)


def _load_model(name: str, device: str, *, masked: bool) -> Any:
    model = load_pretrained(name, masked=masked)
    torch.nn.Module.to(model, device)
    return model.eval()


def which_tower(path: Path) -> tuple[Path, int | None]:
    """The run or checkpoint, and which of its towers (0 or 1) is asked for by @1 or @2, if one."""
    place, at, number = path.name.rpartition("@")
    if path.exists() or not at or number not in ("1", "2"):
        return path, None
    return path.with_name(place), int(number) - 1


def _own(path: Path, name: str, tower: int | None, *, device: str, raw_head: bool) -> Subject:
    record = read_json_file(path / "lmlab.json")
    needed = {"tokenizer_fingerprint", "objective", "order", "head", "context"}
    if record.get("format") != RECORD_FORMAT or not needed <= record.keys():
        raise UserError(f"{path / 'lmlab.json'}: not the record of an lmlab model")
    if record["objective"].get("name") == "classification":
        raise UserError(f"{name} is a classifier of texts; it gives tokens no probability")
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != record["tokenizer_fingerprint"]:
        raise UserError(f"{path}: the tokenizer is not the one this model was trained with")
    masked = "masking" in record["objective"]
    model = _load_model(str(path), device, masked=masked)
    objective = record["objective"]
    if isinstance(model, TwoTower):
        objective, model.view = plain_record(objective), tower
    elif tower is not None:
        raise UserError(f"{name}: this model has no towers; leave out @{tower + 1}")
    head, bias_V = record["head"], read_bias(path)
    if raw_head and "bias" in head:
        head = f"{head.partition(' ')[0]}, its output bias left out"
        if bias_V is None:  # a masked architecture, whose own bias it is
            layer: Any = model.get_output_embeddings()
            layer.bias.data.zero_()
    elif bias_V is not None:
        attach_bias(model, bias_V, learnt=False)
    return Subject(
        name=name,
        model=model,
        backbone=Backbone(model),
        tokenizer=tokenizer,
        objective=from_record(objective, order=record["order"], tokenizer=tokenizer),
        head=head if tower is None else f"of tower {tower + 1}",
        context=record["context"],
        record=record,
    )


def _foreign(name: str, *, device: str, objective: str) -> Subject:
    try:
        config = AutoConfig.from_pretrained(**where_from(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: neither a run, a checkpoint, nor a transformers model here or on the Hub: "
            f"{error}"
        ) from error
    kind = config.model_type
    fills, continues, trained_to_fill = language_model_kinds(config)
    if not (fills or continues):
        raise UserError(f"{name}: architecture '{kind}' is no causal or masked language model")
    if not {"masked": fills, "causal": continues}.get(objective, True):
        raise UserError(
            f"{name} is a {'masked' if fills else 'causal'} language model ({kind}) and cannot be "
            f"scored as a {objective} one; leave --objective out"
        )
    masked = objective == "masked" or (objective == "auto" and trained_to_fill)
    model = _load_model(name, device, masked=masked)
    tokenizer = pretrained_tokenizer(name)
    if masked and tokenizer.mask_id is None:
        raise UserError(f"{name}: its tokenizer has no mask token, so nothing can be masked")
    tied = model.get_output_embeddings() is not None and (
        model.get_output_embeddings().weight is model.get_input_embeddings().weight
    )
    record: dict[str, Any] = {"name": "causal"}
    if masked:
        record = {"name": "masked", "masking": to_mapping(MaskingConfig())}
    backbone, made = Backbone(model), from_record(record, order=FORWARD, tokenizer=tokenizer)
    made.check(backbone)
    return Subject(
        name=name,
        model=model,
        backbone=backbone,
        tokenizer=tokenizer,
        objective=made,
        head="tied" if tied else "untied",
        context=_context(config, masked=masked),
        record={},
    )


def _context(config: Any, *, masked: bool) -> int:
    """Tokens that fit a window of a model from elsewhere."""
    longest = longest_input(config)
    if longest is None:
        return 1024
    return longest - 2 if masked else longest  # a masked model reads one token at either end
