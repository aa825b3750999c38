"""Control corpora: what is kept of a text, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import id_store, tree
from lmlab.data.controls import CONTROLS, Drawn, control_store, shuffled
from lmlab.data.documents import CorpusConfig, read_corpus
from lmlab.studies.corpora import corpus_labels, open_corpus


def text_of(store, name="train"):
    split = store.split(name)
    return [split.read(int(s), int(s + n)) for s, n, _ in split.documents_M3]


@pytest.fixture(scope="module")
def made(text_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    return {kind: control_store(text_store, kind, folder / kind) for kind in CONTROLS}


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_control_has_the_shape_of_its_text(made, text_store, kind):
    store = made[kind]
    assert store.tokenizer.fingerprint == text_store.tokenizer.fingerprint
    for name in ("train", "validation", "test"):
        ours, theirs = text_of(store, name), text_of(text_store, name)
        assert [len(ids) for ids in ours] == [len(ids) for ids in theirs]
        assert any(not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    again = control_store(text_store, kind, store.path.with_name(f"{kind}-again"))
    assert tree(again.path) == tree(store.path)
    assert control_store(text_store, kind, store.path).fingerprint == store.fingerprint


def test_shuffled_sentences_keep_their_tokens(made, text_store):
    tokenizer = text_store.tokenizer
    ends = {i for i in range(text_store.vocabulary) if tokenizer.token(i).endswith((".", "\n"))}
    for ids, original in zip(text_of(made["shuffled"]), text_of(text_store), strict=True):
        sentences = [[], []]
        for into, tokens in zip(sentences, (ids, original), strict=True):
            into.append([])
            for token in tokens.tolist():
                into[-1].append(token)
                if token in ends:
                    into.append([])
        ours, theirs = sentences
        assert len(ours) > 1
        assert [sorted(s) for s in ours] == [sorted(s) for s in theirs]
        assert [s[-1:] for s in ours[:-1]] == [s[-1:] for s in theirs[:-1]]
    split = made["shuffled"].split("train")
    assert split.text_bytes == text_store.split("train").text_bytes


def test_shuffling_gives_every_order():
    ends_V = np.array([False, False, False, True])
    ids = np.array([0, 1, 2, 3, 2, 1])
    seen = {tuple(shuffled(ids, ends_V, np.random.default_rng(s))) for s in range(200)}
    assert len(seen) == 12  # 3! of the first sentence, 2! of the one that does not end
    assert all(made[3] == 3 for made in seen)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """After 0 comes 1 or 2, after 1 and 2 comes 0; 3 ends a document, and nothing follows it."""
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(20):
        ids = np.zeros(101, dtype=int)
        ids[1::2] = rng.choice([1, 2], 50, p=[0.8, 0.2])
        ids[-1] = 3
        documents.append(ids)
    folder = tmp_path_factory.mktemp("chain")
    return id_store(folder / "s", {"train": documents, "validation": documents[:1]}, symbols=5)


def test_drawn_text_has_the_statistics_it_is_drawn_from(chain):
    split = chain.split("train")
    rng = np.random.default_rng(1)
    alone = Drawn(split, chain, bigrams=False).sample(20000, rng)
    share_V = np.bincount(alone, minlength=5) / 20000
    true_V = np.bincount(np.concatenate(text_of(chain)), minlength=5)[:5] / (20 * 101)
    np.testing.assert_allclose(share_V, true_V, atol=0.015)
    assert share_V[4] == 0
    after_0 = alone[1:][alone[:-1] == 0]
    assert np.mean(after_0 == 0) == pytest.approx(true_V[0], abs=0.02)  # no order at all
    pairs = Drawn(split, chain, bigrams=True).sample(20000, rng)
    after_0 = pairs[1:][pairs[:-1] == 0]
    assert set(after_0) == {1, 2}  # the last pair of a document is 1 3 or 2 3
    assert np.mean(after_0 == 1) == pytest.approx(0.8, abs=0.02)
    # documents end in 3: nothing follows it, so the next is drawn by itself and not across the end
    after_3 = pairs[1:][pairs[:-1] == 3]
    assert len(set(after_3.tolist())) > 1


def test_a_study_opens_controls_by_name(text_folder, tmp_path):
    names = [f"shuffled:{text_folder}", f"bigrams:{text_folder}"]
    labels = corpus_labels(names)
    assert [label.rpartition(", ")[2] for label in labels] == ["shuffled", "bigrams"]
    opened = [
        open_corpus(name, label=label, lab=tmp_path, tokenizer="bpe", vocabulary=300, tokens=1)
        for name, label in zip(names, labels, strict=True)
    ]
    base = open_corpus(
        str(text_folder), label="base", lab=tmp_path, tokenizer="bpe", vocabulary=300, tokens=1
    ).store
    assert all(c.store.fingerprint != base.fingerprint for c in opened)
    assert all(c.store.tokenizer.fingerprint == base.tokenizer.fingerprint for c in opened)
    as_it_is = open_corpus(
        str(base.path), label="x", lab=tmp_path, tokenizer="bpe", vocabulary=1, tokens=1
    )
    assert as_it_is.store.path == base.path


def test_code_is_the_standard_library():
    made = {d.name: d.text for d in read_corpus(CorpusConfig(text=("code",), max_documents=200))}
    assert len(made) == 200
    assert "def literal_eval(" in made["ast.py"]
    assert not any("test/" in name or "site-packages" in name for name in made)
