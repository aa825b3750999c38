"""Towers as models of every command: the joint model RUN, and each tower alone, RUN@1 and RUN@2.

Checked against the model's own parts: states of a tower times its probe, one token at a time.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import ParentConfig
from lmlab.data.pieces import pieces_of
from lmlab.errors import UserError
from lmlab.lm.encoder import encoder_of, open_encoder
from lmlab.lm.language_model import open_model
from lmlab.lm.sampling import sample
from lmlab.topics.decomposition.embedding import embed, prepare_text
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.encoding.of_model import encode
from lmlab.topics.encoding.token_probability import choose_windows, mean_token_probability
from lmlab.topics.scoring.score import score
from lmlab.training.loop import train

CONTEXT = 16


@pytest.fixture(scope="module")
def lab(text_store, tmp_path_factory):
    """Cooperative towers with probes, towers with heads of their own, cloze towers, and none."""
    lab = tmp_path_factory.mktemp("towers")
    kinds: dict[str, dict[str, Any]] = {
        "concat": {"objective": "towers"},
        "product": {"objective": "towers", "towers": TowersConfig("product")},
        "mixture": {"objective": "towers", "towers": TowersConfig("mixture")},
        "cloze": {"objective": "towers-cloze", "model": ModelConfig("lstm", layers=1, width=16)},
        "plain": {},
    }
    for name, options in kinds.items():
        train(tiny_training(text_store, lab / name, context=CONTEXT, **options))
    train(
        tiny_training(
            text_store, lab / "probes", context=CONTEXT, objective="probe", model=ModelConfig(),
            parent=ParentConfig(str(lab / "concat")),
        )
    )  # fmt: skip
    items = [{"context": "the model", "choices": [" reads", " text token"], "answer": 0}] * 4
    (lab / "choices.jsonl").write_text("\n".join(map(json.dumps, items)))
    return lab


def command(lab, text_store, line: str) -> tuple[int, dict[str, Any]]:
    """Runs `lmlab LINE`, where RUN/ stands for the lab folder; its code and results.json."""
    out = lab / "out" / str(abs(hash(line)))
    words = [word.replace("RUN/", f"{lab}/") for word in line.split()]
    if words[0] not in ("evaluate", "export"):
        words += ["--store", str(text_store.path)]
    code = main([*words, "--out", str(out)])
    file = out / "results.json"
    return code, json.loads(file.read_text()) if file.is_file() else {}


@pytest.mark.parametrize("name", ["concat", "probes", "probes@1", "probes@2", "product@1"])
@pytest.mark.parametrize(
    "line",
    [
        "encode {} --windows 4 --rotations 1",
        "geometry {} --windows 4",
        "prune {} --windows 4 --prompts 0 --shares 0.5",
        "evaluate {} --tasks choices=RUN/choices.jsonl",
    ],
)
def test_commands_take_towers(lab, text_store, name, line):
    code, values = command(lab, text_store, line.format(f"RUN/{name}"))
    assert code == 0
    assert f"{lab}/{name}" in json.dumps(values)


def test_the_probabilities_of_a_tower_are_those_of_its_probe(lab, text_store):
    lm = open_model(lab / "probes@2")
    windows = choose_windows(lm, text_store, split="validation", context=8, max_windows=6)
    length = int(windows.length_M.min())
    ids_NT = np.stack([windows.ids(row)[:length] for row in range(len(windows))])
    made_V = mean_token_probability(lm, ids_NT)
    model = open_model(lab / "probes").model.model
    with torch.no_grad():
        states = model.tower_states(torch.from_numpy(ids_NT.astype(np.int64)))[1]
        probe = model.probes[1]
        expected_V = probe.head(probe.transform(states)).double().softmax(-1).mean((0, 1))
    np.testing.assert_allclose(made_V, expected_V.numpy(), rtol=1e-5)
    head_VD = encode(lm, text_store, max_windows=4, rotations=1).encoding.slope_D
    assert head_VD.shape == probe.head.weight.shape[1:]


def test_a_steered_tower_is_written_beside_the_other_one(lab, text_store, tmp_path):
    out = tmp_path / "steered"
    arguments = ["steer", f"{lab}/probes@1", "--store", str(text_store.path), "--token", "t=2"]
    assert main([*arguments, "--out", str(out)]) == 0
    token = int(text_store.tokenizer.encode("t")[0])

    def mean(name):
        lm = open_model(name)
        windows = choose_windows(lm, text_store, split="validation", context=None, max_windows=256)
        total, count = 0.0, 0
        for row in range(len(windows)):
            ids = np.concatenate([[lm.tokenizer.bos_id], windows.ids(row)])
            with torch.no_grad():
                logits = lm.model(torch.from_numpy(ids[None, :-1].astype(np.int64))).logits
            total += float(logits.double().softmax(-1)[..., token].sum())
            count += logits.shape[1]
        return total / count

    assert mean(f"{out}@1") / mean(lab / "probes@1") == pytest.approx(2, rel=1e-3)
    for same in ("@2", ""):
        one, other = (
            score(open_model(f"{place}{same}"), text_store, split="test", max_windows=8)
            for place in (out, lab / "probes")
        )
        assert one.nats_per_token == other.nats_per_token


@pytest.mark.parametrize("name", ["probes", "probes@1", "mixture"])
def test_what_is_written_greedily_is_the_likeliest_each_time(lab, name):
    lm = open_model(lab / name)
    made = sample(lm, "the model", tokens=5, temperature=0).texts[0]
    ids = [lm.tokenizer.bos_id, *lm.tokenizer.encode("the model").tolist()]
    start = len(ids)
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
    end = lm.tokenizer.end_of_text_id
    new = ids[start : ids.index(end, start)] if end in ids[start:] else ids[start:]
    assert made == "the model" + lm.tokenizer.decode(new)


def test_a_tower_is_embedded_by_its_own_states_with_or_without_a_probe(lab, text_store):
    pieces = pieces_of(text_store.split("validation"), 8, most=5)
    names = ["concat@1", "concat@2", "probes@1", "concat", "cloze@2"]
    encoders = {name: open_encoder(lab / name) for name in names}
    assert len({one.fingerprint for one in encoders.values()}) == len(names)
    assert encoder_of(open_model(lab / "probes@1")).fingerprint == encoders["probes@1"].fingerprint
    config = EmbeddingConfig(length=8)
    _, prepared = prepare_text(encoders, pieces, config)
    rows = {name: next(iter(embed(one, config))) for name, one in prepared.items()}
    assert rows["concat@1"].shape == (5, 16)
    assert rows["concat"].shape == (5, 32)
    np.testing.assert_array_equal(rows["concat@1"], rows["probes@1"])
    model = open_model(lab / "concat").model.model
    for k in (0, 1):
        for row, one in zip(rows[f"concat@{k + 1}"], prepared["concat"].encoded, strict=True):
            with torch.no_grad():
                states = model.tower_states(torch.from_numpy(one.ids_T[None]))[k][0]
            np.testing.assert_allclose(row, states[one.text_T].mean(0), rtol=1e-4, atol=1e-6)
    assert not np.allclose(rows["concat@1"], rows["concat@2"], atol=1e-3)


def test_towers_are_decomposed(lab, text_store):
    line = (
        "decompose --models RUN/concat@1 RUN/concat@2 RUN/probes RUN/plain "
        "--pieces 30 --held-out-pieces 20 --embedding.length 8 --lab RUN/kept"
    )
    code, values = command(lab, text_store, line)
    assert code == 0
    assert values["widths"] == {"concat@1": 16, "concat@2": 16, "probes": 32, "plain": 16}


def test_cloze_towers_stay_cloze_when_exported(lab, text_store, tmp_path):
    assert main(["export", f"{lab}/cloze", "--out", str(tmp_path / "out")]) == 0
    own, exported = (
        score(open_model(place), text_store, split="validation")
        for place in (lab / "cloze", tmp_path / "out")
    )
    assert exported.nats_per_token == own.nats_per_token


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("encode RUN/concat@1", "train their probes first"),
        ("geometry RUN/plain@1", "no towers; leave out @1"),
        ("embed --models RUN/plain@2 --lab RUN/kept", "no towers; leave out @2"),
        (
            "embed --models RUN/probes@1 --embedding.layer 1 --embedding.length 8 --lab RUN/kept",
            "last states only",
        ),
        ("encode RUN/mixture", "what is encoded there is not known"),
        ("steer RUN/mixture --untie --token t=2", "what is encoded there is not known"),
        ("steer RUN/probes --token t=2", "Untie it first"),
        ("steer RUN/product@1 --untie --token t=2", "written of a tower with a probe"),
        ("prune RUN/probes@1 --share 0.5", "cannot be written with a smaller head"),
        ("export RUN/probes@1", "exported with the other one"),
        ("train --parent.path RUN/probes@1", "a tower alone is no parent"),
        ("evaluate RUN/cloze --tasks choices=RUN/choices.jsonl", "not of 'cloze'"),
    ],
)
def test_what_makes_no_sense_is_refused(lab, text_store, capsys, line, said):
    code, values = command(lab, text_store, line)
    assert code == 2
    assert values == {}
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_tower_in_a_python_call_is_refused_alike(lab):
    with pytest.raises(UserError, match="no towers; leave out @1"):
        open_encoder(lab / "plain@1")
