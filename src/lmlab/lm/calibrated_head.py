"""A calibrated head for a headless model: two scalars fitted on held-out text.

The head of a headless model is p(v | x) = softmax(h . e_v + log p_unigram(v)), exact where the loss
has reached its optimum. Short of it the similarity may be too sharp or too soft and the prior weigh
too much or too little: p(v | x) = softmax(a h . e_v + b log p_unigram(v)), with a and b the scalars
of least loss on a sample of held-out windows. Nothing else is trained.

Shapes: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lmlab.data.store import TokenStore
from lmlab.data.windows import row_keys
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model, plain_objective
from lmlab.models.backbone import Backbone
from lmlab.models.head import attach_bias, with_untied_head
from lmlab.numerics.softmax_calibration import fit_two_scalars
from lmlab.objectives.base import IGNORED, hidden_states
from lmlab.objectives.evaluate import evaluation_batch
from lmlab.progress import track

Head = Literal["own", "raw", "calibrated"]

_WINDOWS_AT_ONCE = 8
_KEY = 0xCA11B  # of the masks, for masked models


@dataclass(frozen=True)
class Calibration:
    """The scalars, and nats per token on the text they were fitted to (not an honest score)."""

    similarity: float
    prior: float
    nats_per_token: float
    tokens: int
    split: str


def open_with_head(
    path_or_hub_id: str | Path,
    head: Head,
    *,
    store: TokenStore | None = None,
    held_out: str = "validation",
    device: str = "cpu",
    objective: Literal["auto", "causal", "masked"] = "auto",
) -> LanguageModel:
    """`open_model` with one of a model's heads: its own (with the output bias that lmlab gave
    it), raw (without), or calibrated on the split `held_out` of `store`.

    Raises `UserError` as `open_model` and `calibrate`, and for a calibrated head without a store.
    """
    lm = open_model(path_or_hub_id, device=device, raw_head=head == "raw", objective=objective)
    if head != "calibrated":
        return lm
    if store is None:
        raise UserError("a calibrated head needs held-out text to be fitted to; give `store`")
    return calibrate(lm, store, split=held_out)[0]


def calibrate(
    lm: LanguageModel, store: TokenStore, *, split: str = "validation", max_windows: int = 256
) -> tuple[LanguageModel, Calibration]:
    """The model with a calibrated head, and what was fitted on a sample of `split`.

    The given model is left as it is. The new head is untied: a E, with the bias b log p.

    Raises `UserError` for a store of another tokenizer, a model without an output prior, or an
    objective whose distribution is not that of its own logits.
    """
    windows = lm.windows(store, split, max_windows=max_windows)
    bias_V = lm.backbone.bias_V
    if bias_V is None or not lm.objective.criterion.scores_own_logits:
        raise UserError(
            f"{lm.name}: only a headless model without cosine and temperature, or one with an "
            "output bias at the log-unigram, has two scalars to calibrate"
        )
    hidden: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    at_once = min(_WINDOWS_AT_ONCE, evaluation_batch(windows.context, lm.model))
    with track("calibration", None, "tokens") as bar:
        for start in range(0, len(windows), at_once):
            rows = range(start, min(len(windows), start + at_once))
            batch = lm.objective.reading.batch(
                [windows.ids(row) for row in rows],
                device=lm.backbone.device,
                keys=row_keys(rows, _KEY),
            )
            with torch.no_grad():
                hidden_ND = hidden_states(lm.backbone, batch)
            real_N = batch.targets_N != IGNORED
            hidden.append(hidden_ND[real_N].float().cpu().numpy())
            targets.append(batch.targets_N[real_N].cpu().numpy())
            bar.advance(float(len(targets[-1])))
        a, b, nats = fit_two_scalars(
            np.concatenate(hidden),
            lm.backbone.weight_VD.detach().float().cpu().numpy(),
            bias_V.detach().float().cpu().numpy(),
            np.concatenate(targets),
            seen=bar.advance,
        )
    fitted = Calibration(a, b, nats, sum(map(len, targets)), split)
    return _with_head(lm, bias_V, fitted), fitted


def _with_head(lm: LanguageModel, bias_V: torch.Tensor, fitted: Calibration) -> LanguageModel:
    model = with_untied_head(lm.model, fitted.similarity * lm.backbone.weight_VD.detach())
    attach_bias(model, fitted.prior * bias_V, learnt=False)
    return replace(
        lm,
        model=model,
        backbone=Backbone(model),
        objective=plain_objective(lm),
        head=f"untied + calibrated log-unigram bias ({fitted.similarity:.3f}, {fitted.prior:.3f})",
    )
