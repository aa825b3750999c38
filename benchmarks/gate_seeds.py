"""A gate between two finished models, over seeds: what it gains against each way without it.

    python benchmarks/gate_seeds.py ROUTE_0 ROUTE_1 ROUTE_2 --corpus speech

Each folder is a result of `lmlab route` for one seed, all on the same text. Differences are nats
per token that the gate has less than another way to predict, paired by seed and document, with
intervals over seeds and documents, and Holm's p over the four that were planned. Beside them stands
the reader who is told each document's corpus and asks that corpus's model alone: the first model
for documents whose file begins with `--corpus`.

Legend: S seeds, D documents.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lmlab
from lmlab.numerics.random_effects import two_way_ratio
from lmlab.numerics.verdicts import Evidence, holm
from lmlab.topics.routing.routing import BETTER, CONSTANT, EQUAL, GATE, SINGLE, Routing

PLANNED = (CONSTANT, BETTER, EQUAL, SINGLE)
TOLD = "told the corpus of each document"


def nats_of(result: Routing, corpus: str) -> dict[str, NDArray[np.float64]]:
    """Nats per token of each way in each document, (D,)."""
    names = [a.name for a in result.alternatives]
    nats = dict(zip(names, np.array([d.nats for d in result.documents]).T, strict=True))
    difference_D = np.array([d.difference for d in result.documents])
    # the better model is one of the two; the other is as far from it as the difference says
    first_is_better = result.better == result.first
    first_D = nats[BETTER] if first_is_better else nats[BETTER] - difference_D
    is_first_D = np.array([Path(d.name).name.startswith(corpus) for d in result.documents])
    nats[TOLD] = np.where(is_first_D, first_D, first_D + difference_D)
    return nats


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--corpus", required=True)
    options = parser.parse_args()
    results: list[Routing] = []
    for folder in options.results:
        result = lmlab.read(folder)
        assert isinstance(result, Routing)
        results.append(result)
    documents = [(d.name, d.tokens) for d in results[0].documents]
    assert all([(d.name, d.tokens) for d in r.documents] == documents for r in results)
    tokens_D = np.array([tokens for _, tokens in documents], dtype=np.float64)
    nats = [nats_of(result, options.corpus) for result in results]
    print("| way | seeds | nats per token, by seed | the gate has less by | p | by Holm |")
    print("|---|---|---|---|---|---|")
    found: dict[str, tuple[str, Evidence]] = {}
    for name in (GATE, *PLANNED, TOLD):
        there = [each for each in nats if name in each]
        own_SD = np.array([each[name] for each in there])
        tokens_SD = np.broadcast_to(tokens_D, own_SD.shape)
        less_SD = own_SD - np.array([each[GATE] for each in there])
        interval = two_way_ratio(less_SD * tokens_SD, tokens_SD)
        means_S = (own_SD * tokens_SD).sum(1) / tokens_D.sum()
        text = f"| {name} | {len(there)} | {', '.join(f'{m:.4f}' for m in means_S)} | {interval} |"
        found[name] = text, Evidence.of(interval)
    adjusted: dict[str, float | None] = dict(
        zip(PLANNED, holm([found[n][1].p_value for n in PLANNED]), strict=True)
    )
    for name, (text, evidence) in found.items():
        print(text, f"{evidence.p_value} | {adjusted.get(name, '')} |")


if __name__ == "__main__":
    main()
