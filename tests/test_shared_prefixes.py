"""Trees of sequences against the sequences themselves, and scores with trees against those without.

Shapes: S sequences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import symbols_tokenizer
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.lm import likelihood
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.lm.shared_prefixes import can_read_trees, tree_batch, trees
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.objectives.base import IGNORED, Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.headless import Contrastive
from tolerances import near

SYMBOLS = 4
BRANCHED = trees([np.array([0, 1, 1, 2, 3]), np.array([0, 1, 1, 3])], longest=64)


@given(
    st.lists(
        st.lists(st.integers(0, 2), min_size=2, max_size=40).map(tuple),
        min_size=1, max_size=25, unique=True,
    ),
    st.integers(40, 200),
    st.data(),
)  # fmt: skip
def test_a_row_holds_each_sequence_and_what_it_sees(sequences, longest, data):
    ids_S = [np.array(ids) for ids in sequences]
    scored_S = [data.draw(st.integers(1, len(ids) - 1)) for ids in sequences]
    made = trees(ids_S, longest=longest)
    assert sorted(s for tree in made for s in tree.sequences) == list(range(len(ids_S)))
    length = max(tree.size for tree in made) + 3
    assert length <= longest + 3
    of_all = tree_batch(made, ids_S, scored_S, length=length, filler=9, device=torch.device("cpu"))
    batch = of_all.batch
    shape = batch.inputs_BT.shape
    positions = np.broadcast_to(np.arange(length), shape)
    if batch.positions_BT is not None:
        assert batch.attention_BT is not None
        positions, sees = batch.positions_BT.numpy(), (batch.attention_BT[:, 0] == 0).numpy()
        assert (batch.targets_BT == IGNORED).all()
    else:
        sees = np.broadcast_to(np.tri(length, dtype=bool), (*shape, length))
    inputs = batch.inputs_BT.numpy()
    for row, tree in enumerate(made):
        assert len(np.unique(np.concatenate(tree.nodes))) == tree.size
        beyond = inputs[row, tree.size :].tolist()
        if not tree.branched and beyond:  # a sequence by itself has its last token there
            assert beyond.pop(0) == ids_S[tree.sequences[0]][-1]
        assert set(beyond) <= {9}
        for s, path in zip(tree.sequences, tree.nodes, strict=True):
            assert inputs[row, path].tolist() == ids_S[s][:-1].tolist()
            assert positions[row, path].tolist() == list(range(len(path)))
            for depth, node in enumerate(path):
                assert np.flatnonzero(sees[row, node]).tolist() == path[: depth + 1].tolist()
    # what is scored, of each sequence, in its order
    assert batch.rows_N is not None
    pairs = list(zip(batch.rows_N.tolist(), batch.targets_N.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    where = {s: (row, path) for row, tree in enumerate(made)
             for s, path in zip(tree.sequences, tree.nodes, strict=True)}  # fmt: skip
    for s, scored in enumerate(scored_S):
        row, path = where[s]
        expected = [(row * length + node, target)
                    for node, target in zip(path, ids_S[s][1:], strict=True)]  # fmt: skip
        got = [pairs[n] for n in of_all.row_K[of_all.sequence_K == s]]
        assert got == expected[-scored:]


def test_what_is_shared_is_read_once():
    many = [np.array([0, *np.base_repr(n, 2).zfill(8).encode(), 1]) for n in range(256)]
    made = trees(many, longest=1000)
    assert sum(tree.size for tree in made) < 0.35 * 256 * 9
    assert max(tree.size for tree in made) <= 128
    # four choices after a long question stay together, two long unlike texts do not
    question = np.arange(100, 200)
    choices = [np.concatenate([question, np.full(20, n)]) for n in range(4)]
    assert [tree.size for tree in trees(choices, longest=1000)] == [100 + 4 * 19]
    unlike = [np.concatenate([[0], np.full(99, n)]) for n in range(3)]
    assert [tree.branched for tree in trees(unlike, longest=1000)] == [False] * 3
    assert [tree.branched for tree in trees(choices, longest=150)] == [True, True]


def lm_of(architecture: Any, **settings: Any) -> LanguageModel:
    config = build_config(
        ModelConfig(architecture, layers=2, heads=2, width=16, **settings),
        vocabulary=SYMBOLS + 2, context=64, bos_id=SYMBOLS, end_of_text_id=SYMBOLS + 1,
    )  # fmt: skip
    model = build_model(config, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    return LanguageModel(
        name=architecture,
        model=model,
        backbone=Backbone(model),
        tokenizer=symbols_tokenizer(SYMBOLS),
        objective=Objective(Causal(order="forward", bos_id=SYMBOLS), FullCrossEntropy()),
        head="none",
        context=64,
        record={"own": True},
    )


def texts(count: int) -> list[Request]:
    letters = [chr(0x4E00 + i) for i in range(SYMBOLS)]
    random = np.random.default_rng(0)
    rows = [random.integers(0, SYMBOLS, random.integers(3, 30)) for _ in range(count)]
    made = ["".join(letters[i] for i in row) for row in rows]
    made += [text[:-2] + letters[0] for text in made]
    asked = [(text[:cut], text[cut:]) for text in made for cut in (0, 1)]
    asked += [(text, letter) for text in made[:5] for letter in letters]  # one may be the likeliest
    return [Request(*pair, "") for pair in asked]


@pytest.mark.parametrize(
    ("architecture", "reads"),
    [("gpt2", True), ("neox", True), ("llama", True), ("qwen3", True), ("gru", False)],
)
def test_scores_are_those_of_each_alone(architecture, reads, monkeypatch):
    lm = lm_of(architecture)
    criterion, backbone = FullCrossEntropy(), lm.backbone
    assert can_read_trees(criterion, backbone, BRANCHED, filler=SYMBOLS, most=64) == reads
    read: list[int] = []
    body = backbone.hidden

    def counted(ids_BT, *more):
        read.append(ids_BT.numel())
        return body(ids_BT, *more)

    monkeypatch.setattr(backbone, "hidden", counted)
    together = log_likelihoods(lm, texts(40), greedy=True)
    with_trees = sum(read)
    read.clear()
    monkeypatch.setattr(likelihood, "can_read_trees", lambda *_, **__: False)
    alone = log_likelihoods(lm, texts(40), greedy=True)
    assert together.nats_N / alone.tokens_N == near(alone.nats_N / alone.tokens_N)
    assert together.greedy_N is not None
    assert alone.greedy_N is not None
    assert together.greedy_N.tolist() == alone.greedy_N.tolist()
    assert set(together.greedy_N.tolist()) == {True, False}
    assert (with_trees < 0.6 * sum(read)) == reads


def test_models_that_read_otherwise_are_left_alone():
    """Headless with a cosine scores its own way and can; a model that counts positions by itself,
    and one in float64, whose mask would be of another type, are read plainly."""
    lm = lm_of("gpt2", tied=True)
    cosine = Objective(
        Causal(order="forward", bos_id=SYMBOLS),
        Contrastive(HeadlessConfig(cosine=True, temperature=0.2)),
    )
    assert can_read_trees(cosine.criterion, lm.backbone, BRANCHED, filler=SYMBOLS, most=64)

    class OwnPositions(GPT2LMHeadModel):
        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            body = self.transformer.forward
            self.transformer.forward = lambda *ids, position_ids=None, **more: body(*ids, **more)

    config = GPT2Config(vocab_size=9, n_positions=32, n_embd=16, n_layer=1, n_head=2,
                        initializer_range=0.5)  # fmt: skip
    torch.manual_seed(0)
    backbone = Backbone(OwnPositions(config).eval())
    assert backbone.linear
    criterion = FullCrossEntropy()
    assert not can_read_trees(criterion, backbone, BRANCHED, filler=8, most=32)
    double = Backbone(lm.model.double())
    assert not can_read_trees(criterion, double, BRANCHED, filler=SYMBOLS, most=64)
