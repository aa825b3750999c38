"""Orders: every one scores the same tokens; exact models of any order give the same joint.

Shapes: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import symbols_tokenizer
from lmlab.data.order import check_order, reading_order
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.objectives import from_record
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.cross_entropy import IGNORED
from lmlab.objectives.full import FullCrossEntropy

CPU = torch.device("cpu")
ORDERS = ["forward", "backward", "permutation:0", "permutation:1", "permutation:17"]


@pytest.mark.parametrize("order", ORDERS)
@given(
    windows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=4)
)
def test_every_order_scores_the_same_tokens(order, windows):
    bos = 99
    made = Causal(order=order, bos_id=bos).batch([np.array(w) for w in windows], device=CPU)
    assert made.inputs_BT.shape == made.targets_BT.shape == (len(windows), max(map(len, windows)))
    for window, inputs, targets in zip(windows, made.inputs_BT, made.targets_BT, strict=True):
        n = len(window)
        positions = reading_order(order, n)
        assert sorted(positions) == list(range(n))
        assert targets[:n].tolist() == [window[p] for p in positions]
        assert set(targets[n:].tolist()) <= {IGNORED}
        assert inputs[:n].tolist() == [bos, *targets[: n - 1].tolist()]


def test_what_the_named_orders_are():
    assert reading_order("forward", 4).tolist() == [0, 1, 2, 3]
    assert reading_order("backward", 4).tolist() == [3, 2, 1, 0]
    assert len({tuple(reading_order(f"permutation:{s}", 8)) for s in range(20)}) == 20
    assert np.array_equal(reading_order("permutation:5", 8), reading_order("permutation:5", 8))


def test_a_given_length_pads_on_the_right():
    made = Causal(order="backward", bos_id=7).batch([np.array([1, 2])], device=CPU, length=4)
    assert made.inputs_BT.tolist() == [[7, 2, 7, 7]]
    assert made.targets_BT.tolist() == [[2, 1, IGNORED, IGNORED]]


@pytest.mark.parametrize("order", ["sideways", "permutation", "permutation:x", "Forward", ""])
def test_unknown_orders(order):
    with pytest.raises(UserError, match=r"unknown order.*forward, backward and permutation:SEED"):
        check_order(order)
    with pytest.raises(UserError):
        Causal(order=order, bos_id=0)


def test_unknown_objectives():
    with pytest.raises(UserError, match="unknown objective 'clairvoyant'; this lmlab knows causal"):
        from_record({"name": "clairvoyant"}, order="forward", tokenizer=symbols_tokenizer(3))
    rebuilt = from_record(
        Objective(Causal(order="backward", bos_id=3), FullCrossEntropy()).record(),
        order="backward",
        tokenizer=symbols_tokenizer(3),
    )
    assert isinstance(rebuilt.reading, Causal)
    assert (rebuilt.name, rebuilt.order, rebuilt.reading.bos_id) == ("causal", "backward", 3)


class ExactModel(torch.nn.Module):
    """The exact conditionals, in one order, of a joint over n symbols of an alphabet of V."""

    def __init__(self, joint, order):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        # axis k of the table is the k-th symbol that the order predicts
        self.table = torch.from_numpy(joint).permute(*reading_order(order, joint.ndim).tolist())

    def forward(self, input_ids, **unused):
        logits_BTV = torch.empty(*input_ids.shape, len(self.table) + 1, dtype=torch.float64)
        for row, ids in enumerate(input_ids.tolist()):
            for t in range(len(ids)):
                known = self.table[tuple(ids[1 : t + 1])]
                marginal = known.reshape(len(known), -1).sum(1)
                logits_BTV[row, t, :-1] = marginal.log()
                logits_BTV[row, t, -1] = -torch.inf  # BOS is never predicted
        return SimpleNamespace(logits=logits_BTV)


@pytest.mark.parametrize("order", ORDERS)
def test_exact_models_of_any_order_give_the_joint(order):
    symbols, n = 3, 4
    rng = np.random.default_rng(0)
    joint = rng.gamma(0.3, size=(symbols,) * n) + 1e-9
    joint /= joint.sum()
    objective, backbone = (
        Objective(Causal(order=order, bos_id=symbols), FullCrossEntropy()),
        Backbone(ExactModel(joint, order)),
    )
    assert not backbone.linear
    strings = [np.array(s) for s in itertools.product(range(symbols), repeat=n)]
    nats_N = objective.score(backbone, objective.reading.batch(strings, device=CPU)).sum(1).numpy()
    assert np.abs(nats_N + np.log(joint.ravel())).max() < 1e-10
    # and so does the loss: the sum over strings, and its expectation is the joint's entropy
    total, count = objective.loss(backbone, objective.reading.batch(strings, device=CPU))
    assert count == n * len(strings)
    assert abs(float(total) + np.log(joint).sum()) < 1e-10 * len(strings)
    entropy = -(joint * np.log(joint)).sum()
    assert abs(joint.ravel() @ nats_N - entropy) < 1e-10
