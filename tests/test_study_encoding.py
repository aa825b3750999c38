"""The encoding study, tiny: resumable, drawn again from its results; a prior written into heads."""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np
import pytest
import torch

from helpers import sentences, symbols_tokenizer
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.export import constant_direction
from lmlab.models.head import attach_bias
from lmlab.numerics.verdicts import ONE_RUN_EACH
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.topics.counting.baseline import ngram_baselines
from lmlab.topics.encoding import study as study
from lmlab.topics.encoding.comparison import EncodingStudy
from lmlab.topics.encoding.of_model import regression
from lmlab.topics.encoding.report import headline
from lmlab.topics.encoding.token_probability import mean_of_states, read_texts
from lmlab.topics.encoding.written_prior import WrittenPrior, written_prior
from lmlab.topics.registry import read_result
from lmlab.topics.scoring.score import score
from tolerances import OF_FLOAT32, near


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    lab = tmp_path_factory.mktemp("lab")
    folder = lab / "text"
    folder.mkdir()
    for number, text in enumerate(sentences(60, seed=4)):
        (folder / f"{number}.txt").write_text(text, "utf-8")
    options = [
        "study", "encoding", "--text", str(folder), "--vocabulary", "300", "--arms",
        "ce-untied", "llama-headless", "--size", "nano", "--context", "48", "--tokens", "768",
        "--batch-tokens", "96", "--windows", "12", "--factors", "2", "--shares", "0.5",
        "--lab", str(lab), "--out", str(lab / "out"),
    ]  # fmt: skip
    assert main(options) == 0
    return options, lab / "out"


def test_the_study_has_every_part_and_is_not_done_twice(finished, capsys, monkeypatch):
    options, out = finished
    first = (out / "results.json").read_bytes()
    result = EncodingStudy.from_json(json.loads(first))
    (part,) = result.parts
    assert [model.label for model in part.models] == [
        "cross-entropy", "Llama, headless", "Llama, headless, embedding alone",
    ]  # fmt: skip
    model = part.models[0]
    assert model.dynamics is not None
    assert model.pruning is not None
    assert len(model.dynamics.snapshots) >= 4
    assert {row.method for row in model.steering} == {"minimum_norm", "whitened", "bias"}
    assert {point.way for point in model.pruning.texts[0].points} >= {"encoding", "svd"}
    for row in model.steering:
        if row.solved and row.text == "estimation":
            assert row.realised.estimate == pytest.approx(row.factor, rel=OF_FLOAT32)
    heads = [head.head for head in part.models[1].written_prior]
    assert heads[:2] == ["with the bias", "without"]
    # the page of a command on one model is the section of the study for it
    page = (out / "report.html").read_text()
    for section in (model.encoding, model.pruning, model.dynamics):
        for table_or_figure in section.figures():
            said = table_or_figure.finding.removeprefix(model.encoding.model)
            assert html.escape(said.partition(": ")[2] or said) in page
    assert list(result.frame()["model"]) == [model.label for model in part.models]

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("done before")

    monkeypatch.setattr(study, "described", never)
    assert main(options) == 0
    assert (out / "results.json").read_bytes() == first
    assert "cross-entropy" in capsys.readouterr().out


def test_models_stand_against_counts_of_their_text(finished):
    """By hand: a model's nats of the same windows less those of the n-grams, by token."""
    _, out = finished
    result = EncodingStudy.from_json(json.loads((out / "results.json").read_text()))
    (part,) = result.parts
    counting, lab = part.counting, out.parent
    assert counting is not None
    # the embedding alone is no model of the text: it has no prior
    assert list(counting.above) == ["cross-entropy", "Llama, headless"]
    store = next(s for s in map(TokenStore, (lab / "stores").iterdir()))
    baseline = ngram_baselines(
        store, split="test", context=48, max_windows=12,
        smoothings=("modified Kneser-Ney", "Kneser-Ney"),
    ).best  # fmt: skip
    own = {model.label: model.run for model in part.models if not model.raw}
    for label, above in counting.above.items():
        of_run = score(
            open_model(lab / "runs" / own[label]), store, split="test", context=48, max_windows=12
        )
        counted = baseline.nats_forward_M.sum() / baseline.tokens_M.sum()
        assert above.interval.estimate == pytest.approx(of_run.nats_per_token - counted, abs=1e-5)
        assert of_run.tokens == counting.tokens
    # eight steps learn less than counts of the same text, and that is said first
    assert set(counting.worse) == set(counting.above)
    for text in (headline(result), result.summary()):
        assert text.startswith("Against counting (")
        assert "worse than counting, for these models on this text" in text
    values = result.to_json()
    for each in values["parts"]:
        each.pop("counting")
    old = EncodingStudy.from_json(values)
    assert headline(old).startswith("R²")
    assert [s.title for s in old.report.sections if "counting" in s.title] == []


def test_the_page_is_drawn_again_from_the_results_alone(finished):
    _, out = finished
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert page.count("<figure>") == 11
    for words in (
        "held-out tokens",
        "root mean square error",
        "bias alone",
        "which came first",
        "random bases",
        "Frequency is captured",
        "written into",
    ):
        assert words in page
    # one run of each way to train: figures, no verdict
    result = read_result(out)
    assert isinstance(result, EncodingStudy)
    assert ONE_RUN_EACH in result.summary()
    assert ONE_RUN_EACH in headline(result)


def heads_of(lm: LanguageModel, store: TokenStore) -> list[WrittenPrior]:
    estimation, judged = read_texts(lm, store, context=16)
    statistics = mean_of_states(lm, estimation.states)
    return written_prior(lm, regression(lm, estimation.windows, statistics), judged.states)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_prior_is_written_exactly_where_a_direction_is_constant(architecture, store_with_test):
    """States whose first coordinate is 1 in every context: a bias by another name."""
    tokenizer = symbols_tokenizer(12)
    config = ModelConfig(architecture, layers=1, heads=2, width=16, initializer_range=0.3)
    model: Any = build_model(
        build_config(
            config, vocabulary=tokenizer.vocabulary, context=20, bos_id=12, end_of_text_id=13
        ),
        seed=0,
    ).eval()
    bias_V = torch.linspace(-3, 3, tokenizer.vocabulary)
    if architecture == "gpt2":
        with torch.no_grad():  # a gain of almost zero: the shift alone remains of this coordinate
            model.transformer.ln_f.weight[0] = 1e-4
            model.transformer.ln_f.bias[0] = 2.0
        assert constant_direction(model) is not None
    attach_bias(model, bias_V, learnt=False)
    objective = Objective(Causal(order="forward", bos_id=12), FullCrossEntropy())
    lm = LanguageModel(
        "made", model, Backbone(model), tokenizer, objective, "untied", 20, {},
    )  # fmt: skip
    heads = {head.head: head for head in heads_of(lm, store_with_test)}
    assert heads["with the bias"].difference.estimate == 0
    without = heads["without"]
    written = heads["written with least variance"]
    assert abs(without.difference.estimate) > 0.05
    assert written.deviation is not None
    mean = heads["written along the mean state"]
    assert mean.deviation is not None
    assert written.deviation < mean.deviation
    plain = model.get_output_embeddings().weight.detach()
    model.get_output_embeddings().bias.data.zero_()
    np.testing.assert_allclose(plain, model.get_output_embeddings().weight.detach())
    zero = {head.head: head for head in heads_of(lm, store_with_test)}
    assert zero["written along the mean state"].difference.estimate == near(0)


def test_without_a_bias_there_is_nothing_to_write(store_with_test):
    tokenizer = symbols_tokenizer(12)
    model: Any = build_model(
        build_config(
            ModelConfig(layers=1, heads=2, width=16), vocabulary=tokenizer.vocabulary, context=20,
            bos_id=12, end_of_text_id=13,
        ),
        seed=0,
    ).eval()  # fmt: skip
    objective = Objective(Causal(order="forward", bos_id=12), FullCrossEntropy())
    lm = LanguageModel(
        "made", model, Backbone(model), tokenizer, objective, "untied", 20, {},
    )  # fmt: skip
    with pytest.raises(UserError, match="no output bias"):
        heads_of(lm, store_with_test)


def test_settings_that_make_no_study(capsys):
    for options in (
        ["--arms", "headless", "headless"],
        ["--context", "4096"],
        ["--shares", "1.0"],
        ["--factors", "0"],
    ):
        assert main(["study", "encoding", *options]) == 2
    assert "shares between 0" in " ".join(capsys.readouterr().err.split())
