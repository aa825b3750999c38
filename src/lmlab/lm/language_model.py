"""The only door to a model: a checkpoint, a run, a folder or a Hub name becomes a `LanguageModel`.

It has its weights, tokenizer, objective, order, head and context, and is ready to analyse. For
lmlab's own checkpoints all of that stands in `lmlab.json`; a model from elsewhere is tried out
(`models.behaviour`): one whose later tokens move no earlier logit is causal, any other masked.

Notable:
- Weights are read as safetensors only, and no code that comes with a model is run.
- Of two towers, RUN is the joint model, RUN@1 and RUN@2 are the towers alone: the probes' run where
  the fusion gives them no distribution of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig

import lmlab.models  # noqa: F401 - registers lmlab's own classes
from lmlab.config.hub import check_folder, where_from
from lmlab.config.objective import MaskingConfig, pair_of
from lmlab.data.order import FORWARD
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer, load_tokenizer, pretrained_tokenizer
from lmlab.data.tokenizers import from_transformers as convert_tokenizer
from lmlab.data.windows import EvaluationWindows, evaluation_windows
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.behaviour import ASSUMED_LENGTH, InputLength, input_length
from lmlab.models.files import language_model_kinds, load_pretrained
from lmlab.models.head import attach_bias, is_tied, read_bias
from lmlab.models.towers import TwoTower
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.masked import Masked
from lmlab.objectives.mixed import Mixed
from lmlab.progress import say
from lmlab.run_folders.checkpoint import read_json_file, usable_checkpoint

RECORD_FORMAT = "lmlab model 1"
_LONGEST_BY_DEFAULT = 1024


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to analyse."""

    name: str
    """Path or Hub name it was opened from."""
    model: Any
    """The model of transformers, as it was opened."""
    backbone: Backbone
    """Its body and head, by names that are the same for all architectures."""
    tokenizer: TextTokenizer
    objective: Objective
    """How it was trained, and so how it scores text."""
    head: str
    """"tied" or "untied", and what output bias lmlab gave it, if any."""
    context: int
    """Longest window in tokens (BOS not counted); what is assumed where nothing bounds it."""
    record: dict[str, Any]
    """The checkpoint's `lmlab.json`; empty for a model from elsewhere."""
    bounded: bool = True
    """Whether a longer window than `context` does not fit."""

    def __repr__(self) -> str:
        """A line; the modules of the network are left to `model`."""
        return (
            f"LanguageModel({self.name!r}, {type(self.model).__name__}, order={self.order!r}, "
            f"head={self.head!r}, context={self.context})"
        )

    @property
    def order(self) -> str:
        """ "forward", "backward", or the name of a permutation of the window."""
        return self.objective.order

    @property
    def conditions(self) -> str:
        """What each token is scored from, and the token that windows begin with."""
        return (
            f"{self.objective.reading.conditions}; windows begin with {self.tokenizer.begins_with}"
        )

    @cached_property
    def unused_rows(self) -> np.ndarray:
        """Rows of the output embedding that are no token of the tokenizer (int64), such as those
        that pad the vocabulary to a round number."""
        weight_VD = getattr(self.model.get_output_embeddings(), "weight", None)
        rows = len(self.backbone.embedding_VD if weight_VD is None else weight_VD)
        return np.setdiff1d(np.arange(rows), self.tokenizer.ids)

    def window(self, context: int | None) -> int:
        """Tokens of a window: `context`, else the longest that fits, at most 1024.

        Raises `UserError` where it does not fit.
        """
        if context is not None and context > self.context and self.bounded:
            raise UserError(
                f"`context` {context}: {self.name} takes windows of at most {self.context} tokens"
            )
        return context or min(self.context, _LONGEST_BY_DEFAULT)

    def windows(
        self,
        store: TokenStore,
        split: str,
        *,
        context: int | None = None,
        max_windows: int | None = None,
        seed: int = 0,
    ) -> EvaluationWindows:
        """The evaluation windows of a split that fit the model (`window`), or a fixed random sample
        of `max_windows` of them.

        Raises `UserError` if the store was made with another tokenizer, or for a context that the
        model cannot take.
        """
        self.check_store(store)
        return evaluation_windows(
            store.split(split), self.window(context), max_windows=max_windows, seed=seed
        )

    def check_store(self, store: TokenStore) -> None:
        """`UserError` unless `store` was made with this model's tokenizer."""
        made_with = store.manifest["tokenizer_fingerprint"]
        if made_with != self.tokenizer.fingerprint:
            raise store.made_with_another(self.name, self.model.name_or_path)


def open_model(
    path_or_hub_id: str | Path,
    *,
    device: str = "cpu",
    raw_head: bool = False,
    objective: Literal["auto", "causal", "masked"] = "auto",
) -> LanguageModel:
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
        lm = _own(path, str(path_or_hub_id), tower, device=device, raw_head=raw_head)
        reading = lm.objective.reading
        if objective == "masked" and isinstance(reading, Mixed):
            return replace(lm, objective=replace(lm.objective, reading=reading.as_masked()))
        reads = "causal" if reading.autoregressive else "masked"
        if objective not in ("auto", reads):
            raise UserError(
                f"{path_or_hub_id} is a {reads} model of lmlab and cannot be scored as a "
                f"{objective} one; leave `objective` out"
            )
        return lm
    return _foreign(str(path_or_hub_id), device=device, objective=objective)


def plain_objective(lm: LanguageModel) -> Objective:
    """The model's objective with cross-entropy, for a head that is no longer the embedding."""
    return replace(lm.objective, criterion=FullCrossEntropy())


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


def _own(path: Path, name: str, tower: int | None, *, device: str, raw_head: bool) -> LanguageModel:
    record = read_json_file(path / "lmlab.json")
    needed = {"tokenizer_fingerprint", "objective", "order", "head", "context"}
    if record.get("format") != RECORD_FORMAT or not needed <= record.keys():
        raise UserError(f"{path / 'lmlab.json'}: not the record of an lmlab model")
    pair = pair_of(record["objective"].get("name"))
    if pair.criterion == "labels":
        raise UserError(f"{name} is a classifier of texts; it gives tokens no probability")
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != record["tokenizer_fingerprint"]:
        raise UserError(f"{path}: the tokenizer is not the one this model was trained with")
    model = _load_model(str(path), device, masked=pair.reading == "masked")
    objective = from_record(record["objective"], order=record["order"], tokenizer=tokenizer)
    if isinstance(model, TwoTower):
        objective, model.view = replace(objective, criterion=FullCrossEntropy()), tower
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
    return LanguageModel(
        name=name,
        model=model,
        backbone=Backbone(model),
        tokenizer=tokenizer,
        objective=objective,
        head=head if tower is None else f"of tower {tower + 1}",
        context=record["context"],
        record=record,
    )


def _foreign(name: str, *, device: str, objective: str) -> LanguageModel:
    place = where_from(name)
    if Path(name).is_dir():
        check_folder(name, Path(name))
    try:
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name}: neither a run, a checkpoint, nor a transformers model here or on the Hub: "
            f"{error}"
        ) from error
    if not any(language_model_kinds(config)):
        raise UserError(
            f"{name}: architecture '{config.model_type}' is no causal or masked language model"
        )
    tokenizer = pretrained_tokenizer(name)
    return _ready(name, _read_as(name, config, objective, device), tokenizer)


def from_transformers(
    model: Any, tokenizer: Any, *, objective: Literal["auto", "causal", "masked"] = "auto"
) -> LanguageModel:
    """A model object of transformers with its tokenizer, ready to analyse; it is read where it
    lies, and put into evaluation mode.

    Raises `UserError` for weights that are not float32, a model that is neither causal nor masked
    or not `objective`, or a tokenizer that does not fit.
    """
    name = model.name_or_path or type(model).__name__
    others = {str(p.dtype) for p in model.parameters() if p.dtype != torch.float32}
    if others:
        raise UserError(
            f"{name}: weights in {', '.join(sorted(others))}; analyses are in float32: give "
            "model.float()"
        )
    backbone = Backbone(model.eval())
    _check_reading(name, backbone, model.config, objective)
    return _ready(name, backbone, convert_tokenizer(name, tokenizer))


def _ready(name: str, backbone: Backbone, tokenizer: TextTokenizer) -> LanguageModel:
    """A model from elsewhere with its tokenizer, after it was tried out."""
    masked = backbone.bidirectional
    check_tokenizer(name, backbone.model, tokenizer)
    if masked and tokenizer.mask_id is None:
        raise UserError(f"{name}: its tokenizer has no mask token, so nothing can be masked")
    reading = (
        Masked(tokenizer=tokenizer, settings=MaskingConfig())
        if masked
        else Causal(order=FORWARD, bos_id=tokenizer.bos_id)
    )
    length = input_length(backbone.model, backbone.behaviour.table)
    return LanguageModel(
        name=name,
        model=backbone.model,
        backbone=backbone,
        tokenizer=tokenizer,
        objective=Objective(reading, FullCrossEntropy()),
        head="tied" if is_tied(backbone.model) else "untied",
        context=_context(name, length, masked=masked),
        record={},
        bounded=length.tokens is not None,
    )


def _read_as(name: str, config: Any, objective: str, device: str) -> Backbone:
    """The model as what it is, causal or masked: it is tried out.

    Raises `UserError` where it is neither, not `objective`, or not repeatable.
    """
    fills, continues = language_model_kinds(config)
    # which of the two to load first is a guess that spares a second load
    masked = fills and not (continues and getattr(config, "is_decoder", True))
    backbone = Backbone(_load_model(name, device, masked=masked))
    bidirectional = backbone.bidirectional
    if bidirectional != masked and (fills if bidirectional else continues):
        backbone = Backbone(_load_model(name, device, masked=bidirectional))
    _check_reading(name, backbone, config, objective)
    return backbone


def _check_reading(name: str, backbone: Backbone, config: Any, objective: str) -> None:
    """`UserError` where the model is neither causal nor masked, not `objective`, or not
    repeatable."""
    kind, masked = config.model_type, backbone.bidirectional
    fills, continues = language_model_kinds(config)
    class_ = type(backbone.model).__name__
    if objective not in ("auto", "masked" if masked else "causal"):
        raise UserError(
            f"{name} is a {'masked' if masked else 'causal'} language model ({kind}: a later "
            f"token {'moves' if masked else 'does not move'} an earlier logit) and cannot be "
            f"scored as a {objective} one; leave `objective` out"
        )
    if masked and not fills:
        raise UserError(
            f"{name}: a later token moves an earlier logit, so {class_} sees what it would have "
            f"to predict, and '{kind}' has no masked language model; lmlab scores causal and "
            "masked models"
        )
    if not (masked or continues):
        raise UserError(
            f"{name}: in {class_} no later token moves an earlier logit, so it does not fill "
            f"in masks from both sides, and '{kind}' has no causal language model"
        )
    if not backbone.behaviour.repeatable:
        raise UserError(
            f"{name}: {class_} gives other logits when it reads the same text again (it draws "
            "random numbers), so no score of it could be repeated"
        )


def check_tokenizer(name: str, model: Any, tokenizer: TextTokenizer) -> None:
    """`UserError` where the tokenizer has ids that the model does not embed."""
    rows = len(model.get_input_embeddings().weight)
    if tokenizer.vocabulary > rows:
        beyond = tokenizer.backend.id_to_token(tokenizer.vocabulary - 1)
        raise UserError(
            f"{name}: the tokenizer has {tokenizer.vocabulary:,} ids, the model embeds {rows:,} "
            f"(the last id is {beyond!r}). Take the tokenizer that the model was trained with, or "
            "give the model a row for each id: model.resize_token_embeddings"
            f"({tokenizer.vocabulary}) in transformers"
        )


def _context(name: str, length: InputLength, *, masked: bool) -> int:
    """Tokens that fit a window of a model from elsewhere; says so where that is assumed."""
    if length.tokens is None:
        say(
            f"{name}: nothing bounds the length of its input ({length.basis}); windows of "
            f"{ASSUMED_LENGTH:,} tokens are assumed, and `context` may ask for longer ones"
        )
        return ASSUMED_LENGTH
    fits = length.tokens - 2 if masked else length.tokens  # a masked model reads an id at each end
    if fits < 1:
        raise UserError(f"{name}: its input is at most {length.tokens} tokens ({length.basis})")
    return fits
