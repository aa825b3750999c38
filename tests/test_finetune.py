"""Fine-tuned classifiers: what they read, what they are trained on, when they stop."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import stdtrit
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from helpers import journal, tiny_training
from lmlab.cli import main
from lmlab.config import from_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, ParentConfig, TrainConfig
from lmlab.data.labelled import Example, LabelledTask
from lmlab.data.labelled_store import LabelledSplit, LabelledText, labelled_store, read_labels
from lmlab.data.splits import TEST
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.models.backbone import Backbone
from lmlab.models.files import load_classifier
from lmlab.objectives import from_record
from lmlab.objectives.classification import WholeText, label_criterion, outputs_for
from lmlab.run_folders.checkpoint import checkpoints, newest_checkpoint
from lmlab.topics.finetuning.metrics import task_result
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.topics.finetuning.study import reported_outputs, run_finetune
from lmlab.topics.registry import read_result
from lmlab.training.loop import Trainer, train

CAUSAL, MASKED = (
    ("gpt2", "neox", "llama", "qwen3", "gru", "lstm"),
    ("bert", "modernbert", "distilbert"),
)
WORDS = tuple("abcdef")


def examples(n, seed, *, pair=False, values=False):
    """Texts whose last word decides the class; the first word says nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        label = int(rng.integers(2))
        words = [*rng.choice(WORDS, rng.integers(2, 6)), "yn"[label]]
        other = " ".join(rng.choice(WORDS, 3)) if pair else None
        made.append(
            Example(f"line {number}", " ".join(words), other, label + 0.5 if values else label)
        )
    return tuple(made)


def task(*, train=64, reported=24, pair=False, values=False, name="toy"):
    return LabelledTask(
        name=name, source="here", labels=() if values else ("good", "bad"),
        metrics=("pearson",) if values else ("accuracy", "f1"),
        train=examples(train, 1, pair=pair, values=values),
        selection=examples(16, 2, pair=pair, values=values),
        reported=examples(reported, 3, pair=pair, values=values),
    )  # fmt: skip


def pretrained(store, out, architecture: Any = "gpt2", **options: Any):
    objective = "masked" if architecture in MASKED else "causal"
    heads = None if architecture in ("gru", "lstm") else 2
    model = ModelConfig(architecture, layers=1, heads=heads, width=16)
    return train(
        tiny_training(store, out, model=model, objective=objective, context=24, steps=2, **options)
    )


@pytest.fixture(scope="module")
def parents(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    made = {}

    def parent(architecture):
        if architecture not in made:
            made[architecture] = pretrained(text_store, folder / architecture, architecture)
        return made[architecture]

    return parent


def toy_store(text_store, folder, length=22, **options):
    return labelled_store(task(**options), text_store.tokenizer, length=length, folder=folder)


def classifier(store, out, parent, *, freeze_body=False, **options: Any):
    settings = {
        "objective": "classification", "context": 22,
        "parent": ParentConfig(str(parent.path), freeze_body=freeze_body),
        "batch": 8, "steps": 6, "evaluate_every": 2, "dtype": "float32", "threads": 1,
        "checkpoints": CheckpointConfig(every=2),
    }  # fmt: skip
    return TrainConfig(store=store.path, out=out, **{**settings, **options})


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("architecture", [*CAUSAL, *MASKED])
def test_a_classifier_gives_what_transformers_gives_for_each_text_alone(
    text_store, tmp_path, parents, architecture, pair
):
    store = toy_store(text_store, tmp_path, pair=pair)
    parent = parents(architecture)
    run = train(classifier(store, tmp_path / "run", parent))
    ours_NC = reported_outputs(run.path, store)
    plain = AutoModelForSequenceClassification.from_pretrained(run.checkpoint)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run.checkpoint)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    for example, row_C in zip(task(pair=pair).reported, ours_NC, strict=True):
        first = tokenizer(example.text, add_special_tokens=False).input_ids
        second = tokenizer(example.other or "", add_special_tokens=False).input_ids
        ids, kinds = [start, *first], [0] * (1 + len(first))
        if pair:
            ids, kinds = [*ids, end, *second], [*kinds, 0, *[1] * len(second)]
        if architecture in MASKED:
            ids, kinds = [*ids, end], [*kinds, int(pair)]
        more = {"token_type_ids": torch.tensor([kinds])} if architecture == "bert" else {}
        with torch.no_grad():
            theirs_C = plain(torch.tensor([ids]), **more).logits[0].double().numpy()
        assert row_C == pytest.approx(theirs_C, abs=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "lstm", "bert"])
def test_neither_the_batch_nor_padding_changes_an_output(
    text_store, tmp_path, parents, architecture
):
    store = toy_store(text_store, tmp_path)
    run = train(classifier(store, tmp_path / "run", parents(architecture)))
    model = load_classifier(str(run.checkpoint), fresh=None)
    record = json.loads((run.checkpoint / "lmlab.json").read_text())["objective"]
    objective = from_record(record, order="forward", tokenizer=store.tokenizer)
    texts = LabelledSplit(store.split(TEST), read_labels(store).by_split[TEST])
    alone, together = (
        outputs_for(objective, Backbone(model), texts, batch=batch) for batch in (1, 7)
    )
    assert together == pytest.approx(alone, abs=1e-5)
    device = torch.device("cpu")
    padded = objective.reading.batch([texts.text(0)], device=device, length=22)
    bare = objective.reading.batch([texts.text(0)], device=device)
    assert padded.inputs_BT.shape[1] > bare.inputs_BT.shape[1]
    with torch.no_grad():
        outputs_of = label_criterion(objective).outputs_of
        wide, narrow = (outputs_of(Backbone(model), b) for b in (padded, bare))
    assert torch.allclose(wide, narrow, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "order"), [("gpt2", "forward"), ("bert", "forward"), ("gpt2", "backward")]
)
def test_it_learns_what_the_last_word_says_where_the_first_says_nothing(
    text_store, tmp_path, architecture, order
):
    parent = pretrained(text_store, tmp_path / "parent", architecture, order=order)
    store = toy_store(text_store, tmp_path, train=256, reported=64)
    config = classifier(
        store, tmp_path / "run", parent, order=order, batch=32, steps=150, evaluate_every=50,
        optimizer=OptimizerConfig(learning_rate=1e-2), checkpoints=CheckpointConfig(every=150),
    )  # fmt: skip
    outputs_NC = reported_outputs(train(config).path, store)
    true_N = np.array([example.label for example in task(reported=64).reported])
    assert (outputs_NC.argmax(axis=1) == true_N).mean() == 1
    first = np.array([example.text.split()[0] for example in task(reported=64).reported])
    most_from_first = sum(max(np.bincount(true_N[first == word])) for word in set(first))
    assert most_from_first / 64 < 0.75


def test_the_class_balanced_loss_by_hand(text_store, tmp_path, parents):
    given = dataclasses.replace(task(), train=tuple(
        Example("", "a y" if i else "b n", None, int(i == 0)) for i in range(8)
    ))  # fmt: skip
    store = labelled_store(given, text_store.tokenizer, length=22, folder=tmp_path)
    run = train(classifier(store, tmp_path / "run", parents("gpt2"), class_balanced=True, steps=1,
                           checkpoints=CheckpointConfig(every=1, logarithmic=True)))  # fmt: skip
    start = load_classifier(str(run.path / "checkpoints/step-00000000"), fresh=None).eval()
    ids = [store.tokenizer.encode(e.text) for e in given.train]
    with torch.no_grad():
        logits_NC = torch.cat([
            start(torch.tensor([[store.bos_id, *each]])).logits for each in ids
        ])  # fmt: skip
    nats_N = cross_entropy(logits_NC, torch.tensor([1] + [0] * 7), reduction="none")
    by_hand = (8 / (2 * 1) * nats_N[0] + 8 / (2 * 7) * nats_N[1:].sum()) / 8
    assert journal(run.path)[0]["loss"] == pytest.approx(float(by_hand), rel=1e-5)


def test_a_run_that_stops_early_keeps_its_best_and_resumes_to_the_same_bytes(
    text_store, tmp_path, parents, monkeypatch
):
    # half of the selection texts are labelled wrongly, so its loss soon grows
    wrong = tuple(
        dataclasses.replace(e, label=(e.label + i) % 2) for i, e in enumerate(task().selection)
    )
    given = dataclasses.replace(task(), selection=wrong)
    store = labelled_store(given, text_store.tokenizer, length=22, folder=tmp_path)
    options: dict[str, Any] = {
        "steps": 400, "early_stopping": 3, "evaluate_every": 4,
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "checkpoints": CheckpointConfig(every=5, keep=1),
    }  # fmt: skip
    whole = train(classifier(store, tmp_path / "whole", parents("gpt2"), **options))
    records = [r for r in journal(whole.path) if "validation_accuracy" in r]
    goodness = [(r["validation_accuracy"], -r["validation_loss"]) for r in records]
    best = goodness.index(max(goodness))
    assert len(records) == best + 1 + 3 < 100
    assert [p.name for p in checkpoints(whole.path)] == [f"step-{records[best]['step']:08d}"]
    assert whole.checkpoint == checkpoints(whole.path)[0]

    halved = classifier(store, tmp_path / "halved", parents("gpt2"), **options)
    update = Trainer.update
    last = records[-1]["step"]

    def interrupted(trainer):
        if trainer.step == last - 2:
            raise KeyboardInterrupt
        return update(trainer)

    monkeypatch.setattr(Trainer, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(halved)
    assert whole.checkpoint.name in [p.name for p in checkpoints(tmp_path / "halved")]
    monkeypatch.undo()
    again = train(halved)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        assert (again.checkpoint / name).read_bytes() == (whole.checkpoint / name).read_bytes()
    same = [run.path / "journal.jsonl" for run in (whole, again)]
    assert same[0].read_bytes() == same[1].read_bytes()
    # a finished run is not trained again
    before = same[0].stat().st_mtime_ns
    train(classifier(store, tmp_path / "whole", parents("gpt2"), **options))
    assert same[0].stat().st_mtime_ns == before


def test_what_is_reported_decides_nothing(text_store, tmp_path, parents):
    stores = [
        labelled_store(given, text_store.tokenizer, length=22, folder=tmp_path)
        for given in (task(), dataclasses.replace(task(), reported=examples(9, 77)))
    ]
    options: dict[str, Any] = {"steps": 40, "early_stopping": 2}
    runs = [
        train(classifier(store, tmp_path / f"run{i}", parents("bert"), **options))
        for i, store in enumerate(stores)
    ]
    assert (runs[0].path / "journal.jsonl").read_bytes() == (
        runs[1].path / "journal.jsonl"
    ).read_bytes()


def test_early_stopping_of_a_language_model_keeps_the_lowest_loss(text_store, tmp_path):
    run = pretrained(text_store, tmp_path / "run", early_stopping=1, evaluate_every=1)
    records = journal(run.path)
    losses = [r["validation_nats_per_token"] for r in records]
    assert newest_checkpoint(run.path).step == records[int(np.argmin(losses))]["step"]


def test_a_frozen_body_stays_and_the_head_moves(text_store, tmp_path, parents):
    store = toy_store(text_store, tmp_path)
    for architecture in ("gpt2", "bert"):
        parent = parents(architecture)
        config = classifier(
            store, tmp_path / architecture, parent,
            freeze_body=True, checkpoints=CheckpointConfig(every=6, logarithmic=True),
        )  # fmt: skip
        run = train(config)
        first, last = (
            load_classifier(str(run.path / f"checkpoints/step-{step:08d}"), fresh=None).state_dict()
            for step in (0, 6)
        )
        moved = {name for name in first if not torch.equal(first[name], last[name])}
        assert moved
        assert all("pooler" in n or n.startswith(("classifier", "score")) for n in moved)


def test_values_are_learnt_by_squared_error(text_store, tmp_path, parents):
    store = toy_store(text_store, tmp_path, train=256, values=True)
    config = classifier(
        store, tmp_path / "run", parents("gpt2"), batch=32, steps=150, evaluate_every=50,
        optimizer=OptimizerConfig(learning_rate=1e-2), checkpoints=CheckpointConfig(every=150),
    )  # fmt: skip
    run = train(config)
    outputs_NC = reported_outputs(run.path, store)
    assert outputs_NC.shape == (24, 1)
    true_N = np.array([example.label for example in task(values=True).reported])
    assert np.abs(outputs_NC[:, 0] - true_N).max() < 0.2
    assert journal(run.path)[-1]["validation_pearson"] > 0.98


def test_the_longer_text_of_a_pair_is_cut_first(text_store, tmp_path):
    tokenizer = text_store.tokenizer
    long, short = "a b c d e f " * 4, "a b c"
    given = dataclasses.replace(
        task(),
        train=(
            Example("", long, short, 0), Example("", short, long, 1), Example("", long, long, 1),
            Example("", long, None, 0),
        ),
    )  # fmt: skip
    store = labelled_store(given, tokenizer, length=16, folder=tmp_path)
    texts = LabelledSplit(store.split("train"), read_labels(store).by_split["train"])
    long_ids, short_ids = tokenizer.encode(long), tokenizer.encode(short)
    room = 15 - len(short_ids)
    end = [tokenizer.end_of_text_id]
    wanted = [
        [*long_ids[:room], *end, *short_ids],
        [*short_ids, *end, *long_ids[:room]],
        [*long_ids[:7], *end, *long_ids[:8]],
        long_ids[:16],
    ]
    assert len(short_ids) < 7
    assert len(long_ids) > 16
    assert [texts.text(i).ids.tolist() for i in range(4)] == [list(map(int, w)) for w in wanted]


def test_a_study_compares_models_with_intervals_and_resumes(text_store, tmp_path, parents, capsys):
    file = tmp_path / "toy.tsv"
    lines = [
        f"{e.text} {i}\t{('good', 'bad')[int(e.label)]}" for i, e in enumerate(examples(300, 5))
    ]
    file.write_text("\n".join(["text\tlabel", *lines]) + "\n")
    config = FinetuneConfig(
        models=tuple(str(parents(name).path) for name in ("gpt2", "bert")),
        tasks=(f"tsv={file}",), names=("causal", "<masked>"), seeds=2, epochs=3,
        learning_rate=1e-2, lab=tmp_path / "lab", out=tmp_path / "out", dtype="float32",
    )  # fmt: skip
    result = run_finetune(config)
    page = tmp_path / "out/report.html"
    stored = (tmp_path / "out/results.json").read_bytes()
    assert from_mapping(FinetuneConfig, json.loads(stored)["config"], where="") == config
    first, second = result.tasks[0].models
    assert first.difference is None
    assert second.difference is not None
    accuracy = second.metrics["accuracy"]
    assert accuracy.bounds is not None
    assert accuracy.bounds[0] < accuracy.estimate < accuracy.bounds[1]
    assert second.difference["accuracy"].estimate == pytest.approx(
        accuracy.estimate - first.metrics["accuracy"].estimate
    )
    assert "<masked>" not in page.read_text()
    assert "&lt;masked&gt;" in page.read_text()
    frame = result.frame()
    assert frame[frame["model"] == "<masked>"]["value"].tolist() == [
        metric.estimate for metric in second.metrics.values()
    ]
    assert read_result(tmp_path / "out") == run_finetune(config) == result
    assert (tmp_path / "out/results.json").read_bytes() == stored
    drawn = page.read_bytes()
    page.unlink()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert page.read_bytes() == drawn


def test_intervals_stay_in_the_range_of_their_metric():
    """Was: symmetric ones, an F1 of 0.97 with an end of 1.06; a perfect classifier was certain."""
    rng = np.random.default_rng(0)
    true_N = np.array([example.label for example in task().reported])
    outputs_NC = np.where(np.eye(2)[true_N.astype(int)] > 0, 1.0, 0.0)
    slips = [outputs_NC.copy() for _ in range(3)]
    for slip in slips:
        slip[rng.integers(len(true_N))] = (0.5, 0.5)
    perfect, unlike = ([o] * 3 for o in (outputs_NC, 1 - outputs_NC))
    chosen = SimpleNamespace(name="r", checkpoint=Path("step-1"), path=Path("nowhere"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlab.topics.finetuning.metrics.read_journal", lambda _: [{"step": 1}])
        given: Any = [[(chosen, o) for o in outputs] for outputs in (perfect, slips, unlike)]
        made = task_result(
            dataclasses.replace(task(), metrics=("accuracy", "f1", "matthews")), "abc", given
        ).models
    for model in made:
        for name, interval in model.metrics.items():
            assert interval.bounds is None or interval.bounds[0] < interval.bounds[1]
            low, high = interval.bounds or (0, 0)
            assert -(name == "matthews") <= low <= high <= 1
    n, t2 = len(true_N), stdtrit(len(true_N) - 1, 0.975) ** 2
    assert made[0].metrics["accuracy"].bounds == (pytest.approx(n / (n + t2)), 1)
    assert made[0].metrics["f1"].bounds is None
    assert "the same value" in made[0].metrics["matthews"].note
    assert made[2].difference is not None
    assert made[2].difference["accuracy"].bounds is None


def test_mistakes_are_named(text_store, tmp_path, parents):
    parent, store = parents("gpt2"), toy_store(text_store, tmp_path)
    with pytest.raises(UserError, match="starts from a language model"):
        TrainConfig(store=store.path, objective="classification")
    with pytest.raises(UserError, match="`class_balanced` is for"):
        TrainConfig(store=store.path, class_balanced=True)
    with pytest.raises(UserError, match="store of plain text"):
        train(classifier(text_store, tmp_path / "a", parent))
    with pytest.raises(UserError, match="the store holds texts of"):
        train(classifier(store, tmp_path / "b", parent, context=4))
    with pytest.raises(UserError, match="reads in the order forward"):
        train(classifier(store, tmp_path / "c", parent, order="backward"))
    with pytest.raises(UserError, match=r"takes 24 positions.*, and 42 are needed"):
        train(classifier(store, tmp_path / "d", parent, context=40))
    run = train(classifier(store, tmp_path / "e", parent))
    with pytest.raises(UserError, match="is a classifier of texts"):
        open_model(run.path)
    with pytest.raises(UserError, match="is a language model, not a classifier"):
        reported_outputs(parent.path, store)
    absent = dataclasses.replace(task(), train=tuple(e for e in task().train if e.label == 0))
    one = labelled_store(absent, text_store.tokenizer, length=22, folder=tmp_path / "one")
    with pytest.raises(UserError, match="no training text of class 'bad'"):
        train(classifier(one, tmp_path / "f", parent, class_balanced=True))
    (store.path / "labels.json").write_text("[]")
    with pytest.raises(UserError, match="its content is not what was prepared"):
        train(classifier(store, tmp_path / "g", parent))


def test_a_text_is_read_in_the_order_of_its_model(text_store):
    reading = WholeText(order="backward", tokenizer=text_store.tokenizer, both_ways=False)
    batch = reading.batch(
        [LabelledText(np.array([7, 8, 9]), 1.0), LabelledText(np.array([5]), 0.0)],
        device=torch.device("cpu"),
    )
    start, end = text_store.tokenizer.bos_id, text_store.tokenizer.end_of_text_id
    assert batch.inputs_BT.tolist() == [[start, 9, 8, 7], [start, 5, end, end]]
    assert batch.targets_BT.tolist() == [[1], [0]]
