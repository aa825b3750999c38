"""Configuration of zero-shot evaluation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lmlab.config.numbers import Options
from lmlab.errors import UserError
from lmlab.studies.options import OfModel


@dataclass(frozen=True)
class EvalConfig(Options):
    """Zero-shot tasks, with intervals: those named by `tasks`, or with `suite` babylm all of that
    community, from the folder `data`. Interrupted, a suite goes on with the same command."""

    model: str
    """Run folder, checkpoint, saved transformers model, or Hub name."""
    tasks: tuple[str, ...] = ()
    """Files and folders whose form tells the task (BLiMP, COMPS, Zorro, ...), or KIND=SOURCE: the
    kind of task, and a file, a folder or hf:NAME[:CONFIG]. Another name is a task, group or tag of
    lm-eval (needs the extra `eval`)."""
    suite: Literal["babylm"] | None = None
    """All tasks that `data` has: zero-shot, reading times, ages of acquisition; over the
    checkpoints of a run too. Writes the file of predictions."""
    data: Path | None = None
    """Folder of the suite: BabyLM's evaluation_data, or any folder with files of its forms."""
    fast: bool = False
    """Of a suite: the fast data where there is such, and at most 100 items of each set."""
    include: Path | None = None
    """Folder with YAML files of lm-eval tasks of your own."""
    limit: int | None = None
    """Ask a fixed sample of this many items a task (of each of BLiMP's sets), for a quick look; of
    lm-eval's tasks the first so many."""
    head: Literal["own", "raw", "calibrated"] = "own"
    """raw leaves out the output bias that lmlab gave the model (headless: embeddings alone);
    calibrated fits two scalars on the validation split of `store`."""
    store: Path | None = None
    objective: Literal["auto", "causal", "masked"] = "auto"
    """Insist on one way to read the model (default: as it was trained)."""
    batch: int | None = None
    """Sequences at a time; does not change the result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Folder of results.json (default: below lab/results, by the digest of these options)."""

    def __post_init__(self) -> None:
        if bool(self.tasks) == (self.suite is not None):
            raise UserError("give `tasks`, or `suite` babylm with `data`: one of them")
        if (self.data is None) != (self.suite is None):
            raise UserError("`suite` and `data` go together: `suite` babylm `data` FOLDER")
        if self.suite is None and self.fast:
            raise UserError("`fast` is of a `suite`; of `tasks` give a `limit`")
        of_tasks = [name for name in ("include", "limit", "store") if getattr(self, name)]
        if self.suite and (of_tasks or self.head != "own"):
            names = ", ".join(f"`{name}`" for name in of_tasks or ["head"])
            raise UserError(f"{names}: not of a `suite`, which asks its tasks whole, or `fast`")


@dataclass(frozen=True)
class ScoreConfig(OfModel):
    """Score a model on files of text or on a split of a store: nats per token and bits per byte."""

    store: Path | None = field(default=None, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    text: tuple[str, ...] = ()
    """In place of a store: files, folders, patterns (novels/*.txt) or hf:NAME."""
    separator: str | None = None
    """Cut .txt files of `text` into documents at this string."""
    split: Literal["train", "validation", "test"] = "validation"
    head: Literal["own", "raw", "calibrated"] = "own"
    """raw leaves out the output bias that lmlab gave the model (headless: embeddings alone);
    calibrated fits two scalars on the validation split (on test, where validation is scored)."""
    objective: Literal["auto", "causal", "masked"] = "auto"
    """Insist on one way to read the model (default: as it was trained)."""
    batch: int | None = None
    """Windows at a time; does not change the score."""
    windows: int | None = None
    """Score a random sample of this many windows (default: all)."""

    def __post_init__(self) -> None:
        if bool(self.text) == (self.store is not None):
            raise UserError("give `text` or `store` to score the model on: one of them")
        if self.head == "calibrated" and self.store is None:
            raise UserError("a calibrated head is fitted to a split of a `store`; give that")
