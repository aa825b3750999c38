"""Sampling: text from a subject, in its own order.

A forward model continues the prompt; a backward model writes what comes before it. The text is
given in reading order in both cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from lmlab.analyses.subject import Subject
from lmlab.data.order import BACKWARD, FORWARD
from lmlab.errors import UserError


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model wrote, in reading order."""

    prompt: str
    written: str
    order: str

    @property
    def text(self) -> str:
        if self.order == BACKWARD:
            return self.written + self.prompt
        return self.prompt + self.written


def sample(
    subject: Subject,
    prompt: str = "",
    *,
    tokens: int = 100,
    count: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[Sample]:
    """Draws `count` texts of at most `tokens` new tokens each; repeatable for a seed.

    Temperature 0 takes the likeliest token every time. Writing stops at an end-of-text token.

    Raises `UserError` for a masked model, an order that is neither forward nor backward, and for a
    prompt that leaves no room in the context.
    """
    if not subject.objective.autoregressive:
        raise UserError(f"{subject.name} is a masked model; text is sampled from causal ones")
    if subject.order not in (FORWARD, BACKWARD):
        raise UserError(f"{subject.name}: text is not sampled in the order {subject.order}")
    if not subject.objective.scores_own_logits:
        raise UserError(
            f"{subject.name} was trained with a cosine or a temperature, which its own logits do "
            "not have; text is sampled from headless models without them"
        )
    if tokens < 1 or count < 1 or temperature < 0 or (top_k is not None and top_k < 1):
        raise UserError("sampling needs tokens, count and top-k of at least 1, temperature >= 0")
    ids = subject.tokenizer.encode(prompt)
    if subject.order == BACKWARD:
        ids = ids[::-1]
    # the sequence is BOS and what was read so far; its last token needs no position of its own
    room = subject.context - len(ids)
    if room < 1:
        raise UserError(
            f"the prompt has {len(ids)} tokens, which fills the context of {subject.context}"
        )
    start = torch.tensor([[subject.tokenizer.bos_id, *ids.tolist()]])
    start = start.to(subject.backbone.device).repeat(count, 1)
    end = subject.tokenizer.end_of_text_id
    settings = GenerationConfig(
        max_new_tokens=min(tokens, room),
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_k=(top_k or 0) if temperature > 0 else None,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=subject.tokenizer.bos_id,
    )
    # What the model's files recommend (top-p, penalties) fills every setting left open here, so it
    # is set aside: samples follow the model's own distribution
    recommended, subject.model.generation_config = subject.model.generation_config, settings
    # generate draws from the global generator; it is seeded inside a fork and put back
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            made = subject.model.generate(
                start, attention_mask=torch.ones_like(start), generation_config=settings
            )
    finally:
        subject.model.generation_config = recommended
    texts: list[Sample] = []
    for row in made[:, start.shape[1] :].tolist():
        new = row[: row.index(end)] if end in row else row
        if subject.order == BACKWARD:
            new = new[::-1]
        texts.append(Sample(prompt, subject.tokenizer.decode(new), subject.order))
    return texts
