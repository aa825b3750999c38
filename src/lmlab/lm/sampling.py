"""Sampling: text from a model, in its own order.

A forward model continues the prompt; a backward model writes what comes before it. The text is
given in reading order in both cases. `continuations` writes after many prompts, each up to a stop;
`drawn_ids` draws several continuations of each prompt, all of one length.

Notable: rows of the output embedding that are no token are never drawn; the probability that the
model gives them is shared out over the tokens in proportion.

Shapes: B prompts of equal length, T tokens; of `drawn_ids` M prompts, P tokens of each, N draws, C
tokens of a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import GenerationConfig

from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.windows import key
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import leading_ids
from lmlab.objectives.evaluate import batches_of_a_length, evaluation_batch
from lmlab.progress import Bar, shown
from lmlab.results import Result


@dataclass(frozen=True)
class Samples(Result, kind="sample", views="lmlab.lm.samples_report"):
    """What a model wrote after a prompt or, if it reads backward, before it."""

    derived = ("texts",)

    model: str
    order: str
    prompt: str
    written: tuple[str, ...]
    """In reading order, without the prompt."""
    tokens: int
    """The most that each may have."""
    temperature: float
    top_k: int | None
    seed: int

    @property
    def texts(self) -> tuple[str, ...]:
        """Prompt and what was written, in reading order."""
        if self.order == BACKWARD:
            return tuple(written + self.prompt for written in self.written)
        return tuple(self.prompt + written for written in self.written)

    def __str__(self) -> str:
        """The texts alone, an empty line between them."""
        return "\n\n".join(self.texts)


def sample(
    lm: LanguageModel,
    prompt: str = "",
    *,
    tokens: int = 100,
    count: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Samples:
    """Draws `count` texts of at most `tokens` new tokens each; repeatable for a seed.

    Temperature 0 takes the likeliest token every time. Writing stops at an end-of-text token.

    Raises `UserError` for a masked model, an order that is neither forward nor backward, and for a
    prompt that leaves no room in the context.
    """
    _check(lm)
    if tokens < 1 or count < 1 or temperature < 0 or (top_k is not None and top_k < 1):
        raise UserError(
            "sampling needs `tokens`, `count`, `top_k` of at least 1, `temperature` of at least 0"
        )
    ids = lm.tokenizer.encode(prompt)
    if lm.order == BACKWARD:
        ids = ids[::-1]
    # the sequence is BOS and what was read so far; its last token needs no position of its own
    room = lm.context - len(ids)
    if room < 1:
        raise UserError(
            f"the prompt has {len(ids)} tokens, which fills the context of {lm.context}"
        )
    start = torch.tensor([[lm.tokenizer.bos_id, *ids.tolist()]])
    start = start.to(lm.backbone.device).repeat(count, 1)
    step = -1 if lm.order == BACKWARD else 1
    rows = _write(lm, start, _Draw(min(tokens, room), temperature, top_k, seed))
    written = tuple(lm.tokenizer.decode(row[::step]) for row in rows)
    return Samples(lm.name, lm.order, prompt, written, tokens, temperature, top_k, seed)


def continuations(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    tokens: int,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    bar: Bar | None = None,
) -> list[str]:
    """What a forward model writes after each prompt: at most `tokens` tokens, and only what stands
    before the first of the texts `stop`. What does not fit is cut from the left of the prompt.

    Begins as `likelihood.log_likelihoods` reads: lmlab's own models with BOS, models from elsewhere
    with what their own tokenizer puts first. Prompts of equal length are written together, without
    padding.

    Raises `UserError` for a masked model, another order than forward, and for more tokens than fit.
    """
    check_continues(lm)
    if tokens < 1 or tokens >= lm.context:
        raise UserError(
            f"{tokens} new tokens are asked for, and {lm.name} has a context of "
            f"{lm.context}, prompt included; ask for fewer, or take a longer model"
        )
    lead = leading_ids(lm)
    room = lm.context - tokens
    starts: list[np.ndarray] = []
    for ids in lm.tokenizer.encode_batch(prompts):
        if lm.record:
            start = np.concatenate([lead, ids[-room:]])
        else:
            start = np.concatenate([lead, ids])[-room:]
        starts.append(start if len(start) else np.array([lm.tokenizer.bos_id]))
    texts = [""] * len(prompts)
    settings = _Draw(tokens, temperature, top_k, seed, tuple(stop))
    length_M = np.array([len(start) for start in starts])

    def size(length: int) -> int:
        return evaluation_batch(length + tokens, lm.model)

    with shown(bar, "writing", len(prompts), "texts") as progress:
        for rows, _ in batches_of_a_length(length_M, size):
            start_BT = torch.from_numpy(np.stack([starts[row] for row in rows]))
            written = _write(lm, start_BT.to(lm.backbone.device), settings)
            for row, new in zip(rows, written, strict=True):
                text = lm.tokenizer.decode(new)
                texts[row] = text[: min((text.find(s) for s in stop if s in text), default=None)]
            progress.advance(float(len(rows)))
    return texts


def drawn_ids(
    lm: LanguageModel,
    prompts_MP: np.ndarray,
    *,
    tokens: int,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    bar: Bar | None = None,
) -> np.ndarray:
    """Ids (M, `count`, `tokens`) that a forward model draws after each prompt, in reading order.

    A prompt is read behind BOS, as windows are scored. Special tokens are not drawn, so no draw
    ends early; their probability is shared out in proportion. Each prompt has a key by
    its number, so its draws do not depend on the other prompts. `bar` counts prompts.

    Raises `UserError` for a masked model, another order than forward, a temperature of 0, and for
    more tokens than fit.
    """
    check_continues(lm)
    prompts, length = prompts_MP.shape
    if temperature <= 0:
        raise UserError(
            f"`temperature` {temperature:g}: all draws would be the same; take one above 0"
        )
    if length + tokens > lm.context:
        raise UserError(
            f"{length} tokens of a prompt and {tokens} new ones do not fit {lm.name}, which has a "
            f"context of {lm.context}; ask for fewer, or take a longer model"
        )
    unwanted = (*lm.tokenizer.special_ids, lm.tokenizer.bos_id, lm.tokenizer.end_of_text_id)
    drawn_MNC = np.empty((prompts, count, tokens), dtype=np.int64)
    with shown(bar, "drawing", prompts, "prompts") as progress:
        for number, prompt_P in enumerate(prompts_MP):
            start_T = torch.from_numpy(np.concatenate([[lm.tokenizer.bos_id], prompt_P]))
            start_BT = start_T.to(lm.backbone.device).repeat(count, 1)
            settings = _Draw(tokens, temperature, top_k, key(seed, number), never=unwanted)
            drawn_MNC[number] = _write(lm, start_BT, settings)
            progress.advance()
    return drawn_MNC


def check_continues(lm: LanguageModel) -> None:
    """`UserError` unless the model can write what follows a text."""
    _check(lm)
    if lm.order != FORWARD:
        raise UserError(
            f"{lm.name} reads {lm.order}: what it writes stands before a text, not after "
            "it; take a forward model"
        )


def _check(lm: LanguageModel) -> None:
    if not lm.objective.reading.autoregressive:
        raise UserError(f"{lm.name} is a masked model; text is sampled from causal ones")
    if lm.order not in (FORWARD, BACKWARD):
        raise UserError(f"{lm.name}: text is not sampled in the order {lm.order}")
    if not lm.objective.criterion.scores_own_logits:
        raise UserError(
            f"{lm.name} was trained with a cosine or a temperature, which its own logits do "
            "not have; text is sampled from headless models without them"
        )


@dataclass(frozen=True)
class _Draw:
    """How to write."""

    tokens: int
    temperature: float
    top_k: int | None
    seed: int
    stop: tuple[str, ...] = ()
    never: tuple[int, ...] = ()
    """Ids that are not drawn."""


def _write(lm: LanguageModel, start_BT: torch.Tensor, settings: _Draw) -> list[list[int]]:
    """New ids of each row, in the order of writing, up to an end-of-text token."""
    tokenizer, end = lm.tokenizer, lm.tokenizer.end_of_text_id
    known = start_BT.shape[1]

    def stopped(ids_BT: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        texts = (tokenizer.decode(row) for row in ids_BT[:, known:].tolist())
        found = [any(s in text for s in settings.stop) for text in texts]
        return torch.tensor(found, device=ids_BT.device)

    draws = settings.temperature > 0
    generation = GenerationConfig(
        max_new_tokens=settings.tokens,
        do_sample=draws,
        temperature=settings.temperature if draws else None,
        top_k=(settings.top_k or 0) if draws else None,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=tokenizer.bos_id,
        suppress_tokens=sorted({*lm.unused_rows.tolist(), *settings.never}) or None,
    )
    # What the model's files recommend (top-p, penalties) fills every setting left open here, so it
    # is set aside: samples follow the model's own distribution
    recommended, lm.model.generation_config = lm.model.generation_config, generation
    # generate draws from the global generator; it is seeded inside a fork and put back
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(settings.seed)
            made = lm.model.generate(
                start_BT,
                attention_mask=torch.ones_like(start_BT),
                generation_config=generation,
                stopping_criteria=[stopped] if settings.stop else None,
            )
    finally:
        lm.model.generation_config = recommended
    rows = made[:, known:].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]
