"""Where the runs of a study stand, read from its folder: by whom, how far, how fast.

Notable:
- Reads only: the plan that `studies.parts` wrote, the locks, the ends of the journals. It imports
  no torch, and disturbs no worker but for an instant at each lock.
- Child runs (probes, fine-tuned heads) are not known before they begin. They are found by the
  parent that their configuration names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmlab.config import read_toml
from lmlab.durable import from_json, write_json
from lmlab.errors import UserError
from lmlab.locks import holder, last_note
from lmlab.progress import duration
from lmlab.run_folders.checkpoint import checkpoint_folder, final_step, is_finished
from lmlab.run_folders.journal import last_record

REPORT = "report"
"""The claim of who makes the report."""
COLUMNS = ("run", "folder", "state", "step", "loss", "tokens/s", "ETA")
PLAN = "plan.json"


@dataclass(frozen=True)
class RunStatus:
    """One run of a study. A child run's label is its parent's."""

    label: str
    folder: str
    state: str
    """waiting, running, measuring (trained, its analyses under way), finished or failed."""
    by: str | None
    """Who runs it."""
    step: int
    steps: int
    tokens: int
    """Of the whole run."""
    child: bool
    loss: float | None
    """Of the last step, nats per token for cross-entropy."""
    tokens_per_second: float | None
    """Of the last seconds that were timed; None unless it is running."""
    why: str | None = None
    """It failed."""

    @property
    def tokens_left(self) -> float:
        return self.tokens * (1 - self.step / self.steps) if self.state != "finished" else 0.0

    @property
    def seconds_left(self) -> float | None:
        return self.tokens_left / self.tokens_per_second if self.tokens_per_second else None

    def cells(self) -> list[str]:
        """As a row under `COLUMNS`."""
        by = f" by {self.by}" if self.by else ""
        left = self.seconds_left
        return [
            f"  child of {self.label}" if self.child else self.label,
            self.folder,
            f"{self.state}{by}" + (f": {self.why}" if self.why else ""),
            f"{self.step:,}/{self.steps:,}",
            "" if self.loss is None else f"{self.loss:.3f}",
            "" if self.tokens_per_second is None else f"{self.tokens_per_second:,.0f}",
            "" if left is None else duration(left),
        ]


def claim_file(out: Path, name: str) -> Path:
    """The lock of a part, by the name of its first run's folder, or of `REPORT`."""
    return out / ".claims" / f"{name}.lock"


def write_plan(out: Path, study: str, rows: Sequence[tuple[str, str, int, int]]) -> None:
    """Writes what the study in `out` consists of: label, run folder's name, steps and tokens."""
    names = ("label", "run", "steps", "tokens")
    parts = [dict(zip(names, row, strict=True)) for row in rows]
    write_json(out / PLAN, {"study": study, "parts": parts})


def study_status(out: Path, lab: Path) -> list[RunStatus]:
    """Each planned run of the study in `out`, followed by its child runs so far.

    Raises `UserError` for a study that was never begun, and for a damaged plan or run.
    """
    children = _children(lab / "runs")
    rows = []
    for part in _plan(out):
        own = [_run(lab / "runs" / name, part, child=name != part["run"])
               for name in (part["run"], *children.get(part["run"], ()))]  # fmt: skip
        claim = claim_file(out, part["run"])
        rows += _with_claim(own, holder(claim), last_note(claim))
    return rows


def summary(rows: Sequence[RunStatus], out: Path) -> str:
    """Counts by state, the time left at the present speed, and who makes the report."""
    counts = {state: sum(row.state == state for row in rows) for state in _STATES}
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    speed = sum(row.tokens_per_second or 0.0 for row in rows)
    left = sum(row.tokens_left for row in rows)
    if speed and left:
        text += f"; {duration(left / speed)} left at the present speed, analyses left out"
    if by := holder(claim_file(out, REPORT)):
        text += f"; {by} is making the report"
    elif (out / "report.html").exists():
        text += f"; report: {out / 'report.html'}"
    return text


_STATES = ("finished", "running", "measuring", "waiting", "failed")


def _plan(out: Path) -> list[dict[str, Any]]:
    file = out / PLAN
    try:
        parts = from_json(file.read_bytes())["parts"]
        for part in parts:
            if type(part["label"]) is not str or Path(part["run"]).name != part["run"]:
                raise ValueError("a part has a label and a run's folder")
            if not all(type(part[n]) is int and part[n] > 0 for n in ("steps", "tokens")):
                raise ValueError("a part has steps and tokens")
    except FileNotFoundError as error:
        raise UserError(
            f"{out}: this study has not begun, or is still preparing its data; start it with the "
            "same command without --status"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged: {error}; the next worker writes it anew") from error
    return parts


def _children(runs: Path) -> dict[str, list[str]]:
    """Names of run folders by that of their parent run's."""
    names: dict[str, list[str]] = {}
    for file in sorted(runs.glob("*/config.toml")):
        parent = read_toml(file).get("parent", {}).get("path")
        if parent is not None and (runs / Path(parent).name).is_dir():
            names.setdefault(Path(parent).name, []).append(file.parent.name)
    return names


def _run(path: Path, part: dict[str, Any], *, child: bool) -> RunStatus:
    steps, tokens = part["steps"], part["tokens"]
    if child:
        config = read_toml(path / "config.toml")
        steps = config["steps"]
        tokens = steps * config["batch"] * config["context"]
    last = last_record(path / "journal.jsonl")
    step = last["step"] if last else 0
    by = holder(path / ".lock")
    ended = step == steps or is_finished(path)
    done = ended and checkpoint_folder(path, final_step(path, steps)).is_dir()
    timed = last_record(path / "timing.jsonl") if by and not done else None
    speed = timed["tokens_per_second"] if timed else None
    if speed is not None and last and last.get("tokens"):
        # of a masked run the speed is that of predicted tokens, and what is left is counted whole
        speed *= step * tokens / steps / last["tokens"]
    return RunStatus(
        label=part["label"],
        folder=path.name,
        state="running" if by and not done else "finished" if done else "waiting",
        by=by if not done else None,
        step=step,
        steps=steps,
        tokens=tokens,
        child=child,
        loss=last["loss"] if last else None,
        tokens_per_second=speed,
    )


def _with_claim(runs: list[RunStatus], by: str | None, note: dict[str, Any]) -> list[RunStatus]:
    """The runs of a part, with what its claim says of it: held by `by`, or as `note` was left."""
    if by is not None and all(run.state == "finished" for run in runs):
        return [*runs[:-1], replace(runs[-1], state="measuring", by=by)]
    if by is None and note.get("state") == "failed":
        unfinished = [i for i, run in enumerate(runs) if run.state == "waiting"] or [len(runs) - 1]
        at = unfinished[0]
        failed = replace(runs[at], state="failed", why=str(note.get("why", "")))
        return [*runs[:at], failed, *runs[at + 1 :]]
    return runs
