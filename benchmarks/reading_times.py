"""How much of reading times does surprisal explain, beyond length, frequency and position?

    python benchmarks/reading_times.py reading_ucl/all_measures.csv MODEL [MODEL ...]

The table (de Varda, Marelli and Amenta 2023; reading times of Frank et al. 2013) has a word a row,
with the mean reading times of its readers. A linear regression on length, log frequency and place
in the sentence predicts each measure, with and without the word's surprisal; every sentence is
predicted by a fit to all others. The gain in R2 is the share of the squared error about the mean
that surprisal takes away, with a 95 % interval over sentences (the fits and the model taken as they
are); the last column is its difference from that of the table's own column s_GPT2.

Words are as they stand in the table, marks attached; once all of them, and once those that do not
end in a mark (the table's column is far higher where one does). Words without a frequency are left
out.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import lmlab
from lmlab.numerics.random_effects import Clusters, Interval
from lmlab.topics.surprisal.texts import Text

MEASURES = ("RTfirstpass", "RTgopast", "self_paced_reading_time")
OTHERS = ("length", "Subtlex_log10", "context_length")
KNOWN = "s_GPT2"


def words_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[name] not in ("", "NA") for name in OTHERS)]


def ends_in_mark(row: dict[str, str]) -> bool:
    return not row["word"][-1].isalnum()


def surprisals(rows: list[dict[str, str]], model: str) -> tuple[np.ndarray, np.ndarray]:
    """Surprisal of each row's word, with and without what is left over at its end."""
    sentences = {row["sent_id"]: row["sentence"] for row in rows}
    result = lmlab.surprisal(model, [Text(name, text) for name, text in sentences.items()])
    units = {text.id: text.units for text in result.texts}
    own = [units[row["sent_id"]][int(row["context_length"])] for row in rows]
    for unit, row in zip(own, rows, strict=True):
        assert unit.text == row["word"], (unit.text, row)
    pairs = np.array([(unit.nats[0], unit.uncorrected[0]) for unit in own])
    return pairs[:, 0], pairs[:, 1]


def errors(x_NP: np.ndarray, y_N: np.ndarray, sentence_N: np.ndarray) -> np.ndarray:
    """Squared errors, each sentence predicted by the regression of all others."""
    x_NP = np.column_stack([np.ones(len(y_N)), x_NP])
    error_N = np.empty(len(y_N))
    for sentence in np.unique(sentence_N):
        out_N = sentence_N == sentence
        fit_P, *_ = np.linalg.lstsq(x_NP[~out_N], y_N[~out_N], rcond=None)
        error_N[out_N] = (y_N[out_N] - x_NP[out_N] @ fit_P) ** 2
    return error_N


def gains(
    rows: list[dict[str, str]], columns: dict[str, np.ndarray]
) -> Iterator[tuple[str, str, float, Interval, Interval]]:
    """Measure, column, R2 without it, gain with it, and that gain minus the one of GPT-2."""
    sentence_N = np.array([row["sent_id"] for row in rows])
    clusters = Clusters(sentence_N)
    base_NP = np.array([[float(row[name]) for name in OTHERS] for row in rows])
    for measure in MEASURES:
        y_N = np.array([float(row[measure]) for row in rows])
        mean_N = errors(np.empty((len(rows), 0)), y_N, sentence_N)
        before_N = errors(base_NP, y_N, sentence_N)
        after = {
            name: errors(np.column_stack([base_NP, values_N]), y_N, sentence_N)
            for name, values_N in columns.items()
        }
        for name, after_N in after.items():
            yield (
                measure,
                name,
                1 - before_N.sum() / mean_N.sum(),
                clusters.ratio(before_N - after_N, mean_N),
                clusters.ratio(after[KNOWN] - after_N, mean_N),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Reading times on surprisal.")
    parser.add_argument("table", type=Path)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    rows = words_of(arguments.table)
    columns = {KNOWN: np.array([float(row[KNOWN]) for row in rows])}
    for model in arguments.models:
        columns[model], columns[f"{model}, tokens alone"] = surprisals(rows, model)
    marked_N = np.array([ends_in_mark(row) for row in rows])
    for title, chosen_N in (("all words", marked_N | True), ("without a mark", ~marked_N)):
        chosen = [row for row, inside in zip(rows, chosen_N, strict=True) if inside]
        sentences = len({row["sent_id"] for row in chosen})
        print(f"\n{title}: {len(chosen):,} words of {sentences} sentences")
        of_chosen = {name: values_N[chosen_N] for name, values_N in columns.items()}
        for name, values_N in of_chosen.items():
            r = np.corrcoef(values_N, of_chosen[KNOWN])[0, 1]
            print(f"{name}: mean {values_N.mean():.3f} a word, correlation with {KNOWN} {r:.3f}")
        for measure, name, base, gain, beyond in gains(chosen, of_chosen):
            print(
                f"{measure}, {name}: R2 {base:.4f} without, gain {gain}, minus {KNOWN}'s {beyond}"
            )


if __name__ == "__main__":
    main()
