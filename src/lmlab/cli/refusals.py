"""What commands refuse before torch is loaded and a model or a text is read. Imports no torch.

Notable: a refusal here is only earlier than that of what opens the model or the store, which checks
again; what cannot be told without opening a model is left to that, and so are models of the Hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.config.hub import check_folder, is_gguf, where_from
from lmlab.data.store import TokenStore
from lmlab.durable import check_absent
from lmlab.errors import UserError
from lmlab.progress import say
from lmlab.run_folders.checkpoint import checkpoints, read_json_file

if TYPE_CHECKING:
    from lmlab.lm.options import ExportConfig, SampleConfig
    from lmlab.topics.comparing.options import CompareConfig
    from lmlab.topics.encoding.options import PruneConfig, SteerConfig
    from lmlab.topics.scoring.options import EvalConfig

_TOKENIZER_FILES = ("tokenizer*", "*vocab*", "*.model", "*.tiktoken")


_MODELS = ("model", "models", "forward", "backward", "target", "basis", "against")
_STORES = ("store", "other")


def models_of(config: Any) -> list[str]:
    """The models that options name."""
    values = [getattr(config, name, None) for name in _MODELS]
    return [
        each
        for value in values
        for each in (value if isinstance(value, tuple) else (value,))
        if isinstance(each, str)
    ]


def check_options(config: Any, *, any_tokenizer: bool) -> None:
    """`UserError` for a model or a store of a command's options that is not there, and, but for
    `any_tokenizer`, for a store of another tokenizer than a model's."""
    models = models_of(config)
    stores = [getattr(config, name, None) for name in _STORES]
    splits = getattr(config, "splits", (getattr(config, "split", "validation"),))
    check_models(*models)
    for store, needed in zip(stores, (splits, ("validation",)), strict=True):
        check_store(store, *(needed if models else ()))
    for store in () if any_tokenizer else stores:
        check_vocabulary(store, *models)


def check_models(*names: str) -> None:
    """`UserError` for a name that is neither a place here nor written as one of the Hub, and for a
    folder that lacks a file which a transformers model needs."""
    for name in names:
        path = _place(name)
        if path is None or is_gguf(name):
            where_from(name)
        elif not path.is_dir():
            raise UserError(f"{name} is a file; give the folder of a model, or a .gguf file")
        elif not ((path / "checkpoints").is_dir() or (path / "lmlab.json").is_file()):
            _check_files(name, path)


def _check_files(name: str, path: Path) -> None:
    check_folder(name, path)
    if not any(path.glob("*.safetensors*")):
        pickled = any(path.glob("*.bin"))
        raise UserError(
            f"{name}: no weights as safetensors"
            + (
                ". lmlab reads no pickle, such as its .bin file, since one can run code; if you "
                "trust it, convert it with transformers' save_pretrained and open that folder"
                if pickled
                else "; the model may be copied in part"
            )
        )
    if not any(file for pattern in _TOKENIZER_FILES for file in path.glob(pattern)):
        raise UserError(
            f"{name}: no file of a tokenizer; save the one that the model was trained with beside "
            "it (save_pretrained)"
        )


def check_store(path: Path | None, *splits: str) -> None:
    """`UserError` where there is no store at `path` (None: none is asked for), or none of its
    `splits`."""
    if path is None:
        return
    store = TokenStore(path)
    for split in splits:
        store.split(split)


def check_vocabulary(path: Path | None, *names: str) -> None:
    """`UserError` where the store at `path` was made with another tokenizer than a model's."""
    if path is None:
        return
    store = TokenStore(path)
    for name in names:
        folder = _folder(name)
        if folder is not None and _other_tokenizer(folder, store):
            raise store.made_with_another(name, folder)


def _other_tokenizer(folder: Path, store: TokenStore) -> bool:
    made_with = store.manifest["tokenizer_fingerprint"]
    if (folder / "lmlab.json").is_file():
        record = read_json_file(folder / "lmlab.json")
        return record.get("tokenizer_fingerprint", made_with) != made_with
    from tokenizers import Tokenizer

    files = [place / "tokenizer.json" for place in (folder, store.path / "tokenizer")]
    if not all(file.is_file() for file in files):
        return False
    try:
        of_model, of_store = (Tokenizer.from_file(str(f)).get_vocab(False) for f in files)
    except Exception:  # `tokenizers` has no class of its own; who opens the model names the damage
        return False
    if of_model == of_store:
        return False
    if 2 * len(of_model.items() & of_store.items()) < len(of_model):
        return True
    from lmlab.data.tokenizers import pretrained_tokenizer  # slower; decides between near ones

    return pretrained_tokenizer(str(folder)).fingerprint != made_with


def check_untie(name: str, *, untie: bool, why: str) -> None:
    """`UserError` for a tied model without `--untie` (`why` it takes that), and for an untied one
    with it; only where the model's files say which it is."""
    folder = _folder(name)
    tied = None if folder is None else _is_tied(folder)
    if tied and not untie:
        raise UserError(
            f"{name} is tied: its output embedding is its input embedding. {why}; where that is "
            "wanted: `untie`"
        )
    if tied is False and untie:
        raise UserError(f"`untie`: {name} is not tied; leave it out")


def _is_tied(folder: Path) -> bool | None:
    if (folder / "lmlab.json").is_file():
        head = str(read_json_file(folder / "lmlab.json").get("head", ""))
        # of a tied one, which is small, the model's own door also says how it would grow
        return False if head.startswith("untied") else None
    if not (folder / "config.json").is_file():
        return None
    described = read_json_file(folder / "config.json")
    tied = described.get("tie_word_embeddings")
    # of nested configurations which one holds is for transformers to say, and a head of its own in
    # the file may stay one
    if not isinstance(tied, bool) or "text_config" in described or (tied and _has_head(folder)):
        return None
    return tied


def _has_head(folder: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            return "lm_head.weight" in file.keys()  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError):  # in several files, or damaged: the model's own door tells
        return True


def check_steering(config: SteerConfig) -> None:
    """`UserError` for a place that is taken, and for a tied model that is not to be untied."""
    if config.out is not None:
        check_absent(config.out)
    if config.method != "bias":
        check_untie(
            config.model,
            untie=config.untie,
            why="An edit of it would change what the model reads, so it gets a head of its own",
        )


def check_pruning(config: PruneConfig) -> None:
    """As `check_steering`, where a model is to be written."""
    if config.share is None or config.out is None:
        return
    check_absent(config.out)
    check_untie(
        config.model,
        untie=config.untie,
        why="That stays, so a smaller head is added to it, and the model gets larger",
    )


def check_head(config: EvalConfig | ExportConfig) -> None:
    """`UserError` for a store that no head is fitted to."""
    if config.store is not None and config.head != "calibrated":
        raise UserError("`store` is what a calibrated head is fitted to; add `head` calibrated")


def check_compared(config: CompareConfig) -> None:
    """`UserError` for kinds of models that are none, and for models that are not there."""
    from lmlab.topics.comparing.options import check, parse_kinds

    check(config)
    check_models(*(model for runs in parse_kinds(config.kinds).values() for model in runs))
    check_store(config.store, config.split)


def check_export(config: ExportConfig) -> None:
    """`UserError` for a place that is taken, and as `check_head`."""
    check_absent(config.out)
    check_head(config)


def check_continues(config: SampleConfig) -> None:
    """`UserError` for a masked model of lmlab, which writes no text."""
    folder = _folder(config.model)
    if folder is not None and (folder / "lmlab.json").is_file():
        objective: Any = read_json_file(folder / "lmlab.json").get("objective", {})
        if "masking" in objective and "mixed" not in objective:  # a mixed model is causal too
            raise UserError(f"{config.model} is a masked model; text is sampled from causal ones")


def opening(*names: str) -> None:
    """Says that models are about to be opened, which takes seconds (torch, weights, a trial)."""
    say(f"opening {', '.join(names)}")


def _place(name: str) -> Path | None:
    """Where a model lies, `@1` and `@2` of a tower left out; None where it is not here."""
    path = Path(name)
    of_tower = path.with_name(re.sub("@[12]$", "", path.name) or path.name)
    return next((place for place in (path, of_tower) if place.exists()), None)


def _folder(name: str) -> Path | None:
    """The folder with a model's files: of a run its newest checkpoint; None where there is none."""
    path = _place(name)
    if path is not None and (path / "checkpoints").is_dir():
        return next(reversed(checkpoints(path)), None)
    return path
