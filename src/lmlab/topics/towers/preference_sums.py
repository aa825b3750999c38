"""Sums by type of how well two towers and their joint model predict held-out text.

Notable:
- One pass gives the joint model and both towers from states computed once.
- Sums are kept for each group of clusters and each type, so they are of one size however long the
  text is.
- A cluster's group follows from its number alone: every shard and every model puts the same text
  into the same group.
- A fusion whose towers have distributions of their own needs no probes; each tower is then
  calibrated by a temperature, fitted to other held-out text.

Shapes: G groups, V vocabulary, K = 3 scorers (tower 1, tower 2, joint), b bins of positions, N
positions, D width.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load

from lmlab.data.store import Split, TokenStore
from lmlab.data.windows import evaluation_windows, key, keyed_bijection
from lmlab.durable import check_seal, packed, sealed, write_bytes
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel
from lmlab.models.towers import TwoTower
from lmlab.numerics.random_effects import MINIMUM_DOCUMENTS
from lmlab.numerics.softmax_calibration import fit_two_scalars
from lmlab.objectives.evaluate import evaluation_batch, window_batches
from lmlab.objectives.towers import joint_nats, tower_nats, tower_rows
from lmlab.processes import shared_out, sum_over_processes
from lmlab.progress import Bar, track

GROUPS = 32
"""At most; with fewer documents of text each is a group."""
MINIMUM_GROUPS = 5
POSITIONS = 8
TOWER_1, TOWER_2, JOINT = range(3)
_KEY = 0x7035
_CALIBRATION_WINDOWS = 64
_ARRAYS = ("count_GV", "nats_KGV", "better_G", "position_count_Gb", "position_nats_KGb")


@dataclass(frozen=True)
class PreferenceSums:
    """Tokens and nats of each group and type."""

    count_GV: np.ndarray
    nats_KGV: np.ndarray
    better_G: np.ndarray
    """Nats of the better tower of each token; nan where towers were not scored together."""
    position_count_Gb: np.ndarray
    position_nats_KGb: np.ndarray
    """By the place in the window: eighths of the context."""
    text: str
    """Names what was scored: only sums of the same text go together."""
    cluster_unit: str
    documents: int
    """Of the whole split; a group is of whole documents, or of clusters where these are few."""
    scales: tuple[float, float] = (1.0, 1.0)
    """Inverse temperatures of the towers; 1 for probes."""

    @property
    def delta_GV(self) -> np.ndarray:
        """Sum of l_2 - l_1: positive where tower 1 is better."""
        return self.nats_KGV[TOWER_2] - self.nats_KGV[TOWER_1]

    def save(self, path: Path) -> None:
        """As safetensors."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["scales"] = np.array(self.scales)
        arrays["documents"] = np.array([self.documents])
        described = {"text": self.text, "cluster_unit": self.cluster_unit}
        arrays |= {n: np.frombuffer(v.encode(), dtype=np.uint8) for n, v in described.items()}
        write_bytes(path, sealed(packed(arrays)))

    @classmethod
    def load(cls, path: Path) -> PreferenceSums:
        """What `save` wrote. `UserError` where it is missing or damaged."""
        try:
            arrays = load(check_seal(path.read_bytes()))
            first, second = arrays["scales"].tolist()
            return cls(
                **{name: arrays[name] for name in _ARRAYS},
                text=arrays["text"].tobytes().decode(),
                cluster_unit=arrays["cluster_unit"].tobytes().decode(),
                documents=int(arrays["documents"][0]),
                scales=(first, second),
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as sums of a preference: {error}") from error


def same_tower_twice(first: PreferenceSums, second: PreferenceSums) -> PreferenceSums:
    """The null of probe noise: tower 1 as two runs of probes see it, in the places of two towers.

    Raises `UserError` for sums of different texts.
    """
    if first.text != second.text or not np.array_equal(first.count_GV, second.count_GV):
        raise UserError("these sums are of different texts and cannot be compared")

    def as_towers(first_K: np.ndarray, second_K: np.ndarray) -> np.ndarray:
        return np.stack([first_K[TOWER_1], second_K[TOWER_1], first_K[JOINT]])

    return replace(
        first,
        nats_KGV=as_towers(first.nats_KGV, second.nats_KGV),
        better_G=np.full_like(first.better_G, np.nan),
        position_nats_KGb=as_towers(first.position_nats_KGb, second.position_nats_KGb),
    )


def towers_of(lm: LanguageModel) -> TwoTower:
    """The transformers model; `UserError` unless it has two towers with a distribution each."""
    model = lm.model
    if not isinstance(model, TwoTower) or model.view is not None:
        raise UserError(f"{lm.name} is not a model of two towers")
    if not model.model.views:
        raise UserError(
            f"{lm.name}: these towers have one prediction and none each. Train their probes: "
            f"lmlab train --objective probe --parent.path {lm.name} --store STORE"
        )
    return model


@torch.no_grad()
def preference_sums(
    lm: LanguageModel,
    store: TokenStore,
    *,
    split: str = "validation",
    held_out: str = "test",
    context: int | None = None,
    max_windows: int | None = None,
    bar: Bar | None = None,
) -> PreferenceSums:
    """Sums over the windows of a split.

    Towers without probes are calibrated on the split `held_out`. `bar` counts tokens. Several
    processes share the batches out, and each has the whole sums.

    Raises `UserError` for a model without towers or without a distribution for each, a store of
    another tokenizer, a context it cannot take, text of fewer than 5 clusters, and two towers that
    are copies of each other.
    """
    model = towers_of(lm)
    objective = lm.objective
    windows = lm.windows(store, split, context=context, max_windows=max_windows)
    context = windows.context
    scales = (1.0, 1.0)
    if not model.config.probed:
        with track("calibration", None, "tokens") as read:
            scales = _temperatures(objective, model, store.split(held_out), context, read)
    group_C = groups_of_text(store, split, context)
    groups, vocabulary = int(group_C.max()) + 1, store.vocabulary
    size = groups * vocabulary
    count = np.zeros(size)
    nats = np.zeros((3, size))
    better = np.zeros(groups)
    position_count = np.zeros(groups * POSITIONS)
    position_nats = np.zeros((3, groups * POSITIONS))
    device = lm.backbone.device
    total = float(windows.length_M.sum())
    with nullcontext(bar) if bar else track("preference", total, "tokens") as counted:
        batches = window_batches(windows, evaluation_batch(context, model))
        for (chosen, length), is_mine in shared_out(batches):
            counted.advance(float(windows.length_M[chosen].sum()))
            if not is_mine:
                continue
            ids = [windows.ids(int(row)) for row in chosen]
            batch = objective.reading.batch(ids, device=device, length=length)
            T = batch.targets_BT.shape[1]
            before = (T - length) // 2  # windows read from both sides begin with a token more
            for asked in objective.reading.questions(batch):
                states = tower_rows(model, asked)
                targets_N = asked.targets_N
                nats_KN = torch.cat(
                    [
                        tower_nats(model, states, targets_N, scales=scales),
                        joint_nats(model, states, targets_N)[None],
                    ]
                )
                assert asked.rows_N is not None
                type_N, at_N = (x.cpu().numpy() for x in (targets_N, asked.rows_N))
                each_KN = nats_KN.double().cpu().numpy()
                group_N = group_C[windows.cluster_M[chosen]][at_N // T]
                where_N = group_N * vocabulary + type_N
                bin_N = group_N * POSITIONS + np.minimum(
                    (at_N % T - before) * POSITIONS // context, POSITIONS - 1
                )
                count += np.bincount(where_N, minlength=size)
                position_count += np.bincount(bin_N, minlength=len(position_count))
                better += np.bincount(group_N, each_KN[:2].min(0), minlength=groups)
                for k in range(3):
                    nats[k] += np.bincount(where_N, each_KN[k], minlength=size)
                    position_nats[k] += np.bincount(
                        bin_N, each_KN[k], minlength=len(position_count)
                    )
    count, nats, better, position_count, position_nats = map(
        sum_over_processes, (count, nats, better, position_count, position_nats)
    )
    if np.array_equal(nats[TOWER_1], nats[TOWER_2]):
        raise UserError(
            f"{lm.name}: both towers give every token the same probability. They are copies of "
            "each other, and neither prefers anything; give towers that were trained apart"
        )
    return PreferenceSums(
        count_GV=count.reshape(groups, vocabulary),
        nats_KGV=nats.reshape(3, groups, vocabulary),
        better_G=better,
        position_count_Gb=position_count.reshape(groups, POSITIONS),
        position_nats_KGb=position_nats.reshape(3, groups, POSITIONS),
        text=f"{store.fingerprint[:16]} {split} {context} {max_windows}",
        cluster_unit=windows.cluster_unit,
        documents=windows.clusters.documents,
        scales=scales,
    )


def groups_of_text(store: TokenStore, split: str, context: int) -> np.ndarray:
    """The group (C,) of each cluster of a split. `UserError` if there are fewer than 5.

    A document is never split over groups, unless documents are fewer than 5.
    """
    labels = evaluation_windows(store.split(split), context).clusters
    clusters = labels.clusters
    if clusters < MINIMUM_GROUPS:
        raise UserError(
            f"{store.path}: split {split} has {clusters} clusters of text, and at least "
            f"{MINIMUM_GROUPS} are needed; use more documents"
        )
    if labels.documents < MINIMUM_DOCUMENTS:
        return groups_of_clusters(clusters)
    return groups_of_clusters(labels.documents)[labels.documents_C]


def groups_of_clusters(clusters: int) -> np.ndarray:
    """The group (C,) of each cluster: keyed, and as even as can be."""
    ranked_C = keyed_bijection(np.arange(clusters), clusters, key(_KEY))
    return ranked_C % min(GROUPS, clusters)


def _temperatures(
    objective: Any, model: TwoTower, split: Split, context: int, bar: Bar
) -> tuple[float, float]:
    """Inverse temperatures of the towers' logits with the least loss on a sample of `split`, whose
    tokens the bar counts each time that they are read."""
    windows = evaluation_windows(split, context, max_windows=_CALIBRATION_WINDOWS)
    device = next(model.parameters()).device
    read: list[list[np.ndarray]] = [[], []]
    targets: list[np.ndarray] = []
    for row in range(len(windows)):
        batch = objective.reading.batch([windows.ids(row)], device=device)
        for asked in objective.reading.questions(batch):
            states = tower_rows(model, asked)
            targets.append(asked.targets_N.cpu().numpy())
            for k in range(2):
                z_ND = model.model.output(k, states[k])
                read[k].append(z_ND.float().cpu().numpy())
        bar.advance(float(windows.length_M[row]))
    scales = []
    for k in range(2):
        head: Any = model.head_of(k)
        # the bias as one more column, so that one scalar turns all of the logits
        one_N1 = np.ones((sum(map(len, targets)), 1), dtype=np.float32)
        hidden_ND = np.concatenate([np.concatenate(read[k]), one_N1], axis=1)
        weight_VD = torch.cat([head.weight, head.bias[:, None]], 1).float().cpu().numpy()
        nothing_V = np.zeros(len(weight_VD), dtype=np.float32)
        data = (hidden_ND, weight_VD, nothing_V, np.concatenate(targets))
        scales.append(fit_two_scalars(*data, seen=bar.advance)[0])
    return scales[0], scales[1]
