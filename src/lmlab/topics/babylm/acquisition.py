"""When does a model learn a word, and is that the order in which children do?

After Chang and Bergen (2022, "Word acquisition in neural language models"):

- Contexts of each word are drawn from text that the model was not trained on; its surprisal is the
  mean over them, at each checkpoint of a run.
- A sigmoid over log10 of the words seen, `lower + (upper - lower) / (1 + exp((x - middle) /
  scale))`, is fitted to each word's surprisals by least squares. The word's age is where it crosses
  the middle between the chance level and the lowest surprisal of the word.
- A child's age is where a logistic through the shares of children who say the word, month by month,
  crosses one half.
- The correlation of the two (Pearson) is over the words that have both.

Notable:
- No word is dropped silently. Words without contexts, and those whose curve has no age, are named
  with the reason (`Acquisition.unfitted`).
- Chance is log V a token. A word of several tokens has that times their number.
- Words that fewer than half of the children say at the last month (or more than half at the first)
  have the age where the logistic goes on to one half, as usual for these data, and are counted
  (`ChildAges.extrapolated`): without them the function words, which models learn first, would be
  missing. Further outside than half the range of the months nothing is known ("daddy" would be said
  three months before birth): such words are left out, and named.
- Entries such as "chicken (animal)" and "chicken (food)" are one word, whose age is that of the
  first; of "soda/pop" the first form counts.

Shapes: C checkpoints, W words, P pairs of a word and a context.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit

from lmlab.config import digest
from lmlab.data.splits import TEST, VALIDATION
from lmlab.data.store import TokenStore
from lmlab.data.tasks import sample
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.lm.left_context import word_nats
from lmlab.lm.likelihood import Request
from lmlab.numerics.jackknife import jackknife_interval
from lmlab.numerics.random_effects import Interval
from lmlab.studies.kept import kept_arrays
from lmlab.topics.babylm.reading import number_column, read_table

MINIMUM_CHECKPOINTS = 5
"""A sigmoid has four parameters."""
_CONTEXT_WORDS = 32
_TOKEN = re.compile(r"\S+")
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class ChildAges:
    """The age in months at which half of the children say each word (W)."""

    source: str
    words: tuple[str, ...]
    months_W: np.ndarray
    extrapolated: int
    """Words whose age lies outside the months of the file."""
    left_out: tuple[str, ...]
    """Words without an age: the shares do not rise with it, or are one half further outside the
    months of the file than half their range."""


@dataclass(frozen=True)
class Contexts:
    """Pairs of a word and what stands before it in a text."""

    words: tuple[str, ...]
    """The words that have contexts."""
    word_P: np.ndarray
    """The number of each pair's word."""
    contexts: tuple[str, ...]
    forms: tuple[str, ...]
    """The word as it stands there, behind its blank (or line end)."""
    without: tuple[str, ...]
    """Words that were looked for and not found."""


@dataclass(frozen=True)
class Curves:
    """Surprisal of words over a run."""

    words: tuple[str, ...]
    seen_C: np.ndarray
    """Words (or steps) that the model had seen."""
    surprisal_CW: np.ndarray
    """Nats."""
    chance_W: np.ndarray
    """What a model that knows nothing has."""
    contexts: int
    """Pairs behind them."""
    without: tuple[str, ...] = ()
    """Words without contexts."""


@dataclass(frozen=True)
class Acquisition:
    """Ages of words in a run, held against those of children."""

    words: tuple[str, ...]
    log10_seen_W: np.ndarray
    """Age of each word: log10 of the words seen; NaN where it has none."""
    months_W: np.ndarray
    """The children's; NaN where they have none."""
    correlation: Interval | None
    """Pearson's r over the words that have both, its interval over words, for this one run; None
    for fewer than five of them."""
    fitted: int
    """Words that have both ages."""
    unfitted: dict[str, tuple[str, ...]]
    """The other words, by the reason."""


def acquisition(curves: Curves, children: ChildAges) -> Acquisition:
    """Ages of the words of `curves`, and their correlation with the children's.

    Raises `UserError` as `ages_of_words`.
    """
    log10_seen_W, reasons = ages_of_words(curves.surprisal_CW, curves.seen_C, curves.chance_W)
    known = dict(zip(children.words, children.months_W.tolist(), strict=True))
    months_W = np.array([known.get(word, math.nan) for word in curves.words])
    unfitted: dict[str, list[str]] = {}
    for word, reason, months in zip(curves.words, reasons, months_W, strict=True):
        if reason or math.isnan(months):
            unfitted.setdefault(reason or "no age of children", []).append(word)
    if curves.without:
        unfitted["no context in the text"] = list(curves.without)
    both_W = np.isfinite(log10_seen_W) & np.isfinite(months_W)
    return Acquisition(
        words=curves.words,
        log10_seen_W=log10_seen_W,
        months_W=months_W,
        correlation=correlation(log10_seen_W[both_W], months_W[both_W]),
        fitted=int(both_W.sum()),
        unfitted={reason: tuple(words) for reason, words in unfitted.items()},
    )


def ages_of_words(
    surprisal_CW: np.ndarray, seen_C: np.ndarray, chance: float | np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """log10 of the words seen at which each word is learnt (W), NaN where that is not known; and
    why not ("" where it is).

    `chance` is the level of a model that knows nothing, one for all or one a word.

    Raises `UserError` for fewer than five checkpoints, words seen that are not positive and
    different, or surprisals that are not finite.
    """
    surprisal_CW = np.asarray(surprisal_CW, dtype=np.float64)
    seen_C = np.asarray(seen_C, dtype=np.float64)
    if surprisal_CW.ndim != 2 or seen_C.shape != surprisal_CW.shape[:1]:
        raise UserError(
            f"surprisals {surprisal_CW.shape} and words seen {seen_C.shape}; give (C, W) and (C,)"
        )
    if len(seen_C) < MINIMUM_CHECKPOINTS:
        raise UserError(
            f"{len(seen_C)} checkpoints; a sigmoid has four parameters: give at least "
            f"{MINIMUM_CHECKPOINTS}"
        )
    if (seen_C <= 0).any() or len(np.unique(seen_C)) < len(seen_C):
        raise UserError("the words seen at checkpoints must be above 0, each once")
    if not np.isfinite(surprisal_CW).all():
        raise UserError("surprisals must be finite")
    order_C = np.argsort(seen_C)
    x_C, y_CW = np.log10(seen_C[order_C]), surprisal_CW[order_C]
    chance_W = np.broadcast_to(np.asarray(chance, dtype=np.float64), y_CW.shape[1:])
    ages, reasons = [], []
    for y_C, chance_level in zip(y_CW.T, chance_W.tolist(), strict=True):
        age, reason = _age(x_C, y_C, chance_level)
        ages.append(age)
        reasons.append(reason)
    return np.array(ages), reasons


def _age(x_C: np.ndarray, y_C: np.ndarray, chance: float) -> tuple[float, str]:
    if y_C.min() >= chance:
        return math.nan, "never below chance"
    half_way = (chance + float(y_C.min())) / 2
    fit = fit_sigmoid(x_C, y_C)
    if fit.upper <= fit.lower:
        return math.nan, "its surprisal does not fall"
    age = fit.crossing(half_way)
    if math.isnan(age):
        return math.nan, "its curve does not reach the half-way level"
    if age < x_C[0]:
        return math.nan, "learnt before the first checkpoint"
    if age > x_C[-1]:
        return math.nan, "learnt after the last checkpoint"
    return age, ""


@dataclass(frozen=True)
class Sigmoid:
    """`lower + (upper - lower) / (1 + exp((x - middle) / scale))`, with a scale above 0: it falls
    from upper to lower."""

    lower: float
    upper: float
    middle: float
    scale: float

    def at(self, x_C: np.ndarray) -> np.ndarray:
        """Its values."""
        share_C = expit((self.middle - x_C) / self.scale)
        return self.lower + (self.upper - self.lower) * share_C

    def crossing(self, level: float) -> float:
        """Where it is at `level`, NaN if nowhere: with q = (level - lower) / (upper - lower),
        middle + scale log(1 / q - 1)."""
        share = (level - self.lower) / (self.upper - self.lower)
        return self.middle + self.scale * math.log(1 / share - 1) if 0 < share < 1 else math.nan


def fit_sigmoid(x_C: np.ndarray, y_C: np.ndarray) -> Sigmoid:
    """The sigmoid of least squares; its middle lies within one width of the values' range.

    For a middle and a scale the two levels are a linear regression. The best of a grid of them is
    where the search for all four begins.
    """
    width = float(x_C[-1] - x_C[0])
    low, high = float(x_C[0]) - width, float(x_C[-1]) + width
    middle_G, scale_G = (
        grid.ravel()
        for grid in np.meshgrid(np.linspace(low, high, 31), width * np.geomspace(0.02, 1, 12))
    )
    share_GC = expit((middle_G[:, None] - x_C) / scale_G[:, None])
    centred_GC = share_GC - share_GC.mean(1, keepdims=True)
    off_C = y_C - y_C.mean()
    square_G = (centred_GC**2).sum(1)
    slope_G = centred_GC @ off_C / np.maximum(square_G, 1e-12)
    gain_G = slope_G**2 * square_G
    best = int(np.argmax(np.where(slope_G > 0, gain_G, -1.0)))
    slope = float(slope_G[best])
    lower = float(y_C.mean() - slope * share_GC[best].mean())
    if slope <= 0:
        return Sigmoid(lower, lower, float(middle_G[best]), float(scale_G[best]))

    def residuals(values: np.ndarray) -> np.ndarray:
        return (
            Sigmoid(values[0], values[0] + values[1], values[2], math.exp(values[3])).at(x_C) - y_C
        )

    start = [lower, slope, middle_G[best], math.log(scale_G[best])]
    scales = (math.log(0.01 * width), math.log(2 * width))
    found = least_squares(
        residuals,
        start,
        bounds=([-np.inf, 0, low, scales[0]], [np.inf, np.inf, high, scales[1]]),
        x_scale=[max(slope, 1e-6), max(slope, 1e-6), width, 1.0],
    ).x
    return Sigmoid(float(found[0]), float(found[0] + found[1]), float(found[2]), math.exp(found[3]))


def correlation(first_W: np.ndarray, second_W: np.ndarray) -> Interval | None:
    """Pearson's r; its interval over words by the jackknife of Fisher's z = artanh r. None for
    fewer than five words, or where one of the two does not vary."""
    words = len(first_W)
    if words < 5 or not first_W.std() or not second_W.std():
        return None
    z = [_fisher(np.delete(first_W, word), np.delete(second_W, word)) for word in range(words)]
    interval = jackknife_interval(
        _fisher(first_W, second_W), np.array(z), np.ones(words), back=math.tanh
    )
    return replace(interval, note="one run: the interval covers the choice of words, not the seed")


def _fisher(first_W: np.ndarray, second_W: np.ndarray) -> float:
    r = float(np.corrcoef(first_W, second_W)[0, 1])
    return math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))


def read_child_ages(path: Path) -> ChildAges:
    """Ages from a csv file of Wordbank: the column `definition`, and for each month of age a
    column with the share of children who say it.

    Raises `UserError`, naming file and line, for what is missing, no number, or no share.
    """
    rows = read_table(path, ("definition",))
    months = [name for name in rows[0][1] if name.isdigit()]
    if len(months) < 3:
        raise UserError(f"{path}: {len(months)} columns named by a month; give at least 3")
    shares_WM = np.column_stack([number_column(path, rows, name) for name in months])
    bad_WM = ~((shares_WM >= 0) & (shares_WM <= 1))
    if bad_WM.any():
        row, month = np.argwhere(bad_WM)[0]
        raise UserError(
            f"{path}, line {rows[row][0]}: '{months[month]}' is no share between 0 and 1"
        )
    month_M = np.array([float(name) for name in months])
    middle, span = (month_M.min() + month_M.max()) / 2, np.ptp(month_M)
    ages: dict[str, float] = {}
    left_out: list[str] = []
    for (line, row), shares_M in zip(rows, shares_WM, strict=True):
        word = spoken_form(row["definition"])
        if not word:
            raise UserError(f"{path}, line {line}: 'definition' is empty")
        age = age_of_half(month_M, shares_M)
        if abs(age - middle) <= span:
            ages[word] = min(age, ages.get(word, math.inf))
        else:  # NaN too
            left_out.append(word)
    month_W = np.array(list(ages.values()))
    outside_W = (month_W < month_M.min()) | (month_W > month_M.max())
    return ChildAges(
        str(path), tuple(ages), month_W, int(outside_W.sum()),
        tuple(word for word in dict.fromkeys(left_out) if word not in ages),
    )  # fmt: skip


def spoken_form(definition: str) -> str:
    """The word of an entry: "chicken (animal)" is chicken, "soda/pop" soda, "daddy*" daddy."""
    return re.sub(r"\(.*?\)|[*!]", "", definition).split("/")[0].strip().lower()


def age_of_half(month_M: np.ndarray, share_M: np.ndarray) -> float:
    """Where the logistic that is nearest to the shares (least squares) crosses one half; NaN if it
    does not rise."""
    middle, spread = float(month_M.mean()), float(np.ptp(month_M))

    def residuals(values: np.ndarray) -> np.ndarray:
        return expit((month_M - values[0]) / math.exp(values[1])) - share_M

    if np.polyfit(month_M, share_M, 1)[0] <= 1e-9:
        return math.nan
    start = [middle + spread * (0.5 - float(share_M.mean())), math.log(spread / 4)]
    return float(least_squares(residuals, start, x_scale=[spread, 1.0]).x[0])


def draw_contexts(texts: Iterable[str], words: Sequence[str], *, a_word: int = 20) -> Contexts:
    """At most `a_word` places of each word in the texts, chosen by a key, with up to 32 words
    before each. Capitals make no difference; marks at a word's edges do not belong to it.

    Words of several parts ("ice cream") are looked for as they are written. A word at the beginning
    of a text has nothing before it, and is no place.
    """
    longest = max((len(word.split()) for word in words), default=1)
    wanted = dict.fromkeys(words)
    places: dict[str, list[tuple[str, str]]] = {word: [] for word in wanted}
    for text in texts:
        spans = [match.span() for match in _TOKEN.finditer(text)]
        bare = [_EDGES.sub("", text[start:stop]) for start, stop in spans]
        lower = [piece.lower() for piece in bare]
        for n in range(1, len(spans)):
            for parts in range(1, longest + 1):
                word = " ".join(lower[n : n + parts])
                if n + parts > len(spans) or word not in wanted:
                    continue
                if not text.startswith(bare[n], spans[n][0]):
                    continue  # a mark before it would stand between
                stop = spans[n + parts - 1][0] + len(bare[n + parts - 1])
                form = text[spans[n][0] : stop]
                if form.lower() != word:
                    continue
                before = text[spans[max(0, n - _CONTEXT_WORDS)][0] : spans[n - 1][1]]
                places[word].append((before, text[spans[n - 1][1] : stop]))
    found = [word for word in wanted if places[word]]
    contexts, forms, word_P = [], [], []
    for number, word in enumerate(found):
        for before, form in sample(places[word], a_word):
            contexts.append(before)
            forms.append(form)
            word_P.append(number)
    return Contexts(
        words=tuple(found),
        word_P=np.array(word_P, dtype=np.int64),
        contexts=tuple(contexts),
        forms=tuple(forms),
        without=tuple(word for word in wanted if not places[word]),
    )


def held_out_contexts(store: TokenStore, words: Sequence[str], *, a_word: int) -> Contexts:
    """`draw_contexts` from the text of a store that no run is trained on."""
    names = [name for name in (VALIDATION, TEST) if name in store.splits]
    texts = (text for name in names for text in store.split(name).texts())
    return draw_contexts(texts, words, a_word=a_word)


def learning_curves(
    checkpoints: Iterable[tuple[int, LanguageModel | str | Path]],
    contexts: Contexts,
    folder: Path,
) -> Curves:
    """Surprisal of each word at each checkpoint: words seen, and the model or where it is opened
    from. What is measured is kept in `folder`, by words seen and pairs; a model that is not needed
    is not opened. So a folder is for the checkpoints of one run.

    Raises `UserError` for no context, and as `lm.left_context.word_nats`.
    """
    if not contexts.contexts:
        raise UserError("none of the words was found in the text, so there is nothing to score")
    requests = [
        Request(context, form, f"{form!r} after {context!r}")
        for context, form in zip(contexts.contexts, contexts.forms, strict=True)
    ]
    pairs = digest([list(contexts.contexts), list(contexts.forms)])
    per_word_W = np.bincount(contexts.word_P)
    seen, surprisals, chance_W = [], [], np.empty(0)
    for words_seen, model in checkpoints:

        def measure(model: LanguageModel | str | Path = model) -> dict[str, np.ndarray]:
            lm = model if isinstance(model, LanguageModel) else open_model(model)
            nats = word_nats(lm, requests)
            chance_P = nats.tokens_N * math.log(lm.tokenizer.vocabulary)
            return {"nats_P": nats.nats_N, "chance_P": chance_P}

        arrays = kept_arrays(folder / f"words-{words_seen}-{pairs}.safetensors", measure)
        seen.append(words_seen)
        surprisals.append(np.bincount(contexts.word_P, arrays["nats_P"]) / per_word_W)
        chance_W = np.bincount(contexts.word_P, arrays["chance_P"]) / per_word_W
    return Curves(
        words=contexts.words,
        seen_C=np.array(seen),
        surprisal_CW=np.array(surprisals).reshape(len(seen), len(contexts.words)),
        chance_W=chance_W,
        contexts=len(contexts.contexts),
        without=contexts.without,
    )
