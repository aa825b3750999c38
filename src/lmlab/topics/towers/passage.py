"""A passage of text with the difference of two towers at each token, to be looked at.

Shapes: N tokens of the passage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lmlab.data.order import reading_order
from lmlab.data.store import TokenStore
from lmlab.lm.language_model import LanguageModel
from lmlab.objectives.base import IGNORED
from lmlab.objectives.towers import tower_nats, tower_rows
from lmlab.topics.towers.preference_sums import towers_of


@dataclass(frozen=True)
class Passage:
    """Tokens in the order of the text, each with l_2 - l_1 in nats (positive: tower 1 better)."""

    document: str
    tokens: tuple[str, ...]
    delta: tuple[float, ...]


@torch.no_grad()
def passage(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str,
    context: int,
    windows: int,
    scales: tuple[float, float] = (1.0, 1.0),
) -> list[Passage]:
    """Passages of `context` tokens, a keyed random sample of the whole windows of a split.

    `scales` are the towers' inverse temperatures, as `PreferenceSums` has them.

    Raises `UserError` as `preference_sums`.
    """
    model = towers_of(lm)
    source = store.split(split)
    everything = lm.windows(store, split, context=context, max_windows=16 * windows)
    longest = np.argsort(-everything.length_M, kind="stable")[:windows]
    passages = []
    for row in longest:
        ids = everything.ids(int(row))
        batch = lm.objective.reading.batch([ids], device=lm.backbone.device)
        delta_N = np.zeros(batch.targets_BT.numel())
        for asked in lm.objective.reading.questions(batch):
            assert asked.rows_N is not None
            states = tower_rows(model, asked)
            nats_KN = tower_nats(model, states, asked.targets_N, scales=scales).cpu().numpy()
            delta_N[asked.rows_N.cpu().numpy()] = nats_KN[1] - nats_KN[0]
        real_N = (batch.targets_BT.flatten() != IGNORED).cpu().numpy()
        delta_n = np.empty(len(ids))
        delta_n[reading_order(lm.order, len(ids))] = delta_N[real_N]
        start = int(np.searchsorted(source.documents_M3[:, 0], everything.start_M[row], "right"))
        passages.append(
            Passage(
                source.names[start - 1],
                tuple(store.tokenizer.token(int(i)) for i in ids),
                tuple(delta_n.tolist()),
            )
        )
    return passages
