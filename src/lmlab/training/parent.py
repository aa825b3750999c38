"""Child runs: a model that starts from the weights of another, its parent.

Notable: a parent counts by the content of its files, not by its place, so a child's identity is the
same wherever the parent lies. A run folder stands for its newest checkpoint at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lmlab.models  # noqa: F401 - registers lmlab's own classes
from lmlab.config import digest
from lmlab.config.objective import reads_as
from lmlab.config.training import ParentConfig, TrainConfig
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.windows import key
from lmlab.durable import file_sha256
from lmlab.errors import UserError
from lmlab.models.behaviour import behaviour, input_length
from lmlab.models.files import load_pretrained
from lmlab.models.head import is_tied, with_one_more_token, with_untied_head
from lmlab.models.towers import TwoTower, with_probes
from lmlab.progress import say
from lmlab.run_folders.checkpoint import read_json_file, usable_checkpoint

_PROBE_KEY = 0x9E0BE


@dataclass(frozen=True)
class Parent:
    """Where a parent's weights are."""

    name: str
    folder: Path | None
    """None for a model of the Hub."""
    record: dict[str, Any]
    """The checkpoint's `lmlab.json`; empty for a model from elsewhere."""

    @cached_property
    def identity(self) -> str:
        """Digest of the content of its weights and configuration; of a Hub model, of its name."""
        if self.folder is None:
            return digest(["hub", self.name])
        files = [*sorted(self.folder.glob("*.safetensors")), self.folder / "config.json"]
        kept = [f for f in files if f.is_file() and f.name != "optimizer.safetensors"]
        return digest([[file.name, file_sha256(file)] for file in kept])


def find_parent(config: ParentConfig) -> Parent | None:
    """The parent that `config` names; None without one.

    Raises `UserError` for a run without a usable checkpoint, a damaged one, or one tower of two.
    """
    name = config.path
    if name is None:
        return None
    folder = usable_checkpoint(Path(name))
    run, at, tower = name.rpartition("@")
    if at and tower in ("1", "2") and not folder.exists() and Path(run).is_dir():
        raise UserError(f"`parent.path` {name}: a tower alone is no parent; give {run}")
    if not folder.is_dir():
        return Parent(name, None, {})
    own = (folder / "lmlab.json").is_file()
    return Parent(str(folder), folder, read_json_file(folder / "lmlab.json") if own else {})


def check_reading(config: TrainConfig, model: Any, name: str) -> None:
    """`UserError` unless the objective reads text as the parent's towers do, where it has any."""
    if not isinstance(model, TwoTower):
        if config.is_probe:
            raise UserError(f"{name} has no towers to be probed; train some: `objective` towers")
    elif model.config.cloze != config.is_cloze:
        other = "probe-cloze" if model.config.cloze else "probe or probe-masked"
        raise UserError(f"`objective` {config.objective}: probes of {name} are {other}")


def child_model(config: TrainConfig, parent: Parent, tokenizer: TextTokenizer) -> Any:
    """A float32 model with the parent's weights, untied and frozen as `config` asks.

    An output bias that lmlab gave the parent is not part of its weights. A parent without a row for
    the mask token that the objective needs gets one (`with_one_more_token`).

    Raises `UserError` where it cannot be loaded, does not fit the store's tokenizer or the context,
    or nothing would be trained.
    """
    name = parent.name
    model: Any = load_pretrained(name, masked=config.is_masked)
    check_reading(config, model, name)
    rows = len(model.get_input_embeddings().weight)
    if rows == tokenizer.vocabulary - 1 == tokenizer.mask_id:
        model = with_one_more_token(model)
    check_fit(model, parent, config, tokenizer)
    if len(model.get_input_embeddings().weight) > rows:
        say(f"{name} has no mask token: its embedding of {rows:,} rows gets one more, their mean")
    if config.is_probe:
        return with_probes(model, seed=key(config.seed, _PROBE_KEY))
    tied = is_tied(model)
    if config.parent.untie:
        if not tied:
            raise UserError(f"`parent.untie`: {name} is not tied")
        model = with_untied_head(model, model.get_output_embeddings().weight.detach())
    elif tied and config.parent.freeze_body:
        raise UserError(
            "`parent.freeze_body`: a tied head is the input embedding; add `parent.untie`"
        )
    if config.parent.freeze_body:
        model.requires_grad_(False)
        model.get_output_embeddings().requires_grad_(True)
    return model


def check_fit(model: Any, parent: Parent, config: TrainConfig, tokenizer: TextTokenizer) -> None:
    """`UserError` unless a parent's model fits the store's tokenizer and the context."""
    name, wanted = parent.name, parent.record.get("tokenizer_fingerprint")
    if wanted not in (None, tokenizer.fingerprint):
        raise UserError(
            f"{config.store} was made with another tokenizer than {name}. Prepare the text with "
            f"it: lmlab prepare --tokenizer.kind pretrained --tokenizer.name {name}"
        )
    rows = len(model.get_input_embeddings().weight)
    if rows < tokenizer.vocabulary:
        raise UserError(
            f"{config.store} has a vocabulary of {tokenizer.vocabulary:,}, but {name} embeds only "
            f"{rows:,} tokens; prepare the text with the parent's own tokenizer"
        )
    check_model(model, name, config)


def check_model(model: Any, name: str, config: TrainConfig) -> None:
    """`UserError` unless a model reads text as the objective needs (a causal one must not see what
    it predicts), the same each time, and takes as many positions as `config` needs."""
    tried = behaviour(model)
    if tried.bidirectional and reads_as(config.pair.reading) in ("causal", "mixed"):
        raise UserError(
            f"`objective` {config.objective}: in {name} ({type(model).__name__}) a later token "
            "moves an earlier logit, so it sees what it would have to predict; take another model, "
            "or a masked objective"
        )
    if config.is_masked and not tried.bidirectional:
        raise UserError(
            f"`objective` {config.objective}: in {name} ({type(model).__name__}) no later token "
            "moves an earlier logit, so it cannot fill in masks from both sides; take another "
            "model, or a causal objective"
        )
    length = input_length(model, tried.table)
    if length.tokens is not None and length.tokens < config.positions:
        raise UserError(
            f"`context` {config.context}: {name} takes {length.tokens} positions ({length.basis}), "
            f"and {config.positions} are needed"
        )
