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
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import lmlab
from lmlab.numerics.added_predictor import ClusterSums
from lmlab.numerics.random_effects import Interval, two_way_ratio
from lmlab.topics.babylm.reading import number_column, read_table
from lmlab.topics.surprisal.texts import Text

MEASURES = ("RTfirstpass", "RTgopast", "self_paced_reading_time")
OTHERS = ("length", "Subtlex_log10", "context_length")
KNOWN = "s_GPT2"


def words_of(table: Path) -> tuple[list[dict[str, str]], dict[str, np.ndarray]]:
    """The words that have a frequency, and their columns of numbers."""
    rows = read_table(table, ("word", "sent_id", "sentence", KNOWN, *OTHERS, *MEASURES))
    rows = [(line, row) for line, row in rows if row["Subtlex_log10"] not in ("", "NA")]
    numbers = {name: number_column(table, rows, name) for name in (KNOWN, *OTHERS, *MEASURES)}
    return [row for _, row in rows], numbers


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


def gains(
    sentence_N: np.ndarray, numbers: dict[str, np.ndarray], columns: dict[str, np.ndarray]
) -> Iterator[tuple[str, str, float, Interval, Interval]]:
    """Measure, column, R2 without it, gain with it, and that gain minus the one of GPT-2."""
    base_NP = np.column_stack([numbers[name] for name in OTHERS])
    for measure in MEASURES:
        y_N1 = numbers[measure][:, None]
        sums = {
            name: ClusterSums(np.column_stack([base_NP, values_N]), y_N1, sentence_N)
            for name, values_N in columns.items()
        }
        mean_1C, before_1C = (sums[KNOWN].held_out(predictors).T for predictors in (0, len(OTHERS)))
        after = {name: of_column.held_out(len(OTHERS) + 1).T for name, of_column in sums.items()}
        for name, after_1C in after.items():
            yield (
                measure,
                name,
                1 - before_1C.sum() / mean_1C.sum(),
                two_way_ratio(before_1C - after_1C, mean_1C),
                two_way_ratio(after[KNOWN] - after_1C, mean_1C),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Reading times on surprisal.")
    parser.add_argument("table", type=Path)
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    rows, numbers = words_of(arguments.table)
    sentence_N = np.array([row["sent_id"] for row in rows])
    columns = {KNOWN: numbers[KNOWN]}
    for model in arguments.models:
        columns[model], columns[f"{model}, tokens alone"] = surprisals(rows, model)
    marked_N = np.array([ends_in_mark(row) for row in rows])
    for title, chosen_N in (("all words", marked_N | True), ("without a mark", ~marked_N)):
        sentences = len(np.unique(sentence_N[chosen_N]))
        print(f"\n{title}: {chosen_N.sum():,} words of {sentences} sentences")
        of_chosen = {name: values_N[chosen_N] for name, values_N in columns.items()}
        for name, values_N in of_chosen.items():
            r = np.corrcoef(values_N, of_chosen[KNOWN])[0, 1]
            print(f"{name}: mean {values_N.mean():.3f} a word, correlation with {KNOWN} {r:.3f}")
        of_numbers = {name: values_N[chosen_N] for name, values_N in numbers.items()}
        for measure, name, base, gain, beyond in gains(sentence_N[chosen_N], of_numbers, of_chosen):
            print(
                f"{measure}, {name}: R2 {base:.4f} without, gain {gain}, minus {KNOWN}'s {beyond}"
            )


if __name__ == "__main__":
    main()
