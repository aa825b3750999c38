"""A model as an encoder of text: its body, what it reads, and which position is which characters.

The door for embedding: lmlab's own models as `open_model` opens them (any objective and order),
and any model of transformers that has hidden states, with a language-model head or without one.

Notable:
- lmlab's own causal models read BOS and all tokens of the text in their order (one more than they
  score); masked ones stand between BOS and end. Models from elsewhere read what their tokenizer
  makes of a text, its special tokens included.
- One of two towers (RUN@1, RUN@2) is embedded by its own last states, before any probe or
  fusion, so it needs no probe.
- A fingerprint of weights and tokenizer says which model made an embedding, wherever it lies.

Shapes: n tokens of a text, B batch, T positions of the model's input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from lmlab.config import digest
from lmlab.data.order import reading_order
from lmlab.data.tokenizers import TextTokenizer, pretrained_tokenizer
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, check_tokenizer, open_model, which_tower
from lmlab.models.behaviour import behaviour, input_length
from lmlab.models.files import load_body
from lmlab.models.towers import TowersModel
from lmlab.objectives.base import Objective
from lmlab.run_folders.checkpoint import usable_checkpoint


@dataclass(frozen=True)
class Encoded:
    """One text as a model reads it."""

    ids_T: np.ndarray
    spans_T2: np.ndarray
    """Characters [start, stop) of the text at each position; empty for special tokens."""
    text_T: np.ndarray
    """Which positions are tokens of the text."""


@dataclass(frozen=True)
class Encoder:
    """A model without its head, ready to embed text."""

    name: str
    body: Any
    tokenizer: TextTokenizer
    objective: Objective | None
    """Of lmlab's own models; None for one from elsewhere."""
    limit: int | None
    """Longest input in positions; None without a limit."""
    takes_padding: bool = True
    """Whether texts of several lengths can be read in one batch."""
    tower: int | None = None
    """Which of two towers this is (0 or 1), if one."""

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights, the tokenizer and the way of reading, and which tower it is."""
        hashed = hashlib.sha256()
        for name, tensor in sorted(self.body.state_dict().items()):
            hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            hashed.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        order = None if self.objective is None else self.objective.order
        tower = [] if self.tower is None else [self.tower]
        return digest([hashed.hexdigest(), self.tokenizer.fingerprint, order, *tower])

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """What the model reads of each text, uncut."""
        if self.objective is None:
            return [_as_made(e) for e in self.tokenizer.backend.encode_batch(list(texts))]
        return [
            self._own(ids_n, spans_n2, self.objective)
            for ids_n, spans_n2 in self.tokenizer.encode_with_spans(texts)
        ]

    def _own(self, ids_n: np.ndarray, spans_n2: np.ndarray, objective: Objective) -> Encoded:
        order = reading_order(objective.order, len(ids_n))
        last = [self.tokenizer.end_of_text_id] if objective.reading.ends else []
        empty = np.zeros((1, 2), dtype=np.int64)
        return Encoded(
            np.concatenate([[self.tokenizer.bos_id], ids_n[order], last]).astype(np.int64),
            np.concatenate([empty, spans_n2[order], *[empty for _ in last]]),
            np.array([False, *[True] * len(ids_n), *[False for _ in last]]),
        )


def open_encoder(path_or_hub_id: str | Path, *, device: str = "cpu") -> Encoder:
    """Opens a run folder, a checkpoint, a saved transformers folder or a model of the Hub; float32,
    evaluation mode, weights from safetensors only.

    Raises `UserError` where it cannot be found or loaded.
    """
    place, tower = which_tower(Path(path_or_hub_id))
    name = str(path_or_hub_id)
    if (usable_checkpoint(place) / "lmlab.json").is_file():
        whole = encoder_of(open_model(place, device=device))
        return whole if tower is None else _of_tower(whole, name, tower)
    body = load_body(name)
    torch.nn.Module.to(body, device)
    body.eval()
    tokenizer = pretrained_tokenizer(name)
    check_tokenizer(name, body, tokenizer)
    tried = behaviour(body)
    limit = input_length(body, tried.table).tokens
    return Encoder(name, body, tokenizer, None, limit, tried.takes_padding)


def encoder_of(lm: LanguageModel) -> Encoder:
    """The encoder of one of lmlab's own models. `UserError` for a model from elsewhere, which
    `open_encoder` opens, or one without a body."""
    if not lm.record:
        raise UserError(f"{lm.name} is no model of lmlab; open it with open_encoder")
    body = getattr(lm.model, "base_model", lm.model)
    if body is lm.model:
        raise UserError(f"{lm.name}: its hidden states cannot be read")
    limit = lm.context + lm.objective.reading.ends
    whole = Encoder(lm.name, body, lm.tokenizer, lm.objective, limit, lm.backbone.takes_padding)
    if isinstance(body, TowersModel) and body.view is not None:
        return _of_tower(whole, lm.name, body.view)
    return whole


class _OneTower(nn.Module):
    """The last states of one tower of two."""

    def __init__(self, towers: TowersModel, tower: int) -> None:
        super().__init__()
        self.both, self.tower = towers, tower

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **unused: Any
    ) -> BaseModelOutput:
        states = self.both.tower_states(input_ids, attention_mask)
        return BaseModelOutput(last_hidden_state=cast(Any, states[self.tower]))


def _of_tower(whole: Encoder, name: str, tower: int) -> Encoder:
    """`UserError` for a model without towers."""
    if not isinstance(whole.body, TowersModel):
        raise UserError(f"{name}: this model has no towers; leave out @{tower + 1}")
    return replace(whole, name=name, body=_OneTower(whole.body, tower).eval(), tower=tower)


def _as_made(encoding: Any) -> Encoded:
    return Encoded(
        np.asarray(encoding.ids, dtype=np.int64),
        np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2),
        np.asarray(encoding.special_tokens_mask) == 0,
    )
