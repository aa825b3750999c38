"""Mixed causal and masked models: loss and scores against the library's own, what is refused.

Shapes: B windows, T positions, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import id_store, journal, symbols_tokenizer, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.objective import MaskingConfig, MixedConfig
from lmlab.config.training import OptimizerConfig, TrainConfig
from lmlab.data.masking import Masking
from lmlab.data.windows import row_keys
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.lm.left_context import word_nats
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.lm.sampling import sample
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.objectives.base import IGNORED, Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.mixed import Mixed
from lmlab.run_folders.checkpoint import usable_checkpoint
from lmlab.topics.surprisal.surprisal import surprisal
from lmlab.topics.surprisal.texts import Text
from lmlab.training.loop import train
from tolerances import near

SYMBOLS = 12
TOKENIZER = symbols_tokenizer(SYMBOLS).with_mask()
CPU = torch.device("cpu")
STOCK = ["gpt2", "neox", "llama", "qwen3"]


def small_model(architecture: Any = "gpt2", context=20) -> Any:
    heads: dict[str, Any] = {} if architecture in ("gru", "lstm") else {"heads": 2}
    config = ModelConfig(architecture, layers=2, width=16, initializer_range=0.3, **heads)
    built = build_config(
        config, vocabulary=TOKENIZER.vocabulary, context=context + 1,
        bos_id=SYMBOLS, end_of_text_id=SYMBOLS + 1,
    )  # fmt: skip
    return build_model(built, seed=0).eval()


def mixed(masked=0.5, **masking) -> Objective:
    reading = Mixed(
        tokenizer=TOKENIZER, masking=MaskingConfig(**masking), settings=MixedConfig(masked)
    )
    return Objective(reading, FullCrossEntropy())


def windows_of(lengths, *, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SYMBOLS, n) for n in lengths]


def log_p(model, ids, *, both_ways):
    """Of each position (T, V), one window at a time, by the library alone."""
    attention = torch.zeros(1, 1, len(ids), len(ids)) if both_ways else None
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([ids]), attention_mask=attention).logits[0]
    return torch.log_softmax(logits_TV.double(), -1)


@pytest.mark.parametrize("architecture", STOCK)
def test_the_loss_is_the_librarys_of_either_kind(architecture):
    model, objective = small_model(architecture), mixed(rate=0.3)
    backbone, windows = Backbone(model), windows_of((20, 13, 20, 9, 16, 11))
    objective.check(backbone)
    keys = row_keys(range(6), 3)
    batch = objective.reading.batch(windows, device=CPU, keys=keys)
    masks, total, count, kinds = Masking(MaskingConfig(rate=0.3), TOKENIZER), 0.0, 0, set()
    for row, window in enumerate(windows):
        n = len(window)
        asked_T = (batch.targets_BT[row] != IGNORED).numpy()
        is_masked = not asked_T[:n].all()
        seen_n, chosen_n = (
            masks.draw(window, int(keys[row])) if is_masked else (window, window >= 0)
        )
        kinds.add(is_masked)
        assert (asked_T[:n] == chosen_n).all()
        assert not asked_T[n:].any()
        # the state before a token predicts it
        log_p_TV = log_p(model, [SYMBOLS, *seen_n[:-1].tolist()], both_ways=is_masked)
        each_n = log_p_TV[torch.arange(n), torch.from_numpy(window)].numpy()
        total -= each_n[chosen_n].sum()
        count += chosen_n.sum()
    assert kinds == {False, True}
    ours, tokens = objective.loss(backbone, batch)
    assert tokens == count
    assert float(ours.detach()) == near(total, tokens=count)


def test_a_key_decides_of_each_window_how_it_is_read_and_the_share_is_as_asked():
    windows, objective = windows_of([12] * 400), mixed(0.3)
    keys = row_keys(range(400), 7)
    targets_BT = objective.reading.batch(windows, device=CPU, keys=keys).targets_BT
    masked_B = (targets_BT == IGNORED).any(1)
    assert abs(float(masked_B.float().mean()) - 0.3) < 3 * np.sqrt(0.21 / 400)
    alone = objective.reading.batch(windows[5:6], device=CPU, keys=keys[5:6])
    together = objective.reading.batch(windows[:9], device=CPU, keys=keys[:9])
    assert alone.attention_BT is not None
    assert together.attention_BT is not None
    torch.testing.assert_close(alone.inputs_BT[0], together.inputs_BT[5])
    torch.testing.assert_close(alone.attention_BT[0], together.attention_BT[5])
    other = objective.reading.batch(windows, device=CPU, keys=row_keys(range(400), 8)).targets_BT
    assert ((other == IGNORED).any(1) != masked_B).any()
    causal = Causal(order="forward", bos_id=SYMBOLS).batch(windows, device=CPU)
    scored = objective.reading.batch(windows, device=CPU)
    torch.testing.assert_close(scored.inputs_BT, causal.inputs_BT)
    assert scored.attention_BT is None


@pytest.mark.parametrize("architecture", STOCK)
def test_scored_as_a_masked_one_every_token_is_predicted_before_its_mask(architecture):
    model, windows = small_model(architecture), windows_of((9, 5, 1))
    objective = mixed(rate=0.01)  # more passes than tokens, so each is masked alone
    assert isinstance(objective.reading, Mixed)
    as_masked = Objective(objective.reading.as_masked(), FullCrossEntropy())
    batch = as_masked.reading.batch(windows, device=CPU)
    nats_BT = as_masked.score(Backbone(model), batch)
    assert nats_BT.shape == (3, 9)
    for row, window in enumerate(windows):
        for place, token in enumerate(window.tolist()):
            ids = [SYMBOLS, *window.tolist()]
            ids[place + 1] = TOKENIZER.mask_id
            log_p_TV = log_p(model, ids, both_ways=True)
            assert float(nats_BT[row, place]) == near(-float(log_p_TV[place, token]))
        assert (nats_BT[row, len(window) :] == 0).all()


@pytest.fixture(scope="module")
def run(text_store, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "mixed"
    train(tiny_training(
        text_store, folder, objective="mixed", context=60, steps=10,
        model=ModelConfig("qwen3", layers=1, heads=2, width=16),
    ))  # fmt: skip
    return folder


def test_a_trained_one_is_a_stock_causal_model_and_a_masked_one(run):
    model = AutoModelForCausalLM.from_pretrained(usable_checkpoint(run))
    assert type(model).__name__ == "Qwen3ForCausalLM"
    causal, masked = open_model(run), open_model(run, objective="masked")
    assert causal.objective.name == masked.objective.name == "mixed"
    tokenizer = causal.tokenizer
    asked = [Request("The model reads", " a small token", ""), Request("", "windows", "")]
    left, both = log_likelihoods(causal, asked), log_likelihoods(masked, asked)
    assert (left.method, both.method) == ("log-likelihood", "pseudo-log-likelihood")
    for n, request in enumerate(asked):
        before = len(tokenizer.encode(request.context))
        ids = [tokenizer.bos_id, *tokenizer.encode(request.context + request.continuation).tolist()]
        log_p_TV = log_p(model, ids[:-1], both_ways=False)
        expected = sum(float(log_p_TV[t - 1, ids[t]]) for t in range(before + 1, len(ids)))
        assert left.nats_N[n] == near(expected, tokens=len(ids))
        expected = 0.0
        for t in range(before + 1, len(ids)):
            shown = [*ids[:t], tokenizer.mask_id, *ids[t + 1 :]]
            expected += float(log_p(model, shown, both_ways=True)[t - 1, ids[t]])
        assert both.nats_N[n] == near(expected, tokens=len(ids))
    assert sample(causal, "The", tokens=3).written


def test_words_are_read_with_the_rest_hidden(run):
    """Surprisal with the rest of the word masked, and words before three masks."""
    lm = open_model(run, objective="masked")
    tokenizer = lm.tokenizer
    text = "The model backwards"
    ids = [tokenizer.bos_id, *tokenizer.encode(text).tolist()]
    first = 1 + len(tokenizer.encode("The model"))
    assert len(ids) > first + 1  # a word of several tokens
    expected = 0.0
    for t in range(first, len(ids)):
        shown = [*ids[:t], *[tokenizer.mask_id] * (len(ids) - t)]
        expected -= float(log_p(lm.model, shown, both_ways=True)[t - 1, ids[t]])
    unit = surprisal([lm], [Text("t", text)]).texts[0].units[-1]
    assert unit.text == "backwards"
    assert unit.uncorrected[0] == near(expected, tokens=len(ids))
    expected = 0.0
    for t in range(first, len(ids)):
        shown = [*ids[:t], *[tokenizer.mask_id] * 3]
        expected -= float(log_p(lm.model, shown, both_ways=True)[t - 1, ids[t]])
    nats = word_nats(lm, [Request("The model", " backwards", "")])
    assert nats.nats_N[0] == near(expected, tokens=len(ids))


@pytest.mark.slow
def test_both_kinds_are_learnt(tmp_path):
    """Every second symbol repeats the one before: half of the tokens are free from the left, and
    all of them from both sides."""
    rng = np.random.default_rng(0)
    texts = [np.repeat(rng.integers(0, 6, 6), 2) for _ in range(120)]
    store = id_store(tmp_path / "s", {"train": texts, "validation": texts[:6]}, symbols=6)
    train(tiny_training(
        store, tmp_path / "run", objective="mixed", context=13, batch=16, steps=200,
        masking=MaskingConfig(rate=0.3, mask=1, random=0), mixed=MixedConfig(0.7),
        optimizer=OptimizerConfig("muon", learning_rate=2e-2),
        model=ModelConfig("qwen3", layers=2, heads=2, width=32),
    ))  # fmt: skip
    left, both = open_model(tmp_path / "run"), open_model(tmp_path / "run", objective="masked")
    nats = {}
    for name, lm in (("left", left), ("both", both)):
        batch = lm.objective.reading.batch(texts[:6], device=CPU)
        nats_BT = lm.objective.score(lm.backbone, batch)
        nats[name] = [float(nats_BT[:, which::2].mean()) for which in (0, 1)]
    assert nats["left"][0] > 1.4  # ln 6 is 1.79
    assert nats["left"][1] < 0.5
    assert max(nats["both"]) < 1.1


def test_accumulation_does_not_change_what_is_learnt(small_store, tmp_path):
    losses = {}
    for micro in (4, 2, 1):
        train(tiny_training(
            small_store, tmp_path / str(micro), objective="mixed", micro_batch=micro, steps=4
        ))  # fmt: skip
        losses[micro] = [r["loss"] for r in journal(tmp_path / str(micro))]
    assert losses[2] == near(losses[4])
    assert losses[1] == near(losses[4])


def test_what_cannot_be_mixed_is_refused(small_store, tmp_path):
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"model": ModelConfig("gru")}, "cannot train `model.architecture` gru; use gpt2"),
        ({"model": ModelConfig("bert")}, "cannot train `model.architecture` bert; use gpt2"),
        ({"order": "backward"}, "`order` backward"),
    )
    for settings, message in refused:
        with pytest.raises(UserError, match=message):
            TrainConfig(tmp_path, objective="mixed", **settings)
    with pytest.raises(UserError, match="settings are for `objective` mixed"):
        TrainConfig(tmp_path, mixed=MixedConfig(0.3))
    for share in (0.0, 1.0):
        with pytest.raises(UserError, match="above 0 and below 1"):
            MixedConfig(share)
    for architecture in ("gru", "lstm"):  # tried out, not known by name
        with pytest.raises(UserError, match="takes no attention mask"):
            mixed().check(Backbone(small_model(architecture)))
    train(tiny_training(small_store, tmp_path / "c", steps=1))
    with pytest.raises(UserError, match="is a causal model of lmlab"):
        open_model(tmp_path / "c", objective="masked")
