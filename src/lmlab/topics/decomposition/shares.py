"""Which basis model gives what: pairs, greedy selection, Shapley shares, unique and shared parts.

Everything is from scatters. A set of basis models has a value, the R2 of the target on it (on the
test scatter where there is one, else in training):
- pairwise: the value of each model alone, for every target;
- greedy: the model that adds most, then the next;
- Shapley share: what a model adds, averaged over all orders in which models can be added; shares
  add up to the value of all. Exact to 8 models; beyond, a sample of orders and their reversals;
- unique: what all lose without it; shared: what no model has alone.

Notable:
- Held-out values can fall when a model is added, so shares and unique parts can be negative.
- With several ridges, each set of basis models is fitted at its own, the best on the validation
  scatter: the best ridge of a large basis can be far from that of one model, and R2 at it far too
  low (0.078 in place of 0.223 for SmolLM2-135M from a small model).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmlab.errors import UserError
from lmlab.numerics.regression import solve_ridge
from lmlab.numerics.scatter import Scatter
from lmlab.topics.decomposition.decomposition import check_basis, check_varies

Array = NDArray[np.float64]

EXACT_MODELS = 8
_SEED = 0


@dataclass(frozen=True)
class Ridges:
    """One ridge, or several of which each fit takes the best on `validation`."""

    values: tuple[float, ...]
    validation: Scatter | None = None
    start: float | None = None
    """Where the search begins (default: the middle); the ridge of the whole basis, say."""

    def __post_init__(self) -> None:
        if not self.values or (len(self.values) > 1 and self.validation is None):
            raise UserError("give one ridge, or several and a validation scatter to choose on")


def _ridges(ridge: float | Ridges) -> Ridges:
    return Ridges((ridge,)) if isinstance(ridge, float | int) else ridge


@dataclass(frozen=True)
class _Scored:
    """Moments of a split about the training means, where the bias puts the fit."""

    zz: Array
    zu: Array
    spread: float
    shift: float

    @classmethod
    def of(cls, split: Scatter, train: Scatter, target: str, basis: Sequence[str]) -> _Scored:
        shift_Z = split.mean(basis) - train.mean(basis)
        shift_U = split.mean([target]) - train.mean([target])
        return cls(
            split.covariance(basis) + np.outer(shift_Z, shift_Z),
            split.covariance(basis, [target]) + np.outer(shift_Z, shift_U),
            float(np.trace(split.covariance([target]))),
            float(shift_U @ shift_U),
        )

    def r2(self, weights_UZ: Array, at: NDArray[np.int64]) -> float:
        quadratic = float(((weights_UZ @ self.zz[np.ix_(at, at)]) * weights_UZ).sum())
        crossed = float((weights_UZ.T * self.zu[at]).sum())
        return 1 - (self.spread + self.shift - 2 * crossed + quadratic) / self.spread


@dataclass(frozen=True)
class _Value:
    """A set's R2 on the scored split and on the validation split (without one, in training), both
    of the same fit."""

    r2: float
    validated: float
    ridge: float


class _Values:
    """R2 of a target on sets of basis models, each fitted once.

    Copies the target's and the basis's moments once; a set then is a sub-block of them.
    """

    def __init__(
        self,
        train: Scatter,
        target: str,
        basis: Sequence[str],
        ridges: Ridges,
        test: Scatter | None,
    ) -> None:
        check_basis(train, target, basis)
        for split, name in ((test, "test"), (ridges.validation, "validation")):
            if split is not None:
                check_varies(split, target, name)
        self._places, start = {}, 0
        for name in basis:
            self._places[name] = np.arange(start, start + train.widths[name])
            start += train.widths[name]
        self._zz, self._zu = train.covariance(basis), train.covariance(basis, [target])
        self._ridges = tuple(sorted(ridges.values))
        self._start = len(self._ridges) // 2
        if ridges.start is not None:
            self._start = int(np.abs(np.log(np.divide(self._ridges, ridges.start))).argmin())
        self._train_spread = float(np.trace(train.covariance([target])))
        self._test, self._validation = (
            None if split is None else _Scored.of(split, train, target, basis)
            for split in (test, ridges.validation)
        )
        self._known: dict[frozenset[str], _Value] = {frozenset(): _Value(0.0, 0.0, 0.0)}

    def __call__(self, names: Sequence[str]) -> float:
        return self.value(names).r2

    def value(self, names: Sequence[str]) -> _Value:
        """The R2 of a set at its ridge."""
        key = frozenset(names)
        if key not in self._known:
            self._known[key] = self._best([name for name in self._places if name in key])
        return self._known[key]

    def _best(self, names: list[str]) -> _Value:
        """Up and down the grid from the start until validation falls: it has one peak, and so
        few fits are needed."""
        best = self._fit(names, self._ridges[self._start])
        if len(self._ridges) == 1:
            return best
        for step in (1, -1):
            at = self._start + step
            while 0 <= at < len(self._ridges):
                tried = self._fit(names, self._ridges[at])
                if tried.validated < best.validated or (
                    step < 0 and tried.validated == best.validated
                ):
                    break
                best, at = tried, at + step
        return best

    def _fit(self, names: list[str], ridge: float) -> _Value:
        at = np.concatenate([self._places[name] for name in names])
        zu = self._zu[at]
        weights_UZ = solve_ridge(self._zz[np.ix_(at, at)], zu, ridge).weights_UZ
        explained = float((weights_UZ.T * zu).sum() + ridge * (weights_UZ**2).sum())
        trained = explained / self._train_spread
        return _Value(
            trained if self._test is None else self._test.r2(weights_UZ, at),
            trained if self._validation is None else self._validation.r2(weights_UZ, at),
            ridge,
        )


@dataclass(frozen=True)
class Pairwise:
    """R2 of every model on every other alone: rows are targets, columns the basis."""

    names: tuple[str, ...]
    r2: tuple[tuple[float | None, ...], ...]
    """None on the diagonal."""
    ridges: tuple[tuple[float | None, ...], ...]
    """That each was fitted with."""

    def ridge(self, target: str, basis: str) -> float:
        """That of one pair."""
        ridge = self.ridges[self.names.index(target)][self.names.index(basis)]
        assert ridge is not None, "a model is not regressed on itself"
        return ridge

    @property
    def mean(self) -> float:
        """Over all pairs."""
        return float(np.mean([value for row in self.r2 for value in row if value is not None]))


def pairwise(
    train: Scatter, *, ridge: float | Ridges = 1e-6, test: Scatter | None = None
) -> Pairwise:
    """The matrix of one-model bases.

    Of several ridges each pair takes its own, the best on validation, the larger of equals. Raises
    `UserError` as `decompose`.
    """
    ridges, names = _ridges(ridge), train.names
    if len(names) < 2:
        raise UserError("pairs need at least two models")
    scored = {
        (target, basis): _Values(train, target, [basis], ridges, test).value([basis])
        for target in names
        for basis in names
        if basis != target
    }
    of_pairs = [[scored.get((row, column)) for column in names] for row in names]
    return Pairwise(
        names,
        tuple(tuple(None if v is None else v.r2 for v in row) for row in of_pairs),
        tuple(tuple(None if v is None else v.ridge for v in row) for row in of_pairs),
    )


@dataclass(frozen=True)
class GreedyPath:
    """Basis models in the order in which they add most, and the R2 after each."""

    target: str
    order: tuple[str, ...]
    r2: tuple[float, ...]
    ridges: tuple[float, ...]
    """That each step was fitted with."""


def greedy(
    train: Scatter,
    target: str,
    basis: Sequence[str],
    *,
    ridge: float | Ridges = 1e-6,
    test: Scatter | None = None,
) -> GreedyPath:
    """Forward selection by the validation of `ridge` (else by training R2); R2 is that of `test`,
    if given.

    Of several ridges, each set takes its own. Raises `UserError` as `decompose`.
    """
    values = _Values(train, target, basis, _ridges(ridge), test)
    order: list[str] = []
    while len(order) < len(basis):
        left = [name for name in basis if name not in order]
        order.append(max(left, key=lambda name: values.value([*order, name]).validated))
    steps = [values.value(order[: i + 1]) for i in range(len(order))]
    return GreedyPath(
        target,
        tuple(order),
        tuple(step.r2 for step in steps),
        tuple(step.ridge for step in steps),
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


def shares(
    train: Scatter,
    target: str,
    basis: Sequence[str],
    *,
    ridge: float | Ridges = 1e-6,
    test: Scatter | None = None,
    orders: int = 64,
) -> Shares:
    """Shapley shares, unique and shared parts of the R2 of `target` on `basis`.

    `orders` bounds the orders that are sampled for more than `EXACT_MODELS` models; each comes with
    its reversal, which takes the position's effect out of the error. Of several ridges, each set of
    basis models takes its own.

    Raises `UserError` as `decompose`, and for fewer than four orders.
    """
    if orders < 4:
        raise UserError(f"{orders} orders give no standard error; sample at least 4")
    ridges = _ridges(ridge)
    value = _Values(train, target, basis, ridges, test)
    whole = value(basis)
    if len(basis) <= EXACT_MODELS:
        shapley = _exact(value, basis)
        errors, count = None, math.factorial(len(basis))
    else:
        shapley, errors = _sampled(value, basis, orders // 2)
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
    shapley = {}
    for name in basis:
        others = [other for other in basis if other != name]
        shapley[name] = sum(
            (value([*subset, name]) - value(subset)) / (m * math.comb(m - 1, size))
            for size in range(m)
            for subset in itertools.combinations(others, size)
        )
    return shapley


def _sampled(
    value: Callable[[Sequence[str]], float], basis: Sequence[str], pairs: int
) -> tuple[dict[str, float], dict[str, float]]:
    rng = np.random.default_rng(_SEED)
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
