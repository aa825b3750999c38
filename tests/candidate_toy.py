"""A toy whose law is known: text of 12 topics, each with its own distribution of 40 tokens.

Windows are 64 independent tokens of one topic, and a model knows the topic. So the best model, its
loss, and what a biased law of candidates makes of it can all be computed; the contrastive loss is
then trained to its end on fresh windows. This is plain numpy and torch: of the package it uses the
loss alone.

Shapes: Z topics, V vocabulary, T tokens a window, W windows a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

TOPICS, VOCABULARY, TOKENS = 12, 40, 64


class Toy:
    """The topics' distributions, and how far from the best a model is."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        drawn_ZV = torch.tensor(rng.dirichlet(np.full(VOCABULARY, 0.15), TOPICS))
        self.p_ZV = 0.98 * drawn_ZV + 0.02 / VOCABULARY
        self.unigram_V = self.p_ZV.mean(0)
        self.floor = float(-(self.p_ZV * self.p_ZV.log()).sum(1).mean())

    def excess(self, scores_ZV: torch.Tensor) -> float:
        """Nats a token above the floor of softmax(scores + log unigram)."""
        log_model_ZV = torch.log_softmax(scores_ZV + self.unigram_V.log(), 1)
        return float(-(self.p_ZV * log_model_ZV).sum(1).mean()) - self.floor

    def theory(self, windows: int) -> float:
        """The excess of log p - log q, q = p / W + (1 - 1 / W) unigram."""
        q_ZV = (self.p_ZV + (windows - 1) * self.unigram_V) / windows
        return self.excess(self.p_ZV.log() - q_ZV.log())

    def trained(
        self,
        loss: Callable[..., torch.Tensor],
        windows: int,
        *,
        steps: int = 1000,
        seed: int = 0,
        rate: float = 0.05,
    ) -> float:
        """The excess at the end of training, of the mean of the second half's scores.

        `loss` takes hidden states, embedding, targets and the number of the step.
        """
        generator = torch.Generator().manual_seed(seed)
        scores_ZV = torch.zeros(TOPICS, VOCABULARY, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([scores_ZV], lr=rate)
        mean_ZV, counted = torch.zeros_like(scores_ZV), 0
        identity_VV = torch.eye(VOCABULARY, dtype=torch.float64)
        for step in range(steps):
            topic_W = torch.randint(TOPICS, (windows,), generator=generator)
            targets_WT = torch.multinomial(
                self.p_ZV[topic_W], TOKENS, replacement=True, generator=generator
            )
            hidden = scores_ZV[topic_W.repeat_interleave(TOKENS)]
            made = loss(hidden, identity_VV, targets_WT.reshape(-1), step)
            optimizer.zero_grad()
            made.backward()
            optimizer.step()
            if 2 * step >= steps:
                mean_ZV, counted = mean_ZV + scores_ZV.detach(), counted + 1
                for group in optimizer.param_groups:
                    group["lr"] = rate * 2 * (1 - step / steps)
        return self.excess(mean_ZV / counted)
