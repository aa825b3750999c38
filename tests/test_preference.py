"""Sums of towers' losses by type against scores of each tower alone; the command; token classes."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models

import lmlab
from helpers import random_documents, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.config.training import ParentConfig
from lmlab.data.tokenizers import TextTokenizer, train_bpe
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.objectives.base import IGNORED
from lmlab.topics.decomposition.of_models import embed_models
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.registry import read_result
from lmlab.topics.scoring.score import score
from lmlab.topics.towers.of_model import ModelPreference
from lmlab.topics.towers.passage import passage
from lmlab.topics.towers.preference import (
    CLASSES,
    Vocabulary,
    kinds_of_token,
    preference,
    runs_agree,
    strongest_types,
)
from lmlab.topics.towers.preference_sums import (
    JOINT,
    TOWER_1,
    TOWER_2,
    PreferenceSums,
    groups_of_clusters,
    preference_sums,
    same_tower_twice,
)
from lmlab.topics.towers.token_classes import token_classes
from lmlab.training.loop import train

BEGINS = "other words"
SMALL = {"context": 16, "batch": 4, "evaluation_windows": 4, "evaluate_every": 100}


@pytest.fixture(scope="module")
def trained(text_store, tmp_path_factory):
    """Towers of each way of reading with their probes, and a mixture without."""
    folder = tmp_path_factory.mktemp("runs")
    ways = {
        "": ModelConfig(layers=1, heads=2, width=16),
        "-masked": ModelConfig("bert", layers=1, heads=2, width=16),
        "-cloze": ModelConfig("lstm", layers=1, width=16),
    }
    runs = {}
    for way, model in ways.items():
        towers = train(
            tiny_training(text_store, folder / f"t{way}", objective=f"towers{way}", model=model,
                          steps=20, **SMALL)
        )  # fmt: skip
        config = tiny_training(
            text_store, folder / f"p{way}", objective=f"probe{way}", model=ModelConfig(), steps=20,
            parent=ParentConfig(str(towers.path)), **SMALL,
        )  # fmt: skip
        runs[way] = train(config).path
    again = tiny_training(
        text_store, folder / "again", objective="probe", model=ModelConfig(), steps=20, seed=1,
        parent=ParentConfig(str(folder / "t")), **SMALL,
    )  # fmt: skip
    runs["again"] = train(again).path
    mixture = tiny_training(
        text_store, folder / "m", objective="towers", model=ways[""], steps=20, **SMALL,
        towers=TowersConfig("mixture"),
    )  # fmt: skip
    runs["mixture"] = train(mixture).path
    runs["towers"] = folder / "t"
    return runs


@pytest.mark.parametrize("way", ["", "-masked", "-cloze"])
def test_sums_are_those_of_each_tower_scored_alone(trained, text_store, way):
    sums = preference_sums(open_model(trained[way]), text_store, context=16)
    split = text_store.split("validation")
    assert sums.count_GV.sum() == split.documents_M3[:, 1].sum()  # no padding, nothing twice
    ids = np.concatenate([split.read(s, s + n) for s, n, _ in split.documents_M3])
    counts_V = np.bincount(ids, minlength=text_store.vocabulary)
    assert (sums.count_GV.sum(0) == counts_V).all()
    assert (sums.nats_KGV[:, sums.count_GV == 0] == 0).all()
    for k, name in ((TOWER_1, "@1"), (TOWER_2, "@2"), (JOINT, "")):
        alone = score(open_model(f"{trained[way]}{name}"), text_store, context=16)
        assert sums.nats_KGV[k].sum() == pytest.approx(alone.nats_M.sum(), rel=1e-5)
        group_M = groups_of_clusters(int(alone.cluster_M.max()) + 1)[alone.cluster_M]
        np.testing.assert_allclose(
            sums.nats_KGV[k].sum(1), np.bincount(group_M, alone.nats_M), rtol=1e-5
        )
        assert sums.position_nats_KGb[k].sum() == pytest.approx(alone.nats_M.sum(), rel=1e-5)
    # windows of 16 tokens: an eighth is two positions, the first of which every window has
    first = score(open_model(f"{trained[way]}@1"), text_store, context=16)
    assert sums.position_nats_KGb[TOWER_1, :, 0].sum() == pytest.approx(
        first.nats_Mb[:, :2].sum(), rel=1e-5
    )


def test_sums_by_type_and_the_better_tower_by_hand(trained, text_store):
    from lmlab.data.windows import evaluation_windows

    lms = [open_model(f"{trained['']}@{k}") for k in (1, 2)]
    windows = evaluation_windows(text_store.split("validation"), 16)
    delta_V, better = np.zeros(text_store.vocabulary), 0.0
    for row in range(len(windows)):
        nats = []
        targets = np.empty(0, dtype=np.int64)
        for lm in lms:
            batch = lm.objective.reading.batch([windows.ids(row)], device=lm.backbone.device)
            nats.append(lm.objective.score(lm.backbone, batch).numpy()[0])
            targets = batch.targets_BT.numpy()[0]
        assert (targets != IGNORED).all()
        np.add.at(delta_V, targets, nats[1] - nats[0])
        better += np.minimum(*nats).sum()
    sums = preference_sums(open_model(trained[""]), text_store, context=16)
    np.testing.assert_allclose(sums.delta_GV.sum(0), delta_V, atol=1e-3)
    assert sums.better_G.sum() == pytest.approx(better, rel=1e-5)


def test_sums_are_kept(trained, text_store, tmp_path):
    sums = preference_sums(open_model(trained[""]), text_store, context=16)
    sums.save(tmp_path / "part")
    kept = PreferenceSums.load(tmp_path / "part")
    for name in ("count_GV", "nats_KGV", "better_G", "position_count_Gb", "position_nats_KGb"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(sums, name))
    assert (kept.text, kept.documents, kept.scales) == (sums.text, sums.documents, sums.scales)
    (tmp_path / "part").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        PreferenceSums.load(tmp_path / "part")


def test_one_tower_twice_has_no_preference_with_the_same_probe(trained, text_store):
    vocabulary = Vocabulary.of(text_store)
    sums = preference_sums(open_model(trained[""]), text_store, context=16)
    twice = same_tower_twice(sums, sums)
    found = preference(twice, vocabulary)
    assert found.dominance.estimate == 0
    assert found.between_variance == 0
    assert found.adjusted_between_variance == 0
    assert found.reliability == 0
    assert found.found_types == 0
    assert found.router_gain == 0
    assert found.oracle_gain is None
    assert found.p_swapped == 1
    assert found.p_labels == 1
    assert strongest_types(twice, vocabulary) == ((), ())
    kinds = kinds_of_token(twice, vocabulary)
    assert all(group.deviation.estimate == 0 for group in kinds)
    other = preference_sums(open_model(trained["again"]), text_store, context=16)
    noise = same_tower_twice(sums, other)
    np.testing.assert_array_equal(noise.delta_GV, other.nats_KGV[TOWER_1] - sums.nats_KGV[TOWER_1])
    assert preference(noise, vocabulary).between_variance != 0


def constructed(text_store, seed, *, advantage=0.5, mean=0.2):
    """Sums in which tower 1 has an advantage at beginnings of words, tower 2 at all else."""
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary.of(text_store)
    begins_V = vocabulary.class_V == CLASSES.index(BEGINS)
    truth_V = mean + np.where(begins_V, advantage, -advantage)
    share_V = vocabulary.counts_V / vocabulary.counts_V.sum()
    count_GV = rng.multinomial(3000, share_V, size=12).astype(float)
    delta_GV = count_GV * (truth_V + 0.1 * rng.standard_normal(count_GV.shape))
    delta_GV += 0.5 * np.sqrt(count_GV) * rng.standard_normal(count_GV.shape)
    base_GV = rng.uniform(3, 7, len(truth_V)) * count_GV
    position = np.ones((12, 8))
    sums = PreferenceSums(
        count_GV=count_GV,
        nats_KGV=np.stack([base_GV - delta_GV / 2, base_GV + delta_GV / 2, base_GV]),
        better_G=(base_GV - np.abs(delta_GV) / 2).sum(1),
        position_count_Gb=position,
        position_nats_KGb=np.stack([position, position, position]),
        text="", cluster_unit="document", documents=len(count_GV),
    )  # fmt: skip
    return sums, vocabulary, truth_V, begins_V


def test_a_constructed_advantage_is_recovered(text_store):
    inside = 0
    for seed in range(10):
        sums, vocabulary, truth_V, begins_V = constructed(text_store, seed)
        found = preference(sums, vocabulary)
        n_V = sums.count_GV.sum(0)
        deviation = truth_V[begins_V] @ n_V[begins_V] / n_V[begins_V].sum()
        deviation -= truth_V @ n_V / n_V.sum()
        group = next(g for g in kinds_of_token(sums, vocabulary) if g.name == BEGINS)
        assert group.p is not None
        assert group.p < 0.05
        low, high = group.deviation.low, group.deviation.high
        assert low is not None
        assert high is not None
        inside += low < deviation < high
        spread = np.sqrt(n_V @ (truth_V - truth_V @ n_V / n_V.sum()) ** 2 / n_V.sum())
        assert found.between_variance**0.5 == pytest.approx(spread, rel=0.1)
        # seen from the other side nothing changes but the sign
        turned = dataclasses.replace(sums, nats_KGV=sums.nats_KGV[[1, 0, 2]])
        back = preference(turned, vocabulary)
        assert back.dominance.estimate == pytest.approx(-found.dominance.estimate)
        assert back.adjusted_between_variance == pytest.approx(found.adjusted_between_variance)
        assert back.router_gain == pytest.approx(found.router_gain)
        if seed > 2:
            continue
        assert found.p_swapped < 0.01
        assert found.reliability > 0.9
        assert found.found_types > 0.6 * found.tested_types
        total = truth_V @ n_V
        gain = (min(0.0, total) - np.minimum(truth_V, 0) @ n_V) / n_V.sum()
        assert found.router_gain == pytest.approx(gain, rel=0.15)
        for_1, _ = strongest_types(sums, vocabulary)
        assert {t.id for t in for_1[:5]} <= set(np.flatnonzero(begins_V))
    assert inside >= 8


def test_types_never_seen_are_neither_counted_nor_shown(text_store):
    sums, vocabulary, _, begins_V = constructed(text_store, 0)
    gone = np.flatnonzero(begins_V)[0]
    for array in (sums.count_GV, sums.nats_KGV):
        array[..., gone] = 0.0
    found = preference(sums, vocabulary)
    assert found.types == (sums.count_GV.sum(0) > 0).sum() < len(begins_V)
    assert gone not in [t.id for side in strongest_types(sums, vocabulary) for t in side]
    group = next(g for g in kinds_of_token(sums, vocabulary) if g.name == BEGINS)
    assert group.types == (begins_V & (sums.count_GV.sum(0) > 0)).sum()


def test_runs_with_the_same_preference_agree_whichever_tower_is_first(text_store):
    one, vocabulary, _, _ = constructed(text_store, 0)
    other, *_ = constructed(text_store, 1)
    turned = dataclasses.replace(other, nats_KGV=other.nats_KGV[[1, 0, 2]])
    assert runs_agree(one, other, vocabulary) > 0.6
    assert runs_agree(one, turned, vocabulary) == pytest.approx(runs_agree(one, other, vocabulary))


def test_a_mixture_needs_no_probes_and_gets_its_temperatures(trained, text_store):
    lm = open_model(trained["mixture"])
    sums = preference_sums(lm, text_store, context=16)
    assert sums.scales != (1.0, 1.0)
    plain = [score(open_model(f"{trained['mixture']}@{k}"), text_store, context=16,
                   split="test").nats_per_token for k in (1, 2)]  # fmt: skip
    # on the text they were fitted to, the temperatures can only help
    fitted = preference_sums(lm, text_store, context=16, split="test", held_out="test")
    for k in range(2):
        assert fitted.nats_KGV[k].sum() / fitted.count_GV.sum() < plain[k]
    with pytest.raises(UserError, match="Train their probes"):
        preference_sums(open_model(trained["towers"]), text_store)


def test_towers_that_are_copies_are_named(trained, text_store, tmp_path):
    """Was: a table of zeros, as if two different towers preferred nothing."""
    lm = open_model(trained[""])
    body = lm.model.model
    for pair in (body.projections, body.towers, body.probes, lm.model.heads):
        pair[-1].load_state_dict(pair[0].state_dict())
    with pytest.raises(UserError, match="They are copies of each other"):
        preference_sums(lm, text_store, context=16)
    # and copies of a tower among the models of a decomposition
    shutil.copytree(trained["towers"], tmp_path / "copy")
    names = [f"{trained['towers']}@1", f"{tmp_path / 'copy'}@1", f"{trained['towers']}@2"]
    embedded = embed_models(
        dict(zip("abc", names, strict=True)), text_store, EmbeddingConfig(length=12),
        counts={"test": 20}, lab=tmp_path,
    )  # fmt: skip
    assert embedded["test"].same_rows == (("b", "a"),)


@pytest.mark.parametrize("way", ["", "-masked", "-cloze"])
def test_a_passage_is_its_text_with_the_difference_at_each_token(trained, text_store, way):
    (made,) = passage(
        open_model(trained[way]), text_store, split="validation", context=12, windows=1
    )
    split = text_store.split("validation")
    start, length, _ = split.documents_M3[split.names.index(made.document)]
    whole = [text_store.tokenizer.token(i) for i in split.read(start, start + length)]
    at = next(i for i in range(0, len(whole), 12) if tuple(whole[i : i + 12]) == made.tokens)
    first, second = (open_model(f"{trained[way]}@{k}") for k in (1, 2))
    ids = split.read(start + at, start + at + 12)
    nats = [
        s.objective.score(
            s.backbone, s.objective.reading.batch([ids], device=s.backbone.device)
        ).numpy()[0]
        for s in (first, second)
    ]
    np.testing.assert_allclose(made.delta, nats[1] - nats[0], atol=1e-5)


def test_the_command_prints_and_keeps_what_it_found(trained, text_store, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(trained[""]), "--store", str(text_store.path), "--context", "16"]
    assert main(["prefer", *arguments, "--out", str(out)]) == 0
    result = read_result(out)
    assert isinstance(result, ModelPreference)
    sums = preference_sums(open_model(trained[""]), text_store, context=16)
    assert result.overall == preference(sums, Vocabulary.of(text_store))
    again = lmlab.prefer(trained[""], text_store, context=16)
    assert again == result
    page = (out / "report.html").read_text("utf-8")
    assert page == again.page()
    for words in ("Preference and frequency have", "A passage, token by token", "What is preferred",
                  "Measured on",
                  "lmlab study towers", "for these two towers on this text"):  # fmt: skip
        assert words in page
    assert len(result.figures()) == 1
    assert result.frame(1)["tokens"].iloc[0].startswith("class: ")
    said = capsys.readouterr().out
    assert "gain of a router by type" in said
    assert f"class: {BEGINS}" in said
    assert main(["prefer", str(trained["towers"]), "--store", str(text_store.path)]) == 2
    assert "lmlab train --objective probe" in capsys.readouterr().err


def test_too_few_documents_are_said(trained, text_store, tmp_path):
    from lmlab.data.store import EncodedDocument, write_store

    documents = [
        EncodedDocument(str(i), ids % 200, 60)
        for i, ids in enumerate(random_documents(4, 20, 30, symbols=200, seed=0))
    ]
    store = write_store(
        tmp_path / "few", text_store.tokenizer, {"train": documents, "validation": documents},
        request={},
    )  # fmt: skip
    with pytest.raises(UserError, match="has 4 clusters of text, and at least 5"):
        preference_sums(open_model(trained[""]), store)


def test_groups_are_even_and_follow_from_the_number_alone():
    for clusters in (5, 31, 32, 33, 1000):
        group_C = groups_of_clusters(clusters)
        sizes = np.bincount(group_C)
        assert len(sizes) == min(32, clusters)
        assert sizes.max() - sizes.min() <= 1


def test_classes_of_tokens():
    tokenizer = train_bpe([" the The of Walter, Walters 77.\n\n café"] * 9, 330)
    classes = token_classes(tokenizer, tokenizer.vocabulary)
    named = {tokenizer.token(i): CLASSES[c] for i, c in enumerate(classes)}
    assert named[" the"] == named[" The"] == named[" of"] == "closed class"
    assert named[" Walter"] == "other words"
    assert named["s"] == named["e"] == "pieces"
    assert named["."] == named[","] == "punctuation"
    assert named["7"] == named[" 77"] == "digits"
    assert named["\n"] == named[" "] == "space"
    assert named["\ufffd"] == "bytes"
    assert CLASSES[classes[tokenizer.bos_id]] == "bytes"


def test_classes_of_pieces_that_are_marked():
    backend = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "the": 2, "##ing": 3, "cat": 4}))
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer = TextTokenizer(backend, bos_id=0, end_of_text_id=1)
    named = [CLASSES[c] for c in token_classes(tokenizer, 5)]
    assert named == ["bytes", "bytes", "closed class", "pieces", "other words"]
