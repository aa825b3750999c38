"""Masked models: loss and score against the library's own, training, files, what is refused.

Shapes: B windows, T positions, V vocabulary.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from helpers import id_store, journal, symbols_tokenizer, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig, MaskingConfig
from lmlab.config.training import OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.masking import Masking
from lmlab.data.unigram import log_unigram, token_counts
from lmlab.data.windows import row_keys
from lmlab.errors import UserError
from lmlab.lm.calibrated_head import calibrate
from lmlab.lm.export import export_model
from lmlab.lm.language_model import open_model
from lmlab.lm.sampling import sample
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.files import load_pretrained
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.headless import Contrastive
from lmlab.objectives.masked import Masked
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train

SYMBOLS = 12
TOKENIZER = symbols_tokenizer(SYMBOLS).with_mask()
V = TOKENIZER.vocabulary
CPU = torch.device("cpu")
ARCHITECTURES = ["bert", "modernbert", "distilbert"]


def small_model(architecture: Any = "bert", *, tied=True, context=20) -> Any:
    config = ModelConfig(
        architecture, layers=2, heads=2, width=16, tied=tied, initializer_range=0.3
    )
    built = build_config(
        config, vocabulary=V, context=context + 2, bos_id=SYMBOLS, end_of_text_id=SYMBOLS + 1
    )
    return build_model(built, seed=0, masked=True).eval()


def windows_of(lengths, *, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SYMBOLS, n) for n in lengths]


def library_logits(model, inputs_BT, lengths):
    """One window at a time, without padding."""
    rows = []
    with torch.no_grad():
        for ids_T, n in zip(inputs_BT, lengths, strict=True):
            logits_TV = model(input_ids=ids_T[None, : n + 2]).logits[0]
            rows.append(torch.nn.functional.pad(logits_TV, (0, 0, 0, len(ids_T) - n - 2)))
    return torch.stack(rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_is_the_librarys_at_the_chosen_positions(architecture):
    model, lengths = small_model(architecture), (20, 13, 9)
    backbone = Backbone(model)
    assert backbone.linear
    objective = Objective(
        Masked(tokenizer=TOKENIZER, settings=MaskingConfig(rate=0.3)), FullCrossEntropy()
    )
    objective.check(backbone)
    windows = windows_of(lengths)
    batch = objective.reading.batch(windows, device=CPU, keys=row_keys(range(3), 5))
    assert (batch.inputs_BT[:, 0] == SYMBOLS).all()
    originals = objective.reading.batch(windows, device=CPU).inputs_BT
    real_BT = batch.targets_BT != -100
    assert (batch.targets_BT[real_BT] == originals[real_BT]).all()
    logits_BTV = library_logits(model, batch.inputs_BT, lengths)
    expected = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum"
    )
    total, count = objective.loss(backbone, batch)
    assert count == int(real_BT.sum()) in (12, 13, 14)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_is_scored_once_from_the_others(architecture):
    model, lengths = small_model(architecture), (20, 13, 5)
    backbone, passes = Backbone(model), 4
    objective = Objective(
        Masked(tokenizer=TOKENIZER, settings=MaskingConfig(rate=0.25)), FullCrossEntropy()
    )
    batch = objective.reading.batch(windows_of(lengths), device=CPU)
    nats_Bn = objective.score(backbone, batch)
    assert nats_Bn.shape == (3, 20)
    # by hand: the passes partition the positions, four in every block of four
    masked_by_pass = []
    seen = []
    each = objective.criterion.each
    objective.criterion.each = lambda b, asked: (seen.append(asked), each(b, asked))[1]  # type: ignore[method-assign]
    objective.score(backbone, batch)
    for asked in seen:
        masked_BT = asked.inputs_BT == TOKENIZER.mask_id
        masked_by_pass.append(masked_BT)
        logits_BTV = library_logits(model, asked.inputs_BT, lengths)
        nats_BT = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), batch.inputs_BT.flatten(), reduction="none"
        ).view(masked_BT.shape)
        torch.testing.assert_close(
            nats_Bn[masked_BT[:, 1:-1]], nats_BT[masked_BT].double(), rtol=1e-4, atol=1e-5
        )
    together_BT = torch.stack(masked_by_pass).sum(0)
    assert len(seen) == passes
    for row, n in enumerate(lengths):
        assert together_BT[row, 1 : n + 1].eq(1).all()
        assert not together_BT[row, [0, *range(n + 1, 22)]].any()
        assert not nats_Bn[row, n:].any()
    # padding changes nothing
    alone = objective.score(backbone, objective.reading.batch([windows_of(lengths)[1]], device=CPU))
    torch.testing.assert_close(alone[0], nats_Bn[1, :13], rtol=1e-5, atol=1e-5)


def test_headless_masked_is_cross_entropy_over_the_chosen_targets():
    model = small_model("bert")
    backbone = Backbone(model)
    objective = Objective(
        Masked(tokenizer=TOKENIZER, settings=MaskingConfig(rate=0.3)), Contrastive(HeadlessConfig())
    )
    objective.check(backbone)
    batch = objective.reading.batch(windows_of((20, 20)), device=CPU, keys=row_keys(range(2), 1))
    chosen_BT = batch.targets_BT != -100
    hidden_KD = model.cls.predictions.transform(
        model.bert(input_ids=batch.inputs_BT).last_hidden_state[chosen_BT]
    )
    logits_KK = hidden_KD @ model.get_input_embeddings().weight[batch.targets_BT[chosen_BT]].T
    expected = torch.nn.functional.cross_entropy(
        logits_KK, torch.arange(len(logits_KK)), reduction="sum"
    )
    total, count = objective.loss(backbone, batch)
    assert count == len(logits_KK) == 12
    torch.testing.assert_close(total, expected)
    with pytest.raises(UserError, match="has its input embedding for output embedding"):
        objective.check(Backbone(small_model("bert", tied=False)))


@pytest.fixture(scope="module")
def masked_store(tmp_path_factory):
    """Documents of one symbol each, some symbols rarer: what is seen tells what is masked."""
    rng = np.random.default_rng(0)
    p_V = np.arange(1, SYMBOLS + 1) / np.arange(1, SYMBOLS + 1).sum()
    splits = {
        name: [np.full(24, k) for k in rng.choice(SYMBOLS, count, p=p_V)]
        for name, count in (("train", 150), ("validation", 12), ("test", 12))
    }
    path = tmp_path_factory.mktemp("masked") / "store"
    return id_store(path, splits, symbols=SYMBOLS, end_of_text=False)


@pytest.fixture(scope="module")
def headless_run(masked_store, tmp_path_factory):
    return train(
        tiny_training(
            masked_store, tmp_path_factory.mktemp("run") / "r", steps=150, context=24, batch=16,
            objective="headless-masked", evaluation_windows=12,
            model=ModelConfig("bert", layers=1, heads=2, width=32, tied=True),
        )
    )  # fmt: skip


def test_a_headless_masked_model_learns_and_its_head_is_the_prior(masked_store, headless_run):
    curve = [r["validation_nats_per_token"] for r in journal(headless_run.path)
             if "validation_nats_per_token" in r]  # fmt: skip
    assert curve[-1] < 1 < 2 < curve[0]
    lm = open_model(headless_run.path)
    assert lm.head == "tied + fixed log-unigram bias"
    counts_V = token_counts(masked_store.split("train"), V)
    counts_V[SYMBOLS:] = 0  # special tokens are never masked
    bias_V = lm.backbone.bias_V
    assert bias_V is not None
    assert bias_V.detach().numpy() == pytest.approx(log_unigram(counts_V), abs=1e-6)
    raw = open_model(headless_run.path, raw_head=True)
    assert raw.backbone.bias_V is not None
    assert not raw.backbone.bias_V.any()
    assert (raw.head, raw.context) == ("tied, its output bias left out", 24)
    prior, alone = (score(s, masked_store, split="test").nats_per_token for s in (lm, raw))
    assert prior < 1
    assert alone > prior
    calibrated, fitted = calibrate(lm, masked_store, split="validation")
    assert score(calibrated, masked_store, split="test").nats_per_token < prior + 0.02
    assert 12 * 3 <= fitted.tokens <= 12 * 4  # 0.15 x 24 = 3.6, rounded up or down


LOAD = """
import sys, torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert "lmlab" not in sys.modules
assert type(model).__name__ == "BertForMaskedLM"
assert tokenizer.mask_token_id == int(sys.argv[3])
with torch.no_grad():
    own = model(input_ids=torch.arange(10)[None]).logits
torch.testing.assert_close(own, torch.load(sys.argv[2], weights_only=True), atol=1e-5, rtol=1e-5)
"""


def test_an_exported_masked_model_is_stock(masked_store, headless_run, tmp_path):
    lm = open_model(headless_run.path)
    with torch.no_grad():
        torch.save(lm.backbone.logits(torch.arange(10)[None]), tmp_path / "logits.pt")
    export_model(lm, tmp_path / "exported")
    for folder in (tmp_path / "exported", headless_run.checkpoint):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(folder), str(tmp_path / "logits.pt"), str(V - 1)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    again = open_model(tmp_path / "exported")
    scores = [score(s, masked_store, split="test") for s in (lm, again)]
    assert scores[0].nats_M == pytest.approx(scores[1].nats_M, abs=1e-3)
    assert scores[0].conditions.startswith(
        "each token once, in 7 passes that mask about 1/7 each; windows begin"
    )


def test_plain_masked_training_uses_the_whole_vocabulary(masked_store, tmp_path):
    common = {"context": 24, "batch": 16, "steps": 100, "objective": "masked"}
    run = train(
        tiny_training(
            masked_store, tmp_path / "r", **common, output_bias="learnt",
            model=ModelConfig("distilbert", layers=1, heads=2, width=32),
        )
    )  # fmt: skip
    records = journal(run.path)
    assert records[-1]["validation_nats_per_token"] < 1.5
    assert "targets_per_micro_batch" not in records[-1]
    assert all(16 * 3 <= r["tokens"] / r["step"] <= 16 * 4 for r in records)
    assert open_model(run.path).head == "untied + learnt log-unigram bias"
    with pytest.raises(UserError, match="is a masked model; text is sampled from causal ones"):
        sample(open_model(run.path), "")
    with pytest.raises(UserError, match="masked model of lmlab and cannot be scored as a causal"):
        open_model(run.path, objective="causal")


@pytest.fixture
def hub_folder(tmp_path):
    letters = [chr(ord("a") + i) for i in range(10)]
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters])
    )
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


SIZES: dict[str, Any] = {
    "vocab_size": 15,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def test_masked_models_from_elsewhere(hub_folder):
    BertForMaskedLM(BertConfig(**SIZES, max_position_embeddings=40)).save_pretrained(hub_folder)
    lm = open_model(hub_folder)
    assert (lm.objective.record()["name"], lm.context) == ("masked", 38)
    assert open_model(hub_folder, objective="masked").head == "tied"
    RobertaForMaskedLM(
        RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=0)
    ).save_pretrained(hub_folder)
    roberta = open_model(hub_folder)
    assert roberta.backbone.linear
    assert roberta.context == 37
    ids = np.arange(5, 15).repeat(4)[:37]
    batch = roberta.objective.reading.batch([ids, ids[:3]], device=CPU)
    assert torch.isfinite(roberta.objective.score(roberta.backbone, batch)).all()


def test_what_cannot_be_masked(hub_folder, tmp_path):
    BertModel(BertConfig(**SIZES)).save_pretrained(hub_folder)
    for objective in ("auto", "masked"):
        with pytest.raises(UserError, match=r"lacks weights of a Bert.*: cls\.predictions"):
            open_model(hub_folder, objective=objective)
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(hub_folder)
    with pytest.raises(UserError, match=r"is a masked language model .* scored as a causal one"):
        open_model(hub_folder, objective="causal")
    GPT2LMHeadModel(
        GPT2Config(vocab_size=15, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(hub_folder)
    with pytest.raises(UserError, match=r"is a causal language model \(gpt2: .* and cannot be"):
        open_model(hub_folder, objective="masked")
    with pytest.raises(UserError, match=r"GPT2Config'> for this kind of AutoModel: \w*MaskedLM\.$"):
        load_pretrained(str(hub_folder), masked=True)
    causal = Backbone(GPT2LMHeadModel.from_pretrained(hub_folder))
    with pytest.raises(UserError, match="has not learnt to fill in masks"):
        Masked(tokenizer=TOKENIZER, settings=MaskingConfig()).check(causal)
    with pytest.raises(UserError, match="sees the whole window"):
        Causal(order="forward", bos_id=0).check(Backbone(small_model()))
    options: dict[str, Any]
    for options, message in (
        ({"objective": "masked"}, "cannot train `model.architecture` qwen3; use bert"),
        ({"model": ModelConfig("bert")}, "cannot train `model.architecture` bert; use gpt2"),
        ({"masking": MaskingConfig(rate=0.2)}, "`masking` settings are for"),
        ({"objective": "masked", "model": ModelConfig("bert"), "order": "backward"}, "both ways"),
    ):
        with pytest.raises(UserError, match=message.replace("*", r"\*")):
            TrainConfig(store=tmp_path, **options)
    wrong: dict[str, Any]
    for wrong in ({"rate": 0.0}, {"rate": 1.5}, {"mask": 0.9, "random": 0.2}, {"random": -0.1}):
        with pytest.raises(UserError, match="`masking"):
            MaskingConfig(**wrong)


def test_batches_without_anything_to_learn_from(tmp_path):
    only_one = {"train": [[0]] * 40, "validation": [[0]] * 5}
    store = id_store(tmp_path / "one", only_one, symbols=SYMBOLS)
    masked = {"objective": "headless-masked", "context": 1, "batch": 1, "steps": 40,
              "model": ModelConfig("bert", layers=1, heads=2, width=16, tied=True)}  # fmt: skip
    with pytest.raises(UserError, match=r"nothing to predict|one target has no negatives"):
        train(tiny_training(store, tmp_path / "a", **masked))
    plain = {
        **masked,
        "objective": "masked",
        "model": ModelConfig("bert", layers=1, heads=2, width=16),
    }
    with pytest.raises(UserError, match=r"nothing to predict.*documents train/"):
        train(tiny_training(store, tmp_path / "b", **plain))
    # all targets equal: the loss is log K, and there is no gradient to learn from
    equal = {**masked, "batch": 8, "context": 2, "steps": 2}
    run = train(tiny_training(store, tmp_path / "c", **equal))
    record = journal(run.path)[-1]
    assert record["loss"] == pytest.approx(np.log(record["targets_per_micro_batch"]), abs=1e-5)
    assert record["gradient_norm"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["Bert", "ModernBert", "DistilBert", "Roberta"])
def test_a_parent_without_a_mask_token_gets_a_row_for_one(
    masked_store, tmp_path, capsys, kind, tied
):
    """Was refused, with the advice to prepare the text with the tokenizer that it was prepared
    with; then with the advice to add the row by hand."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes["intermediate_size"] = 16
    if kind == "DistilBert":
        sizes = {"n_heads": 2, "dim": 16, "hidden_dim": 16, "n_layers": 1}
    rows = masked_store.vocabulary
    config = getattr(transformers, f"{kind}Config")(
        **sizes, vocab_size=rows, max_position_embeddings=20, pad_token_id=1, bos_token_id=0,
        eos_token_id=0, cls_token_id=0, sep_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    parent = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
    with torch.no_grad():
        head = parent.get_output_embeddings()
        head.bias.normal_(generator=torch.Generator().manual_seed(0))
    parent.save_pretrained(tmp_path / "parent")
    run = train(
        tiny_training(
            masked_store, tmp_path / "run", objective="masked", model=ModelConfig(), steps=1,
            parent=ParentConfig(str(tmp_path / "parent")),
            optimizer=OptimizerConfig(learning_rate=1e-9),
        )
    )  # fmt: skip
    said = capsys.readouterr().err
    assert said.count(f"no mask token: its embedding of {rows} rows gets one more, their mean") == 1
    # what is saved: plain transformers reads it, and says of old tokens what the parent says
    child = getattr(transformers, f"{kind}ForMaskedLM").from_pretrained(run.checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.checkpoint)
    assert tokenizer.mask_token_id == rows == child.config.vocab_size - 1
    embedding_VD, head = child.get_input_embeddings().weight, child.get_output_embeddings()
    assert (head.weight is embedding_VD) == tied
    for weight in (embedding_VD, head.weight, head.bias):
        assert len(weight) == rows + 1
        torch.testing.assert_close(weight[rows], weight[:rows].mean(0), atol=1e-6, rtol=1e-5)
    ids_1T = torch.arange(2, 10)[None]
    with torch.no_grad():
        child_TV, parent_TV = (model(input_ids=ids_1T).logits[0] for model in (child, parent))
    torch.testing.assert_close(child_TV[:, :rows], parent_TV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(child_TV[:, rows], parent_TV.mean(1), atol=1e-5, rtol=1e-5)
    assert open_model(run.path).tokenizer.mask_id == rows


def test_masking_needs_a_mask_token():
    with pytest.raises(UserError, match="no mask token"):
        Masking(MaskingConfig(), symbols_tokenizer(3))
