"""Headless language modelling: contrastive weight tying, causal in any order, or masked.

Each output state has to find the input embedding of its target among other tokens' (Godey, de la
Clergerie and Sagot, ICLR 2024, arXiv 2309.08351; `lmlab.objectives.contrastive` computes the loss);
there is no softmax over the vocabulary while training.

Notable:
- Where the law of a row's candidates is the unigram distribution, embeddings plus its logarithm as
  output bias are a language model with no fine-tuning, and that is how this objective scores text
  (`lmlab.objectives.candidates` says why, and which laws there are).
- With the micro-batch's targets for candidates gradient accumulation changes the objective; the
  number of processes does not, whatever the law: all processes make the same draws.
- A share of full cross-entropy can be mixed in; with the same bias both have the same optimum.
- The state is the one that the model's own head reads. In BERT and its kin that is after the
  head's small dense layer, which the paper leaves out; it keeps the architecture stock.

Shapes: N rows, K rows whose target counts, M candidates, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lmlab.config import from_mapping, to_mapping
from lmlab.config.objective import HeadlessConfig
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import IGNORED, Batch, Criterion, hidden_states
from lmlab.objectives.candidates import (
    Candidates,
    chosen_rows,
    mixture,
    other_windows,
    pool,
    pool_and_own,
    unigram_draws,
)
from lmlab.objectives.contrastive import gathered_targets, sum_over_candidates, unit_rows
from lmlab.objectives.cross_entropy import (
    counted,
    cross_entropy_each_and_best,
    cross_entropy_sum,
)
from lmlab.objectives.logit_gradient import (
    LogitGradient,
    candidates_gradient,
    softmax_gradient,
)
from lmlab.processes import world


class Contrastive(Criterion):
    """Contrastive weight tying as a criterion; scores by similarity and output bias."""

    name = "contrastive"

    def __init__(self, settings: HeadlessConfig) -> None:
        self.settings = settings
        # draws alone are of no micro-batch, if their number is not its own
        self.depends_on_micro_batch = settings.candidates != "unigram" or settings.draws is None
        self.scores_own_logits = settings.temperature == 1 and not settings.cosine

    @classmethod
    def from_record(cls, settings: Mapping[str, Any]) -> Contrastive:
        return cls(from_mapping(HeadlessConfig, settings, where="objective record"))

    def record(self) -> dict[str, Any]:
        return to_mapping(self.settings)

    def check(self, backbone: Backbone) -> None:
        """`UserError` unless the output embedding is the input embedding."""
        if not backbone.linear:
            raise UserError(
                f"{type(backbone.model).__name__} scales or caps its logits, so that a headless "
                "loss is not that of its output embedding: use another `model.architecture`"
            )
        if backbone.weight_VD is not backbone.embedding_VD:
            raise UserError(
                "a headless model has its input embedding for output embedding: train with "
                "`model.tied`"
            )
        if self.settings.candidates == "batch" and self.settings.draws and world() > 1:
            raise UserError(
                "`headless.draws` of the candidates batch works in one process only: leave it out, "
                "or use `headless.candidates` unigram or mixture"
            )

    def sum(self, backbone: Backbone, batch: Batch) -> tuple[torch.Tensor, int]:
        hidden_ND, targets_N, s = hidden_states(backbone, batch), batch.targets_N, self.settings
        hidden_KD, targets_K = counted(hidden_ND, targets_N)
        total = sum_over_candidates(
            hidden_KD,
            backbone.embedding_VD,
            candidates_of(s, batch, backbone.bias_V),
            temperature=s.temperature,
            cosine=s.cosine,
            detach_targets=s.detach_targets,
        )
        count = len(targets_K)
        if s.cross_entropy:
            full, _ = cross_entropy_sum(*self._scored(backbone, batch, hidden_ND))
            total = (1 - s.cross_entropy) * total + s.cross_entropy * full
        return total, count

    @torch.no_grad()
    def each_and_best(
        self, backbone: Backbone, batch: Batch, *, best: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_ND = hidden_states(backbone, batch)
        return cross_entropy_each_and_best(*self._scored(backbone, batch, hidden_ND), best=best)

    def logits(self, backbone: Backbone, batch: Batch) -> torch.Tensor:
        """As `Criterion.logits`: by the similarity that the loss compares, and the output bias."""
        hidden_ND, embedding_VD, _, bias_V = self._scored(
            backbone, batch, hidden_states(backbone, batch)
        )
        return torch.nn.functional.linear(hidden_ND, embedding_VD, bias_V)

    @torch.no_grad()
    def logit_gradients(self, backbone: Backbone, batch: Batch) -> dict[str, LogitGradient]:
        """As `Criterion.logit_gradients`: of the loss over the candidates, and of cross-entropy
        over all types. A loss that mixes both is over all types."""
        s, hidden_ND = self.settings, hidden_states(backbone, batch)
        states_KD, _ = counted(hidden_ND, batch.targets_N)
        candidates = candidates_of(s, batch, backbone.bias_V)
        weight_UD = backbone.embedding_VD[candidates.ids_U]
        if s.cosine:
            states_KD, weight_UD = unit_rows(states_KD), unit_rows(weight_UD)
        contrastive = candidates_gradient(
            states_KD, weight_UD, candidates, temperature=s.temperature
        )
        full = softmax_gradient(*self._scored(backbone, batch, hidden_ND))
        if not s.cross_entropy:
            return {"contrastive": contrastive, "cross-entropy": full}
        mixed_KV = s.cross_entropy * full.gradient_KV
        mixed_KV[:, candidates.ids_U] += (1 - s.cross_entropy) * contrastive.gradient_KV
        return {"mixed": replace(full, gradient_KV=mixed_KV), "cross-entropy": full}

    def _scored(
        self, backbone: Backbone, batch: Batch, hidden_ND: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Two factors whose product is the similarity that the loss compares, targets and bias."""
        embedding_VD = backbone.embedding_VD
        if self.settings.cosine:
            hidden_ND, embedding_VD = unit_rows(hidden_ND), unit_rows(embedding_VD)
        if self.settings.temperature != 1:
            hidden_ND = hidden_ND / self.settings.temperature
        return hidden_ND, embedding_VD, batch.targets_N, backbone.bias_V


@torch.no_grad()
def candidates_of(
    settings: HeadlessConfig, batch: Batch, log_unigram_V: torch.Tensor | None
) -> Candidates:
    """What each target (that is not -100) of a micro-batch is told from, by the law of `settings`.

    All processes that share the micro-batch must call it; `batch` has this one's windows.
    """
    targets_N = batch.targets_N
    targets_K = targets_N[targets_N != IGNORED]
    law, draws_M = settings.candidates, targets_K[:0]
    everyones = gathered_targets(targets_N) if world() > 1 else targets_K
    if settings.needs_prior:
        assert log_unigram_V is not None  # a headless model has its prior for scoring
        assert batch.key is not None  # TrainConfig and the loop see to it
        draws_M = unigram_draws(log_unigram_V, settings.draws or len(everyones), key=batch.key)
    if law == "unigram":
        return pool_and_own(targets_K, draws_M)
    if law == "mixture":
        assert log_unigram_V is not None
        return mixture(targets_K, batch.window_K, everyones, draws_M, log_unigram_V)
    if law == "other-windows":
        return other_windows(targets_K, batch.window_K, everyones)
    if settings.draws is not None:
        assert batch.key is not None
        chosen_K = chosen_rows(len(targets_K), settings.draws, key=batch.key).to(targets_K.device)
        return pool_and_own(targets_K, targets_K[chosen_K], counted_K=chosen_K)
    return pool(targets_K, everyones, unique=settings.duplicates == "unique")
