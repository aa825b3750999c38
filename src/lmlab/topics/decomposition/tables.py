"""Tables and findings of decompositions, for the commands and for the study's page."""

from __future__ import annotations

from typing import Any

from lmlab.pages.page import Table

READING = (
    "R² is pooled over the target's dimensions, so those of large variance rule it; whitened R² "
    "counts all directions alike. Noise in training is what as many random features explain on "
    "average; the null has the rows of every model in a random order of their own."
)


def interval_text(interval: dict[str, Any]) -> str:
    """An R2 with its interval."""
    estimate = r2_text(interval["estimate"])
    if interval["low"] is None:
        return f"{estimate} (no interval)"
    ends = f"[{r2_text(interval['low'])}, {r2_text(interval['high'])}]"
    return f"{estimate} {ends}".replace(" ", "\u00a0")  # never broken across lines


def r2_text(value: float | None) -> str:
    """An R2 with three decimals and a true minus sign."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def target_table(values: dict[str, Any]) -> Table:
    """A row a target (`DecompositionOfModels.to_json`)."""
    rows: list[list[str | float | int]] = [
        [
            name,
            interval_text(found["interval"]),
            round(found["r2_train"], 3),
            round(found["test"]["whitened_r2"], 3),
            round(found["train_floor"], 3),
            round(found["null"]["r2_test"], 3),
            f"{found['ridge']:.0e}",
        ]
        for name, found in values["targets"].items()
    ]
    return Table(
        ["target", "R² test [95 %]", "R² train", "whitened, test", "noise in training",
         "null, test", "ridge"],
        rows,
        "Each target from all other models.",
    )  # fmt: skip


def pair_table(values: dict[str, Any]) -> Table:
    """R2 of each target (row) on each model alone (column)."""
    pairs = values["pairwise"]
    rows: list[list[str | float | int]] = [
        [name, *(r2_text(value) for value in row)]
        for name, row in zip(pairs["names"], pairs["r2_test"], strict=True)
    ]
    return Table(
        ["target (row), basis (column)", *pairs["names"]],
        rows,
        "R² on test of each model (row) on one other alone (column).",
    )


def group_finding(values: dict[str, Any]) -> str:
    """The finding of a whole set, or of a single target, in a sentence."""
    group = values["group_correlation"]
    if group is not None:
        others = len(values["models"]) - 1
        return (
            f"On average {_share(group['estimate'])} of a model's variance is a linear function of "
            f"the other {f'{others} models' if others > 1 else 'one'} (group correlation on test "
            f"{interval_text(group)})."
        )
    ((name, found),) = values["targets"].items()
    return (
        f"{_share(found['interval']['estimate'])} of {name}'s variance is a linear function of "
        f"{', '.join(found['basis'])} (R² on test {interval_text(found['interval'])})."
    )


def notes(values: dict[str, Any]) -> list[str]:
    """What a reader must know of single fits."""
    made = [values["text"]] if "text" in values else []
    for name, found in values["targets"].items():
        for note in (found["note"], found["interval"]["note"], _path_note(found)):
            if note and not note.startswith("one model each"):
                made.append(f"{name}: {note}")
    return made


def _path_note(found: dict[str, Any]) -> str:
    return "" if found["ridge_path"] is None else found["ridge_path"]["note"]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %".replace("-", "−")
