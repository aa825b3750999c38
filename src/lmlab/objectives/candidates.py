"""The candidates that each row of a headless loss has to tell its target from, and their law.

The optimum of the contrastive loss is log p(v | context) - log q(v) + c(context), with q the law of
a row's *candidates* (van den Oord, Li and Vinyals, arXiv 1807.03748, equation 5: the optimal score
is proportional to the density ratio p / q). Headless models score with log p_unigram(v) added, so q
should be the unigram distribution. Which law it is:

- "batch" (as published): the targets of the micro-batch. A share of 1 / W of them are of the row's
  own window, W the windows of the micro-batch, so q = p(v | window) / W + (1 - 1 / W) p_unigram(v):
  what is likely in a window is scored too low, most of all what repeats in it.
- "other-windows": those of all other windows. q is the unigram distribution, but its draws are not
  independent (those of a window go together), so some of the bias stays.
- "unigram": independent draws from the unigram distribution, the same for all rows, and each row's
  own target in that row only. No bias, however few they are; few are noisy. As they grow, their sum
  becomes the softmax's over the vocabulary, and the loss cross-entropy with the prior as output
  bias, less H(p, p_unigram), plus log M.
- "mixture": the targets of the micro-batch and draws. Given its own window, a row's candidates are
  known to hold v, in expectation, c_own(v) + R p_unigram(v) times, R the candidates from elsewhere.
  So each counts p_unigram(v) / (that expectation), times their number: the sum over candidates is
  an unbiased estimate of the softmax's, in every row (importance weights, as in sampled softmax:
  Bengio and Senecal, IEEE Trans. Neural Networks 19, 2008). Its logarithm is not, by half its
  relative variance.

Shapes: K targets, V vocabulary, M draws, U distinct candidates, W windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmlab.data.masking import random_bits, uniform

_DRAWS, _SUBSET = 1, 2  # streams of random numbers of a key


@dataclass(frozen=True)
class Candidates:
    """The distinct candidates of all rows, targets among them, and how often each counts."""

    ids_U: torch.Tensor
    """Ascending."""
    weight_WU: torch.Tensor
    """How often each counts: one row for all, or one for each window. 0 where it does not."""
    window_K: torch.Tensor | None
    """Which row of `weight_WU` is that of each target; None where there is one for all."""
    position_K: torch.Tensor
    """Where in `ids_U` each target stands."""
    own_K: torch.Tensor | None
    """How often a row's target counts in that row; None: as `weight_WU` says."""

    def own_weight(self) -> torch.Tensor:
        """How often each row's target counts in its own row (K,)."""
        if self.own_K is not None:
            return self.own_K
        return _at_targets(self.weight_WU, self.window_K, self.position_K)


def pool(targets_K: torch.Tensor, ids_M: torch.Tensor, *, unique: bool = False) -> Candidates:
    """The same candidates `ids_M` for all rows; a target that they lack enters its own row once.

    `unique` counts each distinct one once.
    """
    ids_U, counts_U, position_K = _columns(targets_K, ids_M)
    if unique:
        counts_U = counts_U.clamp(max=1)
    own_K = None
    if not counts_U.all():
        own_K = counts_U[position_K].clamp(min=1)
    return Candidates(ids_U, counts_U[None], None, position_K, own_K)


def pool_and_own(
    targets_K: torch.Tensor, ids_M: torch.Tensor, *, counted_K: torch.Tensor | None = None
) -> Candidates:
    """The same candidates `ids_M` for all rows, and in each row its own target once more.

    `counted_K`: for which rows the own target is one of `ids_M` already, and enters no more.
    """
    ids_U, counts_U, position_K = _columns(targets_K, ids_M)
    more_K: torch.Tensor | int = 1 if counted_K is None else (~counted_K).long()
    return Candidates(ids_U, counts_U[None], None, position_K, counts_U[position_K] + more_K)


def other_windows(
    targets_K: torch.Tensor, window_K: torch.Tensor, all_targets_M: torch.Tensor
) -> Candidates:
    """Of each row the targets of all windows but its own, and its own target once."""
    ids_U, counts_U, position_K = _columns(targets_K, all_targets_M)
    row_K, own_WU = _by_window(window_K, position_K, len(ids_U))
    weight_WU = counts_U - own_WU
    own_K = _at_targets(weight_WU, row_K, position_K) + 1
    return Candidates(ids_U, weight_WU, row_K, position_K, own_K)


def mixture(
    targets_K: torch.Tensor,
    window_K: torch.Tensor,
    all_targets_M: torch.Tensor,
    draws_M: torch.Tensor,
    log_unigram_V: torch.Tensor,
) -> Candidates:
    """All targets and all draws, weighted so that every row's sum estimates the softmax's."""
    ids_U, counts_U, position_K = _columns(targets_K, torch.cat([all_targets_M, draws_M]))
    row_K, own_WU = _by_window(window_K, position_K, len(ids_U))
    unigram_U = log_unigram_V[ids_U].double().exp()
    total = len(all_targets_M) + len(draws_M)
    elsewhere_W1 = total - own_WU.sum(1, keepdim=True)
    expected_WU = own_WU + elsewhere_W1 * unigram_U
    return Candidates(ids_U, counts_U * total * unigram_U / expected_WU, row_K, position_K, None)


def unigram_draws(log_unigram_V: torch.Tensor, count: int, *, key: int) -> torch.Tensor:
    """`count` ids drawn independently from a distribution given by its logarithm, (count,) int64.

    A pure function of the distribution and the key: no state, exact on resume.
    """
    # copied: numpy would pin the memory that FSDP frees after the step
    copied_V = log_unigram_V.detach().to("cpu", torch.float64, copy=True)
    below_V = np.cumsum(np.exp(copied_V.numpy()))
    ids_M = np.searchsorted(below_V, uniform(key, _DRAWS, count) * below_V[-1], side="right")
    return torch.from_numpy(ids_M).to(log_unigram_V.device)


def chosen_rows(rows: int, count: int, *, key: int) -> torch.Tensor:
    """A random subset of `count` of so many rows (all, if there are fewer), as a mask (rows,)."""
    chosen_K = torch.zeros(rows, dtype=torch.bool)
    order_K = np.argsort(random_bits(key, _SUBSET, rows), kind="stable")
    chosen_K[torch.from_numpy(order_K[:count])] = True
    return chosen_K


def _columns(
    targets_K: torch.Tensor, ids_M: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distinct ids of candidates and targets (U), how often each is a candidate (U), and where the
    targets stand (K)."""
    ids_U, counts_U = torch.unique(ids_M, return_counts=True)
    if not torch.isin(targets_K, ids_U).all():
        both_U = torch.unique(torch.cat([ids_U, targets_K]))
        counts = counts_U.new_zeros(len(both_U))
        counts[torch.searchsorted(both_U, ids_U)] = counts_U
        ids_U, counts_U = both_U, counts
    return ids_U, counts_U, torch.searchsorted(ids_U, targets_K)


def _by_window(
    window_K: torch.Tensor, position_K: torch.Tensor, distinct: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of each target's window (K), and how often each id is a target of it (W, U)."""
    names_W, row_K = torch.unique(window_K, return_inverse=True)
    counts = torch.bincount(row_K * distinct + position_K, minlength=len(names_W) * distinct)
    return row_K, counts.view(len(names_W), distinct)


def _at_targets(
    weight_WU: torch.Tensor, window_K: torch.Tensor | None, position_K: torch.Tensor
) -> torch.Tensor:
    return weight_WU[0 if window_K is None else window_K, position_K]
