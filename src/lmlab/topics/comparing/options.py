"""Options of `lmlab compare`, and how the kinds of models are spelled. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options
from lmlab.config.objective import pair_of
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import checkpoints, read_json_file


@dataclass(frozen=True)
class CompareConfig(Options):
    """Compare models on the same text, on zero-shot tasks, or both: differences with intervals, a
    ranking, and which documents and tokens make the difference."""

    kinds: tuple[str, ...]
    """Run folder, checkpoint, saved transformers model, or Hub name, each; or NAME=RUN1,RUN2 for
    runs that differ by their seed only. With 3 runs or more a kind, the intervals speak of other
    seeds too. Runs of finetune need neither text nor tasks."""
    text: tuple[str, ...] = ()
    """Text that none of them has seen: files, folders, patterns (novels/*.txt) or hf:NAME."""
    separator: str | None = None
    """Cut .txt files of `text` into documents at this string."""
    store: Path | None = None
    """In place of `text`: a split of a token store. Models of other tokenizers read its text."""
    split: Literal["train", "validation", "test"] = "validation"
    """Of `store`."""
    tasks: tuple[str, ...] = ()
    """Files, folders or KIND=SOURCE, as for evaluate; paired by item."""
    limit: int | None = None
    """Ask a fixed sample of this many items a task (of each set, where sets count
    the same)."""
    context: int | None = None
    """Window in tokens, the same for all (default: the longest that all take, at most 1024)."""
    windows: int | None = None
    """A random sample of this many windows (default: all); for models of one tokenizer."""
    batch: int | None = None
    """Windows or sequences at a time; does not change the result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json and the page (default: below lab/results, by the digest of these
    options)."""


def parse_kinds(kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The models of each kind, by its name: MODEL, or NAME=MODEL,MODEL.

    A text with "=" that is a place here is a model. Raises `UserError` for fewer than two kinds, a
    name or a model twice, and a kind without models.
    """
    parsed: dict[str, tuple[str, ...]] = {}
    for kind in kinds:
        name, is_named, models = kind.partition("=")
        if not is_named or Path(kind).exists():
            name, runs = kind, (kind,)
        else:
            runs = tuple(models.split(","))
            if not name or not all(runs):
                raise UserError(f"{kind!r}: give a kind as NAME=MODEL,MODEL, without blanks")
        if name in parsed:
            raise UserError(f"{name} twice: runs of one kind are NAME=RUN1,RUN2")
        parsed[name] = runs
    check_kinds(parsed)
    return parsed


def check_kinds(kinds: Mapping[str, Sequence[str]]) -> None:
    """`UserError` for fewer than two kinds, and for a model twice."""
    every = [model for runs in kinds.values() for model in runs]
    twice = sorted({model for model in every if every.count(model) > 1})
    if twice:
        raise UserError(f"{', '.join(twice)} twice: a model is compared with others, once")
    if len(kinds) < 2 or not all(kinds.values()):
        raise UserError("give at least two models, or kinds of them (NAME=RUN1,RUN2), to compare")


def check(config: CompareConfig) -> None:
    """`UserError` for kinds that `parse_kinds` refuses, and nothing or too much to compare on."""
    kinds = parse_kinds(config.kinds)
    check_asked(kinds, text=config.text, store=config.store, tasks=config.tasks)


def check_asked(
    kinds: Mapping[str, Sequence[str]],
    *,
    text: Sequence[str],
    store: object,
    tasks: Sequence[str],
) -> None:
    """`UserError` for nothing to compare language models on, for something to compare classifiers
    on, which have their own texts, and for a text beside a store."""
    if text and store is not None:
        raise UserError("`text` and `store`: give one of them")
    asked = bool(text or tasks) or store is not None
    if are_classifiers(kinds) == asked:
        raise UserError(
            "classifiers are compared on the texts of their own task; leave out `text`, `store` "
            "and `tasks`"
            if asked
            else "give `text` or `store` to compare models on, or `tasks`"
        )


def are_classifiers(kinds: Mapping[str, Sequence[str]]) -> bool:
    """Whether all models are classifiers, such as runs of `lmlab finetune`."""
    return all(_is_classifier(Path(model)) for runs in kinds.values() for model in runs)


def _is_classifier(path: Path) -> bool:
    if (path / "checkpoints").is_dir():
        path = next(reversed(checkpoints(path)), path)
    if not (path / "lmlab.json").is_file():
        return False
    name = read_json_file(path / "lmlab.json").get("objective", {}).get("name")
    return pair_of(name).criterion == "labels"
