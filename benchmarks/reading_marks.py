"""Does a column that says only where punctuation stands gain more than GPT-2's surprisal?

    python benchmarks/reading_marks.py reading_ucl/all_measures.csv

Both columns go into BabyLM's regressions of reading times in the place of a model's surprisal:
the table's own `s_GPT2`, and 1 where a word ends in a mark, else 0. Printed are both gains in R2
and their difference, which is taken on the same sentences (jackknife over sentences, 95 %).
"""

import argparse
from pathlib import Path

import numpy as np

from lmlab.topics.babylm.reading import (
    Gain,
    ReadingWords,
    eye_tracking_gain,
    number_column,
    read_reading_times,
    read_table,
    self_paced_gain,
)


def previous(words: ReadingWords, values_N: np.ndarray) -> np.ndarray:
    """The value of each word's previous word (N); NaN where the table has none."""
    keys = [*zip(words.sentences, words.numbers["context_length"], strict=True)]
    known = dict(zip(keys, values_N, strict=True))
    return np.array([known.get((sentence, place - 1), np.nan) for sentence, place in keys])


def main() -> None:
    parser = argparse.ArgumentParser(description="Punctuation against surprisal.")
    parser.add_argument("table", type=Path)
    table: Path = parser.parse_args().table
    words = read_reading_times(table)
    columns = {
        "mark": np.array([float(not word[-1].isalnum()) for word in words.words]),
        "s_GPT2": number_column(table, read_table(table, ("s_GPT2",)), "s_GPT2"),
    }
    eye = {name: eye_tracking_gain(words, values_N) for name, values_N in columns.items()}
    self_paced = {
        name: self_paced_gain(words, values_N, previous(words, values_N))
        for name, values_N in columns.items()
    }
    gains: dict[str, dict[str, Gain]] = {"eye tracking": eye, "self-paced": self_paced}
    for title, of_columns in gains.items():
        mark, known = of_columns["mark"], of_columns["s_GPT2"]
        for way in ("official", "held_out"):
            a, b = getattr(mark, way), getattr(known, way)
            less = a.less(b)
            print(f"{title}, {way}, {mark.words:,} words: mark {a.interval}, s_GPT2 {b.interval}")
            print(f"    mark less s_GPT2 {less.estimate:.4f} [{less.low:.4f}, {less.high:.4f}]")


if __name__ == "__main__":
    main()
