"""How far do held-out novels differ in their arrow of time, and what do sections say of that?

    lmlab prepare --text 'eltec_eng/*.txt' --tokenizer.vocabulary 4096
        --split.test-documents 10 --out stores/ten
    python benchmarks/held_out_novels.py stores/ten

Counts n-grams of order 3 on the training split, in both directions, and scores each test novel.
Printed for each smoothing: the arrow of each novel (in per cent of the mean loss) with the interval
over its own sections; the standard deviation of the arrows over novels beside the mean standard
error over sections; and how often the interval of one novel covers the mean of the others. An
interval "over text" must do so 95 times of 100. One over sections speaks of its own novel alone.

Exact for its text: there are no seeds. One language, one split, one order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lmlab.data.store import TokenStore
from lmlab.topics.arrow.arrow import Arrow, arrow_of_time
from lmlab.topics.arrow.counting import NGramBaseline, ngram_baselines


def arrows_of_novels(baseline: NGramBaseline) -> list[Arrow]:
    """The arrow of each test document, its sections as the unit of its interval."""
    documents_M = baseline.clusters.document_N
    return [
        arrow_of_time(
            baseline.nats_forward_M[documents_M == name],
            baseline.nats_backward_M[documents_M == name],
            baseline.clusters.cluster_N[documents_M == name],
        )
        for name in np.unique(documents_M)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--order", type=int, default=3)
    given = parser.parse_args()
    baselines = ngram_baselines(
        TokenStore(given.store),
        split="test",
        context=given.context,
        longest=given.order,
        smoothings=("Kneser-Ney", "modified Kneser-Ney", "absolute discounting", "MacKay-Peto"),
    )
    for baseline in baselines.of_smoothings:
        arrows = arrows_of_novels(baseline)
        values_D = np.array([100 * arrow.relative for arrow in arrows])
        bounds_D2 = 100 * np.array([arrow.interval for arrow in arrows], dtype=float)
        errors_D = np.array([100 * (arrow.standard_error or np.nan) for arrow in arrows])
        others_D = np.array([np.delete(values_D, d).mean() for d in range(len(values_D))])
        covers_D = (bounds_D2[:, 0] <= others_D) & (others_D <= bounds_D2[:, 1])
        print(f"{baseline.fit.smoothing}, order {baseline.fit.order}: {len(arrows)} novels")
        for arrow, value, (low, high) in zip(arrows, values_D, bounds_D2, strict=True):
            print(f"  {value:+.2f} % [{low:+.2f}, {high:+.2f}] over {arrow.clusters} sections")
        print(
            f"  mean {values_D.mean():+.3f} %, SD over novels {values_D.std(ddof=1):.3f}, mean SE "
            f"over sections {errors_D.mean():.3f}; intervals that cover the mean of the others: "
            f"{covers_D.sum()} of {len(arrows)}"
        )


if __name__ == "__main__":
    main()
