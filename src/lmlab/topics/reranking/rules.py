"""Rules that choose one of several continuations, and how much a choice repeats. Arrays only.

With x a prompt, c a continuation, p_f a forward and p_b a backward model (nats are minus the
logarithms):

- A forward model gives p_f(c | x), token by token.
- A backward model reads the reversed text from its end, and so gives first p_b(c), then
  p_b(x | c); by the chain rule their product is p_b(x, c).
- p_b(x, c) = p_b(x) p_b(c | x), and p_b(x) is the same for all continuations of a prompt. So the
  order of candidates by the whole text is the order by p_b(c | x): the backward model's own opinion
  of what the forward model was asked. Rule `backward`.
- p_b(x | c) is p_b(c | x) p_b(x) / p_b(c): what c says of x beyond how likely c is anyway, minus
  which is what bland continuations live on. Rule `mmi`, after the "maximum mutual information" of
  Li et al. (2016, arXiv 1510.03055), whose MMI-bidi is (1 - w) log p(c | x) + w log p(x | c), the
  rule `forward+mmi`.
- (1 - w) log p_f(c | x) + w log p_b(x, c) is, but for a constant, the logarithm of the geometric
  mean of two models' p(c | x): an ensemble. Rule `forward+backward`. Since any second model makes
  an ensemble, the control is `forward+second`, with p of another forward model.

Shapes: M prompts, N candidates of each, C tokens of a candidate, K = N + 1 with the true
continuation last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FORWARD, SECOND, FORWARD_SECOND = "forward", "second", "forward+second"


@dataclass(frozen=True)
class Nats:
    """Nats of what each model was asked, sums over tokens: (M, K)."""

    forward_MK: np.ndarray
    """-log p_f(c | x)."""
    continuation_MK: np.ndarray
    """-log p_b(c)."""
    prompt_MK: np.ndarray
    """-log p_b(x | c)."""
    second_MK: np.ndarray | None
    """-log p(c | x) of another forward model."""

    @property
    def whole_MK(self) -> np.ndarray:
        """-log p_b(x, c)."""
        return self.continuation_MK + self.prompt_MK


def scores(rule: str, nats: Nats, weight: float) -> np.ndarray:
    """Score of each continuation by a rule, nats (M, K); the least is chosen.

    `weight` is that of the other model's nats in a sum, the forward model's has 1 - `weight`.
    """
    first, _, other = rule.rpartition("+")
    by_name = {
        FORWARD: nats.forward_MK,
        "backward": nats.whole_MK,
        "mmi": nats.prompt_MK,
        SECOND: nats.second_MK,
    }
    other_MK = by_name[other]
    assert other_MK is not None, "a second model was asked for"
    if not first:
        return other_MK
    return (1 - weight) * by_name[FORWARD] + weight * other_MK


def picked(scores_MK: np.ndarray) -> np.ndarray:
    """Which candidate (M) has the least score; of equal ones the first. The last column, the true
    continuation, is no candidate."""
    return scores_MK[:, :-1].argmin(1)


def share_below_truth(scores_MK: np.ndarray) -> np.ndarray:
    """Share (M) of the candidates that a score puts below the true continuation, ties half: 0.5 if
    it cannot tell them apart, 1 if the true one is always first."""
    candidates_MN, truth_M1 = scores_MK[:, :-1], scores_MK[:, -1:]
    return ((candidates_MN > truth_M1) + 0.5 * (candidates_MN == truth_M1)).mean(1)


def _ngrams(ids_C: np.ndarray, n: int) -> set[tuple[int, ...]]:
    ids = ids_C.tolist()
    return {tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)}


def distinct_within(ids_MKC: np.ndarray, n: int) -> np.ndarray:
    """Share (M, K) of a continuation's n-grams that are different ones."""
    most = ids_MKC.shape[2] - n + 1
    return np.array([[len(_ngrams(ids_C, n)) / most for ids_C in row] for row in ids_MKC])


def distinct_across(ids_MC: np.ndarray, n: int) -> float:
    """Different n-grams of all continuations, of the number of their n-grams (distinct-n of Li et
    al. 2016, whose denominator is the number of tokens)."""
    return expected_distinct_across(ids_MC[:, None], n)


def expected_distinct_across(ids_MNC: np.ndarray, n: int) -> float:
    """What `distinct_across` is on average if one of each prompt's candidates is taken at random.

    An n-gram is in none of the choices with probability prod_m (1 - s_m), s_m the share of the
    candidates of prompt m that hold it; the mean number of different ones is the sum of the rest.
    """
    prompts, candidates, tokens = ids_MNC.shape
    absent: dict[tuple[int, ...], float] = {}
    for row in ids_MNC:
        held: dict[tuple[int, ...], int] = {}
        for ids_C in row:
            for ngram in _ngrams(ids_C, n):
                held[ngram] = held.get(ngram, 0) + 1
        for ngram, count in held.items():
            absent[ngram] = absent.get(ngram, 1.0) * (1 - count / candidates)
    return sum(1 - share for share in absent.values()) / (prompts * (tokens - n + 1))
