"""How the output embedding comes to encode frequency in training, checkpoint by checkpoint.

At each checkpoint: held-out R2 of the output embedding against log corpus frequency and against the
model's own -log alpha (alpha over a fixed sample of validation windows), norms, the KL of the
corpus unigram to alpha, validation loss, and how far the parameters have moved.

Notable:
- Frequency counts as captured at the first step where R2 against log frequency has reached 90 % of
  its last value, between checkpoints in proportion to the logarithm of the step. Its interval is
  over tokens: the tokens are drawn again, the same ones at every checkpoint, 400 times (percentiles
  of 95 %). It does not cover other seeds.
- Beside it stands the step where the loss on the same windows has made 90 % of its way.
- What is known of a step is the two checkpoints that it lies between; the point between them is a
  guess. So which of the two steps comes first is decided only where these brackets (that of the
  frequency widened over the drawn tokens) do not overlap.
- Movement is the distance from the first checkpoint over that of the last from the first, for all
  parameters and for the output embedding. While a run goes on, the last is the newest.
- Checkpoints with the same weights, copies under several names, are named; where all are, there is
  no training to watch, and they are refused.
- A Hub model's history is given as one folder or name for each checkpoint, in their order.

Shapes: V vocabulary, N fitted tokens, D width, K checkpoints, R resamples.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lmlab.config import read_toml
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.unigram import log_unigram
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.models.backbone import LogitHead
from lmlab.numerics.folded_regression import fit_linear
from lmlab.numerics.log_sum_exp import nats_of_targets
from lmlab.objectives.cross_entropy import cross_entropy_each
from lmlab.progress import say
from lmlab.results import Result
from lmlab.run_folders.checkpoint import checkpoints, verify_checkpoint
from lmlab.topics.encoding.of_model import regression, training_counts
from lmlab.topics.encoding.token_probability import ProbabilitySums, choose_windows, store_states

Array = NDArray[np.float64]

_CAPTURED = 0.9
_RESAMPLES, _SEED = 400, 0
_FILM, _SAMPLE = 4, 450  # checkpoints, tokens
_STEP = re.compile(r"(?:step|checkpoint)[-_]?(\d+)")


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint. R2 are held out (5 folds of tokens)."""

    name: str
    step: int
    r2_frequency: float
    """Of the output embedding against log(count + 1) in the training split."""
    r2_alpha: float
    """Against the model's own -log alpha, without an output bias: the embedding alone."""
    slope_norm: float
    """Of the fit against -log alpha."""
    mean_norm: float
    """Of the rows of the output embedding."""
    unigram_kl: float
    """KL(unigram of the training split || alpha), nats."""
    loss: float
    """Nats per token on the windows of alpha."""


@dataclass(frozen=True)
class _Seen:
    """A snapshot, and what comparing checkpoints needs."""

    snapshot: Snapshot
    token_N: NDArray[np.int64]
    frequency_N: Array
    error_N: Array
    """Held-out error of log frequency, by token."""
    weights: dict[str, torch.Tensor]
    embedding_VD: torch.Tensor


@dataclass(frozen=True)
class Captured:
    """A step, its interval over tokens, the checkpoints around it; None where there was none."""

    step: float | None
    low: float | None
    high: float | None
    after: float | None
    """The last checkpoint before it (0 if it had come by the first one); with an interval, that of
    its lower end."""
    by: float | None
    """The first checkpoint that has it; with an interval, that of its upper end."""


Order = Literal["frequency first", "loss first", "not decided"]


@dataclass(frozen=True)
class FrequencySample:
    """Log frequency of a sample of the fitted tokens at one checkpoint."""

    step: int
    known_N: Array
    """log(count + 1) in the training split."""
    predicted_N: Array
    """By the fit to the output embedding without the token's fold."""
    text_N: tuple[str, ...] = ()
    """Of the tokens; empty in results of before it was kept."""


@dataclass(frozen=True)
class Dynamics(Result, kind="dynamics"):
    """The output embedding of a model over the checkpoints of its training."""

    model: str
    store: str
    windows: int
    snapshots: tuple[Snapshot, ...]
    moved: tuple[float, ...]
    """Of all parameters, 0 at the first checkpoint, 1 at the last."""
    moved_embedding: tuple[float, ...]
    frequency: Captured
    """Where R2 against log frequency has reached 90 % of its last value."""
    loss: Captured
    """Where the loss has made 90 % of its way; no interval over tokens."""
    same_weights: tuple[tuple[str, str], ...] = ()
    """Checkpoints with the weights of an earlier one, and that one."""
    film: tuple[FrequencySample, ...] = ()
    """The same tokens at some checkpoints from the first third of all to the last."""

    @property
    def order(self) -> Order | None:
        """Which of the two came first in this run; None where one of them did not come."""
        frequency, loss = self.frequency, self.loss
        if frequency.after is None or frequency.by is None or loss.after is None or loss.by is None:
            return None
        if frequency.by <= loss.after:
            return "frequency first"
        return "loss first" if loss.by <= frequency.after else "not decided"


class Watch:
    """Measures checkpoints as they come, each once."""

    def __init__(
        self,
        store: TokenStore,
        *,
        context: int | None = None,
        max_windows: int = 32,
        device: str = "cpu",
    ) -> None:
        self.store, self.context, self.max_windows = store, context, max_windows
        self.device = device
        self._seen: dict[str, _Seen] = {}
        self._same: list[tuple[str, str]] = []

    def look(self, name: str | Path) -> Snapshot:
        """The snapshot of a checkpoint, a folder or a Hub name.

        Raises `UserError` as `open_model` and `choose_windows`.
        """
        key = str(name)
        if key not in self._seen:
            lm = open_model(name, device=self.device)
            seen = self._snapshot(lm, step_of(key, len(self._seen)))
            earlier = [name for name, other in self._seen.items() if _equal(other, seen)]
            if earlier:
                say(f"{key} has the same weights as {earlier[0]}: a copy, or no step was made")
                self._same.append((key, earlier[0]))
            self._seen[key] = seen
        return self._seen[key].snapshot

    def _snapshot(self, lm: LanguageModel, step: int) -> _Seen:
        windows = choose_windows(
            lm, self.store, split="validation", context=self.context,
            max_windows=self.max_windows,
        )  # fmt: skip
        logits = lm.backbone.head
        sums = ProbabilitySums(logits)
        nats, tokens = 0.0, 0
        with torch.no_grad():
            for states in store_states(lm, windows, label=f"step {step:,}"):
                sums.add(states.hidden_ND)
                nats += _nats(logits, states.hidden_ND, states.targets_N)
                tokens += len(states.targets_N)
        measured = regression(lm, windows, sums.statistics())
        encoding, embedding_VD = measured.encoding, measured.head.embedding_VD
        counts_N = training_counts(lm, self.store, len(embedding_VD))[encoding.tokens]
        embedding_ND = embedding_VD[encoding.tokens]
        frequency_N = np.log1p(counts_N)
        fit = fit_linear(embedding_ND, frequency_N)
        log_unigram_N = log_unigram(counts_N)
        snapshot = Snapshot(
            name=lm.name,
            step=step,
            r2_frequency=fit.r2_heldout,
            r2_alpha=encoding.embedding_alone.r2,
            slope_norm=float(np.linalg.norm(encoding.slope_D)),
            mean_norm=float(np.linalg.norm(embedding_ND, axis=1).mean()),
            # encoding.target_N is -log alpha
            unigram_kl=float(np.exp(log_unigram_N) @ (log_unigram_N + encoding.target_N)),
            loss=nats / tokens,
        )
        return _Seen(
            snapshot, encoding.tokens, frequency_N, frequency_N - fit.held_out_N,
            {k: v.detach().cpu() for k, v in lm.model.named_parameters()},
            lm.backbone.model.get_output_embeddings().weight.detach().cpu(),
        )  # fmt: skip

    def result(self, model: str) -> Dynamics:
        """The result over all checkpoints so far. `UserError` for fewer than two different ones."""
        seen = sorted(self._seen.values(), key=lambda s: s.snapshot.step)
        if len(seen) < 2:
            raise UserError(
                f"{model}: {len(seen)} checkpoint; dynamics needs at least two. Train with "
                "`checkpoints.logarithmic` `checkpoints.per_doubling` 4, or give several folders"
            )
        if len(self._same) == len(seen) - 1:
            raise UserError(
                f"{model}: all {len(seen)} checkpoints have the same weights, so nothing was "
                "learnt between them; give different ones"
            )
        steps = np.array([s.snapshot.step for s in seen], dtype=np.float64)
        losses = np.array([s.snapshot.loss for s in seen])
        return Dynamics(
            model=model,
            store=str(self.store.path),
            windows=self.max_windows,
            snapshots=tuple(s.snapshot for s in seen),
            moved=_path([s.weights for s in seen]),
            moved_embedding=_path([{"embedding": s.embedding_VD} for s in seen]),
            frequency=captured(
                steps, np.stack([s.frequency_N for s in seen]), np.stack([s.error_N for s in seen])
            ),
            loss=crossing(steps, losses[0] - losses),
            same_weights=tuple(self._same),
            film=_film(seen, self.store.tokenizer),
        )


def _film(seen: Sequence[_Seen], tokenizer: TextTokenizer) -> tuple[FrequencySample, ...]:
    chosen = np.unique(np.linspace(len(seen) // 3, len(seen) - 1, _FILM).round().astype(int))
    rows = np.random.default_rng(_SEED).permutation(len(seen[0].frequency_N))[:_SAMPLE]
    texts = tuple(tokenizer.token(int(i)) for i in seen[0].token_N[rows])
    return tuple(
        FrequencySample(
            s.snapshot.step, s.frequency_N[rows], (s.frequency_N - s.error_N)[rows], texts
        )
        for s in (seen[at] for at in chosen)
    )


def _equal(a: _Seen, b: _Seen) -> bool:
    return a.weights.keys() == b.weights.keys() and all(
        torch.equal(weight, b.weights[name]) for name, weight in a.weights.items()
    )


def _nats(head: LogitHead, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> float:
    if head.is_linear:
        nats_N = cross_entropy_each(hidden_ND, head.weight_VD, targets_N, bias_V=head.bias_V)
    else:
        nats_N = nats_of_targets(head.logits(hidden_ND).float(), targets_N)
    return float(nats_N.sum())


def step_of(name: str, number: int) -> int:
    """The step that a checkpoint's name says (step-00000500, step1000); else its number."""
    steps = _STEP.findall(name)
    return int(steps[-1]) if steps else number


def crossing(steps_K: Array, values_K: Array, *, share: float = _CAPTURED) -> Captured:
    """The first step where the values have reached a share of the last one (90 %), and the
    checkpoints around it; no interval.

    Between checkpoints in proportion to log(step + 1). None where the last value is not above zero.
    """
    wanted = share * values_K[-1]
    if values_K[-1] <= 0:
        return Captured(None, None, None, None, None)
    at = int(np.argmax(values_K >= wanted))
    if at == 0:
        return Captured(float(steps_K[0]), None, None, 0.0, float(steps_K[0]))
    log_step = np.interp(wanted, values_K[at - 1 : at + 1], np.log1p(steps_K[at - 1 : at + 1]))
    return Captured(
        float(np.expm1(log_step)), None, None, float(steps_K[at - 1]), float(steps_K[at])
    )


def captured(steps_K: Array, target_KN: Array, error_KN: Array) -> Captured:
    """Where R2 = 1 - sum error^2 / sum (target - mean)^2 has reached 90 % of its last value."""

    def at(chosen: NDArray[np.int64] | slice) -> Captured:
        target = target_KN[:, chosen]
        total_K = ((target - target.mean(1, keepdims=True)) ** 2).sum(1)
        return crossing(steps_K, 1 - (error_KN[:, chosen] ** 2).sum(1) / total_K)

    rng = np.random.default_rng(_SEED)
    tokens = target_KN.shape[1]
    whole = at(slice(None))
    drawn = [at(rng.integers(0, tokens, tokens)) for _ in range(_RESAMPLES)]
    if any(each.step is None for each in (whole, *drawn)):
        return whole
    step_R, after_R, by_R = np.array([(d.step, d.after, d.by) for d in drawn], dtype=float).T
    low, high = np.quantile(step_R, [0.025, 0.975])
    after = np.quantile(after_R, 0.025, method="lower")
    by = np.quantile(by_R, 0.975, method="higher")
    return Captured(whole.step, float(low), float(high), float(after), float(by))


def _path(weights: Sequence[dict[str, torch.Tensor]]) -> tuple[float, ...]:
    """Distance of each from the first, over that of the last from the first."""
    first = weights[0]

    def distance(other: dict[str, torch.Tensor]) -> float:
        return sum(float((other[k] - first[k]).double().square().sum()) for k in first) ** 0.5

    whole = distance(weights[-1])
    return tuple(distance(each) / whole if whole else 0.0 for each in weights)


def watch_run(
    run: Path,
    watch: Watch,
    *,
    follow: bool = False,
    pause: float = 5.0,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Snapshot]:
    """Snapshots of a run's verified checkpoints in their order; with `follow`, goes on as they
    come until the run's last step.

    Raises `UserError` for a folder that is no run.
    """  # fmt: skip
    if not (run / "config.toml").is_file():
        raise UserError(f"{run}: not a run folder (no config.toml); give a run, or several models")
    last = int(read_toml(run / "config.toml")["steps"])
    done: set[Path] = set()
    while True:
        for path in checkpoints(run):
            if path in done:
                continue
            try:
                verify_checkpoint(path)
            except UserError as error:
                say(f"skipped: {error}")
                done.add(path)
                continue
            done.add(path)
            yield watch.look(path)
        if not follow or any(step_of(path.name, 0) >= last for path in done):
            return
        wait(pause)
