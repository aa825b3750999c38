"""Objectives and analyses from outside of the package: what a script or a notebook brings."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import lmlab
from helpers import journal
from lmlab.cli import main
from lmlab.config.objective import ADDED
from lmlab.errors import UserError
from lmlab.extend import (
    Causal,
    Criterion,
    ForestRow,
    FullCrossEntropy,
    Interval,
    Report,
    Section,
    Table,
    forest_plot,
    register_objective,
    register_result,
)
from lmlab.objectives.added import CRITERIA, READINGS
from lmlab.topics import registry

TINY: dict[str, Any] = {
    "steps": 4, "every": 2, "layers": 1, "heads": 1, "width": 16, "context": 16, "batch": 4,
    "optimizer_name": "adamw", "dtype": "float32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def registered():
    """What a test registers is forgotten after it."""
    yield
    forget()


def forget() -> None:
    for table in (ADDED, READINGS, CRITERIA, registry._ADDED):
        table.clear()


class Plain(FullCrossEntropy):
    """Cross-entropy as one would write it oneself."""

    name = "plain"

    def sum(self, backbone, batch):
        logits_NV = self.logits(backbone, batch)
        nats_N = torch.nn.functional.cross_entropy(logits_NV, batch.targets_N, reduction="none")
        return nats_N.sum(), int((batch.targets_N != -100).sum())


class Twice(Plain):
    """Its loss is twice the cross-entropy; what it scores is not."""

    name = "twice"
    factor = 2.0

    def sum(self, backbone, batch):
        nats, count = super().sum(backbone, batch)
        return self.factor * nats, count


class Doubtful(Causal):
    """Causal, but of every token that is read it sees the one before half of the time."""

    name = "doubtful"

    def arrays(self, windows, length, keys):
        arrays = super().arrays(windows, length, keys)
        if keys is not None:
            inputs = arrays["inputs_BT"]
            for row, key in enumerate(keys):
                hidden = np.random.default_rng(int(key)).random(length) < 0.5
                inputs[row, 1:] = np.where(hidden[1:], inputs[row, :-1], inputs[row, 1:])
        return arrays


def losses(run: lmlab.Run) -> list[float]:
    return [row["loss"] for row in journal(run.path)]


def test_a_criterion_trains_and_scores_as_the_same_one_of_lmlab(text_store, tmp_path):
    register_objective("plain", criterion=Plain)
    own = lmlab.train(text_store, **TINY, out=tmp_path / "causal")
    run = lmlab.train(text_store, **TINY, objective="plain", out=tmp_path / "plain")
    np.testing.assert_allclose(losses(run), losses(own), rtol=1e-5)
    score = lmlab.score(run, text_store)
    assert score.nats_per_token == pytest.approx(lmlab.score(own, text_store).nats_per_token)
    assert lmlab.load(run).objective.record() == {"name": "plain"}
    register_objective("twice", criterion=Twice)
    twice = lmlab.train(text_store, **TINY, objective="twice", out=tmp_path / "twice")
    assert losses(twice)[0] == pytest.approx(2 * losses(own)[0])
    assert lmlab.score(twice, text_store).nats_per_token < 2 * score.nats_per_token / 1.5


def test_a_reading_is_one_of_causal_models_of_the_same_size(text_store, tmp_path):
    register_objective("doubtful", reading=Doubtful)
    gpt2 = {**TINY, "architecture": "gpt2"}  # its table of positions is as long as its input
    own = lmlab.train(text_store, **gpt2, out=tmp_path / "causal")
    run = lmlab.train(text_store, **gpt2, objective="doubtful", out=tmp_path / "doubtful")
    assert losses(run) != losses(own)
    first, second = (lmlab.load(each).model.config for each in (run, own))
    assert first.n_positions == second.n_positions == 16
    again = lmlab.train(text_store, **gpt2, objective="doubtful", out=tmp_path / "again")
    assert losses(again) == losses(run)
    # what it sees decides nothing when it scores
    as_causal = replace(lmlab.load(run), objective=lmlab.load(own).objective)
    scores = [lmlab.score(lm, text_store).nats_per_token for lm in (lmlab.load(run), as_causal)]
    assert scores[0] == scores[1]


def test_an_objective_of_masked_models(text_store, tmp_path):
    register_objective("plain-masked", reading="masked", criterion=Plain)
    settings = {**TINY, "architecture": "bert"}
    own = lmlab.train(text_store, **settings, objective="masked", out=tmp_path / "masked")
    run = lmlab.train(text_store, **settings, objective="plain-masked", out=tmp_path / "plain")
    np.testing.assert_allclose(losses(run), losses(own), rtol=1e-5)


def test_a_changed_class_is_another_run(text_store, tmp_path, monkeypatch):
    """A cell that was changed and run again must not get the model of before."""
    register_objective("twice", criterion=Twice)
    settings = {**TINY, "objective": "twice", "out": tmp_path / "run"}
    before = losses(lmlab.train(text_store, **settings))
    assert losses(lmlab.train(text_store, **settings)) == before
    monkeypatch.setattr(Twice, "factor", 3.0)
    with pytest.raises(UserError, match=r"holds another run \(different: objective_source\)"):
        lmlab.train(text_store, **settings)
    monkeypatch.undo()
    # of what it inherits too
    monkeypatch.setattr(Plain, "sum", lambda self, backbone, batch: (torch.zeros(()), 1))
    with pytest.raises(UserError, match="objective_source"):
        lmlab.train(text_store, **settings)


def test_what_will_not_do_is_refused(text_store):
    class Nameless(Plain):
        pass

    class Ends(Causal):
        name = "ends"
        ends = 2

    class Abstract(Criterion):
        name = "abstract"

    class Softmax(Plain):
        name = "softmax"

    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("causal", {"criterion": Plain}, "lmlab has one of that name"),
        ("Plain one", {"criterion": Plain}, "use letters, digits and -"),
        ("x", {}, "give a class of your own"),
        ("x", {"reading": "cloze", "criterion": Plain}, "'cloze' is not one of causal, masked"),
        ("x", {"criterion": Nameless}, "Nameless: give it a `name` of its own"),
        ("x", {"criterion": Softmax}, "'softmax' is one of lmlab's"),
        ("x", {"criterion": Abstract}, "no whole subclass of Criterion"),
        ("x", {"criterion": Plain()}, "no whole subclass of Criterion"),
        ("x", {"reading": Plain}, "no whole subclass of Causal"),
        ("x", {"reading": Ends}, "`ends` must be 0"),
    ]
    for name, parts, message in wrong:
        with pytest.raises(UserError, match=message):
            register_objective(name, **parts)
    names: dict[str, Any] = {"Plain": Plain}
    exec("class Typed(Plain):\n    name = 'typed'\n    def check(self, backbone): pass", names)  # noqa: S102
    with pytest.raises(UserError, match=r"Typed\.check: its source cannot be read"):
        register_objective("x", criterion=names["Typed"])
    assert not ADDED
    register_objective("plain", criterion=Plain)
    with pytest.raises(UserError, match="registered as 'plain' already"):
        register_objective("other", criterion=Plain)
    with pytest.raises(UserError, match=r"'plian' is not one of 'causal'"):
        lmlab.train(text_store, objective="plian")


def test_another_process_does_not_know_it_and_says_so(text_store, tmp_path, capsys):
    """Nothing is imported by the name in a checkpoint; the run beside it is listed all the same."""

    def run(*arguments: object) -> int:
        return main([str(each) for each in arguments])

    register_objective("plain", criterion=Plain)
    lab = tmp_path / "lab"
    lmlab.train(text_store, **TINY, out=lab / "causal")
    path = lmlab.train(text_store, **TINY, objective="plain", out=lab / "plain").path
    exported = lmlab.export(lmlab.Run(path), tmp_path / "exported")
    expected = lmlab.score(lmlab.Run(path), text_store).nats_per_token
    assert list(lmlab.runs(lab).objective) == ["causal", "plain"]
    forget()  # as another process, which has never known it
    assert run("score", path, "--store", text_store.path, "--out", tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert "unknown objective 'plain'" in said
    assert "lmlab.extend.register_objective" in said
    assert run("runs", lab) == 0
    shown = capsys.readouterr()
    assert f"left out: {path}: unknown objective 'plain'" in shown.out + shown.err
    assert "causal" in shown.out
    assert run("score", exported, "--store", text_store.path, "--out", tmp_path) == 0
    values = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert values["nats_per_token"] == pytest.approx(expected)


@register_result
@dataclass(frozen=True)
class Toy(lmlab.Result, kind="toy of this test"):
    loss: Interval


def tables(result: Toy) -> list[Table]:
    return [Table(["loss"], [[result.loss.estimate]], "A loss.")]


def report(result: Toy) -> Report:
    rows = [ForestRow.of("loss", result.loss)]
    figure = forest_plot(rows, x_label="nats", finding="It is so.", alt="A loss.", reference=None)
    return Report("Toy", "It is so.", [Section("Loss", figures=[figure], tables=tables(result))])


def test_a_result_is_shown_saved_and_read(text_store, tmp_path):
    register_result(Toy)
    trained = lmlab.train(text_store, **TINY, out=tmp_path / "run")
    toy = Toy(lmlab.score(trained, text_store).interval)
    assert Toy.views == __name__
    folder = toy.save(tmp_path / "toy")
    assert "<figure>" in (folder / "report.html").read_text("utf-8")
    assert lmlab.read(folder) == toy
    assert toy.frame().loss[0] == toy.loss.estimate
    registry._ADDED.clear()
    with pytest.raises(UserError, match=r"kind 'toy of this test'.*register_result"):
        lmlab.read(folder)
    for wrong in (int, type("Bare", (lmlab.Result,), {}, kind="bare")):
        with pytest.raises(UserError, match="a result is a frozen dataclass"):
            register_result(wrong)  # pyright: ignore

    @dataclass(frozen=True)
    class Score(lmlab.Result, kind="score"):
        pass

    with pytest.raises(UserError, match="lmlab has results of kind 'score'"):
        register_result(Score)
