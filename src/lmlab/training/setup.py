"""What a run starts from: its settings decided for this machine, identity, windows, model.

Notable:
- A run's identity is the digest of all that decides its result: settings, the store's content, and
  for a child run the content of its parent's weights, wherever they lie.
- The model is fresh from the seed, or a parent's; the output bias is the log-unigram distribution
  of the training split, a parent's, or on resume the checkpoint's.

Shapes: V vocabulary.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from lmlab.config import digest
from lmlab.config.training import TrainConfig
from lmlab.data.labelled_store import LabelledBatches, LabelledSplit, read_labels
from lmlab.data.mixture import MixedWindows, training_sources
from lmlab.data.order import FORWARD
from lmlab.data.splits import TRAIN
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.unigram import log_unigram, token_counts
from lmlab.data.windows import TrainingWindows, key
from lmlab.models.build import build_config, build_model, build_towers_config
from lmlab.models.head import attach_bias, read_bias
from lmlab.objectives import from_record
from lmlab.objectives.added import source_of
from lmlab.objectives.base import Objective
from lmlab.progress import say
from lmlab.run_folders.checkpoint import Newest
from lmlab.run_folders.words import check_words, word_marks
from lmlab.training.classifier import classification_record, classifier_of
from lmlab.training.hardware import available_cores, resolve_device, resolve_dtype
from lmlab.training.parent import Parent, check_model, child_model, find_parent


def resolve(config: TrainConfig) -> TrainConfig:
    """`config` with its length in steps, and device, dtype, threads and defaults decided for this
    machine."""
    if config.epochs is not None:
        split = TokenStore(config.store).split(TRAIN)
        texts = len(split.documents_M3)
        rows = texts if config.is_classification else split.tokens // config.context
        tokens = round(config.epochs * rows * config.context)
        batch = config.batch or config.recipe_batch(tokens=tokens)
        steps = max(1, math.ceil(config.epochs * rows / batch))
        config = replace(config, steps=steps, batch=batch, epochs=None)
    if config.words is not None:
        check_words(config, TokenStore(config.store).split(TRAIN))
    device = resolve_device(config.device)
    return config.resolved(
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        threads=config.threads or available_cores(),
    )


@dataclass(frozen=True)
class ResolvedRun:
    """A run with nothing left to decide: `resolve_run` makes it, `train` carries it out."""

    config: TrainConfig
    """Resolved for this machine."""
    parent: Parent | None
    deciding: dict[str, Any]
    """All that decides the result, as plain values."""
    word_steps: frozenset[int] = frozenset()
    """The updates after which `checkpoints.words` asks for a checkpoint."""

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after `step` updates."""
        return step in self.word_steps or self.config.checkpoints.due(step, self.config.steps)

    @cached_property
    def identity(self) -> str:
        """The digest of all that decides the result."""
        return digest(self.deciding)

    @property
    def name(self) -> str:
        """What its folder is called by default."""
        return run_name(self.config, self.identity)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.config.out or Path("runs") / self.name

    @property
    def tokens(self) -> int:
        """How many it trains on."""
        return planned_tokens(self.config)


def resolve_run(request: TrainConfig, store: TokenStore) -> ResolvedRun:
    """The run that is asked for, resolved and identified. Raises `UserError` as `find_parent`."""
    config = resolve(request)
    parent = find_parent(config.parent)
    marks = word_marks(config, store.split(TRAIN)) if config.checkpoints.words else []
    return ResolvedRun(
        config, parent, deciding_values(config, store, parent),
        word_steps=frozenset(mark.step for mark in marks),
    )  # fmt: skip


def planned_tokens(config: TrainConfig) -> int:
    """Tokens that a run of `config` trains on."""
    return config.steps * config.step_windows * config.context


def run_name(config: TrainConfig, identity: str) -> str:
    """What the folder of a run is called: what it is, its seed, and six letters of its identity,
    such as gpt2-micro-backward-s1-35a3f5."""
    parts = [config.model_name]
    if config.objective != "causal":
        parts.append(config.objective)
    if config.order != FORWARD:
        parts.append(config.order)
    described = "-".join([*parts, f"s{config.seed}", identity[:6]])
    return re.sub(r"[^A-Za-z0-9.-]+", "-", described)


def deciding_values(
    config: TrainConfig, store: TokenStore, parent: Parent | None
) -> dict[str, Any]:
    """All that decides a resolved run's result, as plain values.

    A configuration taken from a folder or the Hub counts by its content, not by its place. Where
    sources are sampled, so do their borders, which the store's fingerprint does not hold.
    """
    values = config.identity_values(
        store_fingerprint=store.fingerprint, parent=parent.identity if parent else None
    )
    if config.source_temperature is not None:
        values["source_tokens"] = [s.tokens for s in training_sources(store.split(TRAIN))]
    if config.model.path is not None:
        backbone = json.loads(backbone_config(config, store).to_json_string(use_diff=False))
        for name in ("_name_or_path", "transformers_version"):
            backbone.pop(name, None)
        values["model"]["path"] = digest(backbone)
    if source := source_of(config.pair):
        values["objective_source"] = source
    return values


def backbone_config(config: TrainConfig, store: TokenStore) -> PreTrainedConfig:
    """The transformers configuration of a run's model. Raises `UserError` as `build_config`."""
    of_store: dict[str, int] = {
        "vocabulary": training_tokenizer(config, store).vocabulary,
        "context": config.positions,
        "bos_id": store.bos_id,
        "end_of_text_id": store.tokenizer.end_of_text_id,
    }
    if config.is_towers:
        return build_towers_config(config.model, config.towers, cloze=config.is_cloze, **of_store)
    return build_config(config.model, **of_store)


def training_tokenizer(config: TrainConfig, store: TokenStore) -> TextTokenizer:
    """The store's tokenizer, with a mask token where the objective needs one."""
    masks = config.is_masked or config.is_mixed
    return store.tokenizer.with_mask() if masks else store.tokenizer


def training_objective(run: ResolvedRun, store: TokenStore, tokenizer: TextTokenizer) -> Objective:
    """The objective of a run. Raises `UserError` as `classification_record`."""
    config, record = run.config, run.config.objective_record()
    if config.is_classification:
        assert run.parent is not None  # TrainConfig sees to it
        record = classification_record(config, run.parent, read_labels(store))
    return from_record(record, order=config.order, tokenizer=tokenizer)


def training_batches(config: TrainConfig, store: TokenStore) -> TrainingWindows | LabelledBatches:
    """What makes the batch of each step: windows of text, or labelled texts."""
    if not config.is_classification:
        return training_windows(config, store)
    texts = LabelledSplit(store.split(TRAIN), read_labels(store).by_split[TRAIN])
    return LabelledBatches(texts, batch=config.step_windows, seed=config.seed)


def training_windows(config: TrainConfig, store: TokenStore) -> TrainingWindows:
    """The windows that `config` trains on; says the shares where sources are sampled."""
    split, how = store.split(TRAIN), {"batch": config.step_windows, "seed": config.seed}
    if config.source_temperature is None:
        return TrainingWindows(split, config.context, **how)
    mixed = MixedWindows(split, config.context, temperature=config.source_temperature, **how)
    say(f"training windows: {mixed.summary(config.steps)}")
    return mixed


def initial_model(
    run: ResolvedRun, store: TokenStore, tokenizer: TextTokenizer, newest: Newest
) -> Any:
    """The model to start or go on from, with its output bias, on the CPU; of the `newest`
    checkpoint the bias only: its weights are loaded over these.

    Raises `UserError` for a model that cannot be built, or a parent that does not fit.
    """
    config, parent = run.config, run.parent
    if config.is_classification:
        assert parent is not None  # TrainConfig sees to it
        return classifier_of(config, parent, store, tokenizer)
    if parent is None:
        model: Any = build_model(
            backbone_config(config, store), seed=key(config.seed, 0x1217), masked=config.is_masked
        )
        if config.model.path is not None and not config.is_towers:
            check_model(model, f"`model.path` {config.model.path}", config)
    else:
        model = child_model(config, parent, tokenizer)
    if prior := config.output_prior():
        bias_V = _initial_bias(run, store, tokenizer, newest)
        attach_bias(model, bias_V, learnt=prior == "learnt")
    return model


def _initial_bias(
    run: ResolvedRun, store: TokenStore, tokenizer: TextTokenizer, newest: Newest
) -> torch.Tensor:
    """The checkpoint's, else the parent's, else the log-unigram distribution of the text (V)."""
    for folder in (newest.path, run.parent.folder if run.parent else None):
        saved_V = None if folder is None else read_bias(folder)
        if saved_V is not None:
            return saved_V
    return torch.from_numpy(log_unigram(target_counts(run.config, store, tokenizer))).float()


def target_counts(config: TrainConfig, store: TokenStore, tokenizer: TextTokenizer) -> np.ndarray:
    """How often each token (V) of the training split is there to be predicted."""
    counts_V = token_counts(store.split(TRAIN), tokenizer.vocabulary)
    if config.is_masked:
        counts_V[tokenizer.special_ids] = 0
    return counts_V
