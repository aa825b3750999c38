"""Where does the arrow appear in models that beat counting? Several arrow studies read together.

    python benchmarks/arrow_pieces.py RESULTS --out FOLDER [--text french] [--size N]
        [--contrasts N]

RESULTS holds a folder for each study of one comparison, named as in `PIECES`. The arrows are one
family and the contrasts another, each adjusted by Holm for as many as were planned (`--size`,
`--contrasts`): those that were not run count as p of 1. Arrows have the interval of the study,
over seeds and documents; contrasts have seeds as their unit, so they are of these texts. It writes
`arrow-pieces.csv`, `arrow-contrasts.csv` and, of the longer run of primes, the loss of each
model while it trained, `arrow-primes.csv`; of French novels `arrow-french.csv` and
`arrow-french-contrasts.csv`. It prints the first two.

Legend: S seeds, K contexts.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

import lmlab
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.topics.arrow.comparison import Comparison
from lmlab.topics.arrow.family import ArrowStudy

PIECES = {
    "music": {
        "music": "music, 2 x 128, context 128",
        "music-8": "music, 2 x 128, context 8",
        "music-32": "music, 2 x 128, context 32",
        "music-gru": "music, GRU 1 x 256, context 128",
        "music-micro": "music, 4 x 128, context 128",
        "music-bpe": "music, 2 x 128, BPE",
        "music-reversed": "music, 2 x 128, BPE of reversed text",
        "primes": "products of primes, 400,000 tokens",
        "primes-long": "products of primes, 800,000 tokens",
    },
    "french": {
        "french": "French, context 128",
        "french-8": "French, context 8",
        "french-classes": "classes of French words, context 128",
        "french-reversed": "French, BPE of reversed text, context 128",
        "french-shuffled": "French, shuffled, context 128",
    },
}
FILES = {
    "music": ("arrow-pieces", "arrow-contrasts"),
    "french": ("arrow-french", "arrow-french-contrasts"),
}
CONTEXTS = {8: "-8", 32: "-32", 128: ""}
"""What each context adds to the name of a text."""
AGAINST = {
    "reversed BPE less BPE": {
        "music": ("music-reversed", "music-bpe"),
        "french": ("french-reversed", "french"),
    },
    "GRU less qwen3": {"music": ("music-gru", "music")},
    "4 x 128 less 2 x 128": {"music": ("music-micro", "music")},
}
QUARTER = 0.25

Cells = dict[str, float | int | str | None]
Bounded = tuple[float, float | None, float | None]


def mean_over_seeds(values_S: ArrayLike) -> Evidence:
    """The mean with Student's t over seeds."""
    values = np.asarray(values_S, dtype=np.float64)
    seeds = len(values)
    error = float(values.std(ddof=1)) / seeds**0.5
    half, mean = float(stdtrit(seeds - 1, 0.975)) * error, float(values.mean())
    return Evidence(mean, mean - half, mean + half, error, seeds - 1, seeds, 1)


def curve_arrows(piece: Comparison) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Tokens of the validations (K), and each seed's relative arrow there, per cent (S, K)."""
    tokens = np.array(piece.forward[0].curve.tokens)
    f_SK, b_SK = (
        np.array([model.curve.losses for model in side]) for side in (piece.forward, piece.other)
    )
    return tokens, 200 * (b_SK - f_SK) / (b_SK + f_SK)


def seed_curves(piece: Comparison) -> list[Cells]:
    """The validation losses of every run, a row for each; the first, still high, is left out."""
    return [
        {"run": f"{side}, seed {seed}", "tokens": tokens, "nats per character": nats}
        for side, models in piece.sides
        for seed, model in enumerate(models)
        for tokens, nats in [*zip(model.curve.tokens, model.curve.losses, strict=True)][1:]
    ]


def by_seed(piece: Comparison) -> NDArray[np.float64]:
    """The relative arrow of each seed, per cent."""
    return 100 * np.array(piece.arrow.relative_by_seed)


def slopes(pieces: dict[int, Comparison]) -> NDArray[np.float64]:
    """Each seed's least-squares slope of the arrow, in per cent, over log2 of the context (S)."""
    seeds = min(piece.arrow.seeds for piece in pieces.values())
    arrow_KS = np.stack([by_seed(piece)[:seeds] for piece in pieces.values()])
    log2_K = np.log2(np.array(list(pieces)))
    return np.polyfit(log2_K, arrow_KS, 1)[0]


def contrasts(pieces: dict[str, Comparison], text: str) -> dict[str, Evidence]:
    """The planned contrasts of the arrow in per cent, of those whose studies are there."""
    found: dict[str, Evidence] = {}
    of_context = {k: pieces[text + end] for k, end in CONTEXTS.items() if text + end in pieces}
    if len(of_context) > 1:
        said = f"slope over contexts {', '.join(map(str, of_context))}, a doubling"
        found[said] = mean_over_seeds(slopes(of_context))
    for said, of_text in AGAINST.items():
        first, second = of_text.get(text, ("", ""))
        if {first, second} <= pieces.keys():
            sides = [by_seed(pieces[name]).tolist() for name in (first, second)]
            found[said] = Evidence.of_two_groups(sides[0], sides[1], 1)
    if text in pieces:
        tokens_K, arrow_SK = curve_arrows(pieces[text])
        early = int(np.abs(tokens_K - QUARTER * tokens_K[-1]).argmin())
        found["end less the validation nearest to a quarter"] = mean_over_seeds(
            arrow_SK[:, -1] - arrow_SK[:, early]
        )
    return found


def bounds(name: str, values: Bounded, scale: float = 1.0) -> Cells:
    """A value and its interval as three cells; empty where there is none."""
    return {
        f"{name}{end}": None if value is None else scale * value
        for end, value in zip(("", " low", " high"), values, strict=True)
    }


def piece_row(said: str, piece: Comparison, adjusted: float | None) -> Cells:
    """A row of the table of arrows."""
    arrow = piece.arrow
    assert arrow.interval is not None
    row: Cells = {
        "row": said,
        **bounds("relative arrow, %", (arrow.relative, *arrow.interval), 100),
        "p": arrow.p_value,
        "p by Holm": adjusted,
        "seeds": arrow.seeds,
        "documents": arrow.documents,
        **{f"seed {i}": value for i, value in enumerate(by_seed(piece).tolist())},
        "forward, nats per token": float(np.mean([m.nats_per_token for m in piece.forward])),
        "backward, nats per token": float(np.mean([m.nats_per_token for m in piece.other])),
    }
    counting, floor = piece.above_counting, piece.floor
    if counting is not None and counting.other is not None:
        row["counting"] = f"{counting.smoothing} {counting.order}"
        for side, above in (("forward", counting.forward), ("backward", counting.other)):
            i = above.interval
            row |= bounds(f"{side} above counting", (i.estimate, i.low, i.high))
    if floor is not None:
        for side, excess in (("forward", floor.forward), ("backward", floor.other)):
            i = excess.interval
            row |= bounds(f"{side} above the floor", (i.estimate, i.low, i.high))
    return row


def adjusted_for(p_values: Sequence[float | None], size: int) -> list[float | None]:
    """Holm's adjustment in a family of `size`, of which the rest count as p of 1."""
    return holm([*p_values, *[1.0] * (size - len(p_values))])[: len(p_values)]


def written(path: Path, rows: Sequence[Cells]) -> None:
    """Writes rows as CSV, with the columns of all of them; floats to seven digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = [row.get(column) for column in columns]
            writer.writerow([f"{c:.7g}" if isinstance(c, float) else c for c in cells])


def main() -> None:
    parser = argparse.ArgumentParser(description="Arrow studies read together.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--text", choices=PIECES, default="music")
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--contrasts", type=int, default=5)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, Comparison] = {}
    said = PIECES[given.text]
    of_arrows, of_contrasts = FILES[given.text]
    for name in said:
        if (given.results / name / "results.json").is_file():
            study = lmlab.read(given.results / name)
            assert isinstance(study, ArrowStudy)
            (pieces[name],) = study.comparisons

    p_values = adjusted_for([each.arrow.p_value for each in pieces.values()], given.size)
    rows = [
        piece_row(said[name], piece, p)
        for (name, piece), p in zip(pieces.items(), p_values, strict=True)
    ]
    written(given.out / f"{of_arrows}.csv", rows)
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})

    found = contrasts(pieces, given.text)
    p_values = adjusted_for([each.p_value for each in found.values()], given.contrasts)
    rows = []
    for (contrast, each), p in zip(found.items(), p_values, strict=True):
        row = {"row": contrast, **bounds("difference, %", (each.estimate, each.low, each.high))}
        rows.append({**row, "df": each.degrees_of_freedom, "p": each.p_value, "p by Holm": p})
    written(given.out / f"{of_contrasts}.csv", rows)
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})

    if "primes-long" in pieces:
        written(given.out / "arrow-primes.csv", seed_curves(pieces["primes-long"]))


if __name__ == "__main__":
    main()
