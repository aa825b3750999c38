"""Pruning of one model on a store: curves on three texts, and a model with a smaller head.

Notable: generation agreement compares greedy continuations of the same beginnings of windows, token
by token, by the pruned and the unpruned head; one token that differs lets the rest drift apart. One
narrowed head exists at a time.

Shapes: D width, P prompts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from lmlab.data.order import reading_order
from lmlab.data.store import TokenStore
from lmlab.data.windows import EvaluationWindows
from lmlab.durable import check_absent
from lmlab.errors import UserError
from lmlab.lm.export import write_model
from lmlab.lm.language_model import LanguageModel
from lmlab.models.build import parameters
from lmlab.models.head import is_tied
from lmlab.models.narrow import check_narrow, with_narrow_head
from lmlab.numerics.bounded import within
from lmlab.numerics.random_effects import Interval
from lmlab.progress import say, track
from lmlab.results import Result
from lmlab.topics.encoding.encoding import EncodingFit
from lmlab.topics.encoding.of_model import Head, output_head, regression
from lmlab.topics.encoding.options import check_shares
from lmlab.topics.encoding.pruning import (
    DIRECTIONS,
    WAYS,
    NarrowWeights,
    Order,
    Point,
    Prunable,
    Removal,
    Replacement,
    Way,
    axes_order,
    compare_heads,
    narrowed,
    prunable,
    pruned,
    removal_order,
    singular_order,
)
from lmlab.topics.encoding.token_probability import (
    IN_DOMAIN,
    ReadText,
    mean_of_states,
    read_texts,
)

_PROMPT, _WRITTEN = 16, 24  # tokens
_ROUNDS = 7


@dataclass(frozen=True)
class PrunedText:
    """The curves on one text."""

    text: str
    positions: int
    points: tuple[Point, ...]
    prunable: tuple[Prunable, ...]


@dataclass(frozen=True)
class Parameters:
    """How many a model has, shared ones once."""

    before: int
    after: int


def pruned_parameters(lm: LanguageModel, share: float, *, way: Way) -> Parameters:
    """How many parameters the model has, and how many the one that `write_pruned` would write."""
    head = lm.model.get_output_embeddings()
    vocabulary, width = head.weight.shape
    kept = width - round(share * width)
    before = parameters(lm.model)
    gone = (0 if is_tied(lm.model) else vocabulary * width) + (
        0 if head.bias is None else vocabulary
    )
    projection = width * kept if way in DIRECTIONS else 0
    return Parameters(before, before - gone + vocabulary * (kept + 1) + projection)


def check_can_write(lm: LanguageModel, share: float, *, way: Way, untie: bool) -> None:
    """`UserError` for a model that cannot be written with a smaller head, for a tied one without
    `untie` (its head would be added to it), and for one that is not tied with it."""
    check_narrow(lm.model)
    tied = is_tied(lm.model)
    if tied and not untie:
        count = pruned_parameters(lm, share, way=way)
        raise UserError(
            f"{lm.name} is tied: its output embedding is its input embedding, which stays. "
            f"Without {share:.0%} of the dimensions it gets a head of its own beside it, and "
            f"{count.after:,} parameters in place of {count.before:,}. Where that is wanted, as "
            "for a faster head: `untie`"
        )
    if untie and not tied:
        raise UserError(f"`untie`: {lm.name} is not tied; leave it out")
    width = lm.model.get_output_embeddings().weight.shape[1]
    if not 0 < round(share * width) < width:
        raise UserError(
            f"share {share:g} removes {round(share * width)} of the {width} dimensions; "
            f"from {1 / width:.2g} to {1 - 1 / width:.2g} some go and some stay"
        )


@dataclass(frozen=True)
class ChosenHead:
    """What decides a smaller head; `chosen_weights` makes the head from it and the model's own."""

    way: Way
    replace: Replacement
    removed: int
    axes_D: NDArray[np.int64] | None
    """Numbers of the axes, the first to be removed first; None where directions are no axes."""
    mean_hidden_D: NDArray[np.float64]
    """Of the estimation text: what a removed dimension is replaced by."""
    basis_DD: NDArray[np.float64] | None = None
    """Of fisher, whose directions depend on a text: along which states are measured."""
    back_DD: NDArray[np.float64] | None = None
    """And along which they are written back."""

    def order(self, head: Head) -> Order:
        """Of the model with this head."""
        if self.axes_D is not None:
            return axes_order(self.way, self.axes_D)
        if self.basis_DD is None or self.back_DD is None:
            return singular_order(head.embedding_VD)
        return Order(self.way, self.basis_DD, None, self.back_DD)


@dataclass(frozen=True)
class Speed:
    """How many times as fast the new form is: seconds of the old one over those of the new, median
    over rounds that alternate."""

    head_ratio: float
    """Of the head alone."""
    forward_ratio: float
    """Of the whole model: of its body, which is the same, and a head."""
    positions: int
    head_multiplications: float
    """New over old, per position."""


@dataclass(frozen=True)
class PruneResult(Result, kind="prune"):
    """What removing dimensions of a model's output embedding does, on up to three texts."""

    model: str
    store: str
    other: str | None
    """The store of the text out of domain."""
    width: int
    encoding: EncodingFit
    texts: tuple[PrunedText, ...]
    tied: bool
    """Whether the model's output embedding is its input embedding, which stays."""
    chosen: ChosenHead | None
    """The head to be written, where a share was asked for."""
    parameters: Parameters | None
    """Of the model before and after; None where none is to be written."""
    speed: Speed | None = None
    """Of the model that was written."""

    @property
    def told(self) -> PrunedText:
        """The text that speaks for others: in domain where there is one. What is removed was
        chosen on the estimation text, which flatters the ways that read it."""
        return next((text for text in self.texts if text.text == IN_DOMAIN), self.texts[0])


def prune(
    lm: LanguageModel,
    store: TokenStore,
    *,
    shares: Sequence[float],
    replacements: Sequence[Replacement] = ("mean", "zero"),
    share: float | None = None,
    way: Way = "encoding",
    untie: bool = False,
    replacement: Replacement = "mean",
    margin: float = 0.01,
    context: int | None = None,
    max_windows: int | None = 64,
    prompts: int = 16,
    other: TokenStore | None = None,
    texts: Sequence[ReadText] | None = None,
) -> PruneResult:
    """Curves over `shares` of removed dimensions on the estimation text (validation split),
    in-domain text (test split) and, where given, the validation split of another store.

    With `share`, also the head that `write_pruned` writes, chosen by `way`. Generation is compared
    on the estimation text, for `replacement`, where the model is causal and `prompts` is not 0.
    `texts` are those of `store` and `other` where they have been read already.

    Raises `UserError` for shares outside [0, 1), a head that is not linear, a `share` of a model
    that is tied without `untie` (`check_can_write`), and as `encode`.
    """
    check_shares(*shares, share or 0)
    if not lm.backbone.head.is_linear:
        raise UserError(f"{lm.name} scales or caps its logits; pruning knows linear heads only")
    if share is not None:
        check_can_write(lm, share, way=way, untie=untie)
    if texts is None:
        texts = read_texts(lm, store, other=other, context=context, max_windows=max_windows)
    estimation = texts[0]
    measured = regression(lm, estimation.windows, mean_of_states(lm, estimation.states))
    head, encoding = measured.head, measured.encoding
    hidden_ND = estimation.states.hidden_ND.double().cpu().numpy()
    mean_D, width = hidden_ND.mean(0), hidden_ND.shape[1]
    orders = {each: removal_order(each, encoding, head, hidden_ND) for each in WAYS}

    def narrow(point: Point) -> NarrowWeights:
        return narrowed(Removal(orders[point.way], point.removed, point.replace), head, mean_D)

    numbers = sorted({round(each * width) for each in shares})
    removals = [
        Removal(orders[each], removed, how)
        for each, how, removed in product(WAYS, replacements, numbers)
    ]
    curves: list[PrunedText] = []
    for text in texts:
        states = text.states
        points = compare_heads(
            states.hidden_ND.cpu().numpy(), states.targets_N.cpu().numpy(), states.clusters,
            head, removals, mean_D,
        )  # fmt: skip
        if text is estimation and prompts and lm.objective.reading.autoregressive:
            points = _with_generation(lm, text.windows, points, narrow, replacement, prompts)
        passed = tuple(prunable(points, margin=margin))
        curves.append(PrunedText(text.name, len(states.hidden_ND), tuple(points), passed))
    return PruneResult(
        model=lm.name,
        store=str(store.path),
        other=None if other is None else str(other.path),
        width=width,
        encoding=encoding.fit,
        texts=tuple(curves),
        tied=is_tied(lm.model),
        parameters=None if share is None else pruned_parameters(lm, share, way=way),
        chosen=None
        if share is None
        else _chosen(orders[way], replacement, round(share * width), mean_D),
    )


def _chosen(
    order: Order, replacement: Replacement, removed: int, mean_hidden_D: NDArray[np.float64]
) -> ChosenHead:
    kept = (order.basis_DD, order.back_DD) if order.way == "fisher" else ()
    return ChosenHead(order.way, replacement, removed, order.axes_D, mean_hidden_D, *kept)


def _with_generation(
    lm: LanguageModel,
    windows: EvaluationWindows,
    points: list[Point],
    narrow: Callable[[Point], NarrowWeights],
    replacement: Replacement,
    prompts: int,
) -> list[Point]:
    rows = np.flatnonzero(windows.length_M >= _PROMPT)[:: max(1, len(windows) // prompts)][:prompts]
    if len(rows) == 0 or windows.context < _PROMPT + _WRITTEN:
        return points
    ids_PT = np.stack([
        windows.ids(int(row))[reading_order(lm.order, int(windows.length_M[row]))][:_PROMPT]
        for row in rows
    ])  # fmt: skip
    clusters = windows.clusters[rows]
    expected_PT = _continued(lm, ids_PT)

    def agreement(point: Point) -> Interval:
        with pruned(lm.model, narrow(point)):
            same_PT = _continued(lm, ids_PT) == expected_PT
        sums = (same_PT.sum(1, dtype=np.float64), np.full(len(rows), float(_WRITTEN)))
        return within(clusters.ratio(*sums), 0, 1)

    compared: list[Point] = []
    with track("generation", float(len(points)), "heads") as bar:
        for point in points:
            if point.replace == replacement:
                point = replace(point, same_generation=agreement(point))
            compared.append(point)
            bar.advance()
    return compared


@torch.no_grad()
def _continued(lm: LanguageModel, ids_PT: NDArray[np.int64]) -> NDArray[np.int64]:
    """Greedy continuations (P, written)."""
    start = np.column_stack([np.full(len(ids_PT), lm.tokenizer.bos_id), ids_PT])
    inputs = torch.from_numpy(start).to(lm.backbone.device)
    # no end-of-text id: every continuation has the same length
    settings = GenerationConfig(
        max_new_tokens=_WRITTEN, min_new_tokens=_WRITTEN, do_sample=False,
        pad_token_id=lm.tokenizer.end_of_text_id, eos_token_id=None,
    )  # fmt: skip
    recommended, lm.model.generation_config = lm.model.generation_config, settings
    try:
        written = lm.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), generation_config=settings
        )
    finally:
        lm.model.generation_config = recommended
    return written[:, inputs.shape[1] :].cpu().numpy()


def chosen_weights(lm: LanguageModel, chosen: ChosenHead) -> NarrowWeights:
    """The head of fewer dimensions that was chosen for this model."""
    head = output_head(lm)
    removal = Removal(chosen.order(head), chosen.removed, chosen.replace)
    return narrowed(removal, head, chosen.mean_hidden_D)


def narrow_model(lm: LanguageModel, weights: NarrowWeights) -> Any:
    """The transformers model with a head of fewer dimensions. `UserError` as `with_narrow_head`."""

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    axes = weights.kept_E
    return with_narrow_head(
        lm.model,
        tensor(weights.weight_VE).float(),
        tensor(weights.bias_V).float(),
        kept_E=None if axes is None else tensor(axes),
        projection_DE=None if axes is not None else tensor(weights.basis_DE).float(),
    )


@torch.no_grad()
def measure_speed(lm: LanguageModel, narrow: Any, weights: NarrowWeights) -> Speed:
    """Times the model's body, its head and that of `narrow` (made of `weights`) on one batch."""
    length = min(lm.context, 256)
    windows = 8 if lm.backbone.device.type == "cuda" else 1  # enough to fill the device
    ids_BT = torch.arange(windows * length, device=lm.backbone.device).view(windows, length)
    ids_BT = ids_BT % lm.tokenizer.vocabulary
    hidden_BTD = lm.model.base_model(input_ids=ids_BT).last_hidden_state

    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        if ids_BT.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    ratios: dict[str, list[float]] = {"head": [], "forward": []}
    with track("speed", _ROUNDS, "rounds") as bar:
        for number in range(_ROUNDS + 1):
            body = seconds(lambda: lm.model.base_model(input_ids=ids_BT))
            old = seconds(lambda: lm.model.get_output_embeddings()(hidden_BTD))
            new = seconds(lambda: narrow.lm_head(hidden_BTD))
            if number:  # the first is for what libraries allocate once
                ratios["head"].append(old / new)
                ratios["forward"].append((body + old) / (body + new))
                bar.advance()
    width, vocabulary = weights.basis_DE.shape[0], len(weights.weight_VE)
    kept = weights.weight_VE.shape[1]
    extra = 0 if weights.kept_E is not None else width * kept
    return Speed(
        head_ratio=statistics.median(ratios["head"]),
        forward_ratio=statistics.median(ratios["forward"]),
        positions=ids_BT.numel(),
        head_multiplications=(kept * vocabulary + extra) / (width * vocabulary),
    )


def write_pruned(
    lm: LanguageModel, result: PruneResult, out: Path, *, options: Mapping[str, Any] | None = None
) -> PruneResult:
    """The model with the chosen head as a transformers folder (complete or not at all), with its
    result, the page and the `options` that gave them; loads after `import lmlab.models`. Returns
    the result with the measured speed.

    Raises `UserError` if `out` exists, or for an architecture without a narrow class.
    """
    check_absent(out)
    assert result.chosen is not None
    say("narrowing the head, and measuring its speed")
    weights = chosen_weights(lm, result.chosen)
    narrow = narrow_model(lm, weights)
    result = replace(result, speed=measure_speed(lm, narrow, weights))
    write_model(
        lm, narrow, out,
        texts=result.files(command="prune", options=options),
        head=f"untied, {weights.weight_VE.shape[1]} of {result.width} dimensions",
        pruned_from=lm.name,
    )  # fmt: skip
    return result
