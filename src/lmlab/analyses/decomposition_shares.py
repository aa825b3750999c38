"""Which basis model gives what: pairs, greedy selection, Shapley shares, unique and shared parts.

Everything is from scatters. A set of basis models has a value, the R2 of the target on it (on the
test scatter where there is one, else in training):
- pairwise: the value of each model alone, for every target;
- greedy: the model that adds most, then the next;
- Shapley share: what a model adds, averaged over all orders in which models can be added; shares
  add up to the value of all. Exact to 8 models; beyond, a sample of orders and their reversals;
- unique: what all lose without it; shared: what no model has alone.

Notable: held-out values can fall when a model is added, so shares and unique parts can be negative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlab.analyses.decomposition import check_basis, check_varies, residual_moment
from lmlab.errors import UserError
from lmlab.numerics.regression import solve_ridge
from lmlab.numerics.scatter import Scatter

EXACT_MODELS = 8


class _Values:
    """R2 of a target on sets of basis models, each fitted once.

    Copies the target's and the basis's moments once; a set then is a sub-block of them.
    """

    def __init__(
        self, train: Scatter, target: str, basis: Sequence[str], ridge: float, test: Scatter | None
    ) -> None:
        check_basis(train, target, basis)
        if test is not None:
            check_varies(test, target, "test")
        self._places, start = {}, 0
        for name in basis:
            self._places[name] = np.arange(start, start + train.widths[name])
            start += train.widths[name]
        self._zz, self._zu = train.covariance(basis), train.covariance(basis, [target])
        self._ridge = ridge
        self._train_spread = float(np.trace(train.covariance([target])))
        self._test = None
        if test is not None:
            shift_Z = test.mean(basis) - train.mean(basis)
            shift_U = test.mean([target]) - train.mean([target])
            self._test = (
                # about the training means, where the bias puts the fit
                test.covariance(basis) + np.outer(shift_Z, shift_Z),
                test.covariance(basis, [target]) + np.outer(shift_Z, shift_U),
                float(np.trace(test.covariance([target]))),
                float(shift_U @ shift_U),
            )
        self._known: dict[frozenset[str], float] = {frozenset(): 0.0}

    def __call__(self, names: Sequence[str]) -> float:
        key = frozenset(names)
        if key not in self._known:
            self._known[key] = self._fit([name for name in self._places if name in key])
        return self._known[key]

    def _fit(self, names: list[str]) -> float:
        at = np.concatenate([self._places[name] for name in names])
        inside = np.ix_(at, at)
        zu = self._zu[at]
        weights_UZ = solve_ridge(self._zz[inside], zu, self._ridge).weights_UZ
        if self._test is None:
            explained = float((weights_UZ.T * zu).sum() + self._ridge * (weights_UZ**2).sum())
            return explained / self._train_spread
        zz, zu, spread, shift = self._test
        quadratic = float(((weights_UZ @ zz[inside]) * weights_UZ).sum())
        left = spread + shift - 2 * float((weights_UZ.T * zu[at]).sum()) + quadratic
        return 1 - left / spread


@dataclass(frozen=True)
class Pairwise:
    """R2 of every model on every other alone: rows are targets, columns the basis."""

    names: tuple[str, ...]
    r2: tuple[tuple[float | None, ...], ...]
    """None on the diagonal."""

    @property
    def mean(self) -> float:
        """Over all pairs."""
        return float(np.mean([value for row in self.r2 for value in row if value is not None]))


def pairwise(train: Scatter, *, ridge: float = 1e-6, test: Scatter | None = None) -> Pairwise:
    """The matrix of one-model bases; one factorisation a basis model serves all targets.

    Raises `UserError` as `decompose`.
    """
    names = train.names
    if len(names) < 2:
        raise UserError("pairs need at least two models")
    for name in names:
        check_basis(train, name, [other for other in names if other != name])
        if test is not None:
            check_varies(test, name, "test")
    scored: dict[tuple[str, str], float] = {}
    for column in names:
        targets = [name for name in names if name != column]
        zu = train.covariance([column], targets)
        weights = solve_ridge(train.covariance([column]), zu, ridge).weights_UZ
        start = 0
        for target in targets:
            stop = start + train.widths[target]
            weights_UZ, own_zu = weights[start:stop], zu[:, start:stop]
            start = stop
            if test is None:
                explained = (weights_UZ.T * own_zu).sum() + ridge * (weights_UZ**2).sum()
                spread = np.trace(train.covariance([target]))
                scored[target, column] = float(explained / spread)
                continue
            bias_U = train.mean([target]) - weights_UZ @ train.mean([column])
            left = np.trace(residual_moment(test, target, [column], weights_UZ, bias_U))
            scored[target, column] = float(1 - left / np.trace(test.covariance([target])))
    rows = tuple(tuple(scored.get((row, column)) for column in names) for row in names)
    return Pairwise(names, rows)


@dataclass(frozen=True)
class GreedyPath:
    """Basis models in the order in which they add most, and the R2 after each."""

    target: str
    order: tuple[str, ...]
    r2: tuple[float, ...]


def greedy(
    train: Scatter,
    target: str,
    basis: Sequence[str],
    *,
    ridge: float = 1e-6,
    validation: Scatter | None = None,
    test: Scatter | None = None,
) -> GreedyPath:
    """Forward selection by `validation` (else by training R2); R2 is that of `test`, if given.

    Raises `UserError` as `decompose`.
    """
    choosing = _Values(train, target, basis, ridge, validation)
    scoring = choosing if test is None else _Values(train, target, basis, ridge, test)
    order: list[str] = []
    while len(order) < len(basis):
        left = [name for name in basis if name not in order]
        order.append(max(left, key=lambda name: choosing([*order, name])))
    return GreedyPath(
        target, tuple(order), tuple(scoring(order[: i + 1]) for i in range(len(order)))
    )


@dataclass(frozen=True)
class Shares:
    """What each basis model contributes to the R2 of a target."""

    target: str
    r2: float
    shapley: dict[str, float]
    """They add up to `r2`."""
    standard_error: dict[str, float] | None
    """Of the sampling of orders; None where the shares are exact."""
    orders: int
    """Orders in which models were added; all of them where the shares are exact."""
    unique: dict[str, float]
    alone: dict[str, float]

    @property
    def shared(self) -> float:
        """R2 that belongs to no model alone: R2 less all unique parts."""
        return self.r2 - sum(self.unique.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shared": self.shared}


def shares(
    train: Scatter,
    target: str,
    basis: Sequence[str],
    *,
    ridge: float = 1e-6,
    test: Scatter | None = None,
    orders: int = 64,
    seed: int = 0,
) -> Shares:
    """Shapley shares, unique and shared parts of the R2 of `target` on `basis`.

    `orders` bounds the orders that are sampled for more than `EXACT_MODELS` models; each comes with
    its reversal, which takes the position's effect out of the error.

    Raises `UserError` as `decompose`, and for fewer than four orders.
    """
    if orders < 4:
        raise UserError(f"{orders} orders give no standard error; sample at least 4")
    value = _Values(train, target, basis, ridge, test)
    whole = value(basis)
    if len(basis) <= EXACT_MODELS:
        shapley = _exact(value, basis)
        errors, count = None, math.factorial(len(basis))
    else:
        shapley, errors = _sampled(value, basis, orders // 2, seed)
        count = orders // 2 * 2
    return Shares(
        target=target,
        r2=whole,
        shapley=shapley,
        standard_error=errors,
        orders=count,
        unique={n: whole - value([other for other in basis if other != n]) for n in basis},
        alone={n: value([n]) for n in basis},
    )


def _exact(value: Callable[[Sequence[str]], float], basis: Sequence[str]) -> dict[str, float]:
    """Sum over subsets A without i of |A|! (m - |A| - 1)! / m! (v(A + i) - v(A))."""
    m = len(basis)
    made = {}
    for name in basis:
        others = [other for other in basis if other != name]
        made[name] = sum(
            (value([*subset, name]) - value(subset)) / (m * math.comb(m - 1, size))
            for size in range(m)
            for subset in itertools.combinations(others, size)
        )
    return made


def _sampled(
    value: Callable[[Sequence[str]], float], basis: Sequence[str], pairs: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    rng = np.random.default_rng(seed)
    gains_Km = np.empty((pairs, len(basis)))
    for k in range(pairs):
        order = rng.permutation(len(basis))
        gains_Km[k] = (_gains(value, basis, order) + _gains(value, basis, order[::-1])) / 2
    errors = gains_Km.std(0, ddof=1) / math.sqrt(pairs)
    means = gains_Km.mean(0)
    return dict(zip(basis, means.tolist(), strict=True)), dict(
        zip(basis, errors.tolist(), strict=True)
    )


def _gains(
    value: Callable[[Sequence[str]], float], basis: Sequence[str], order: NDArray[np.int64]
) -> NDArray[np.float64]:
    gains = np.empty(len(basis))
    before, chosen = 0.0, []
    for i in order.tolist():
        chosen.append(basis[i])
        now = value(chosen)
        gains[i], before = now - before, now
    return gains
