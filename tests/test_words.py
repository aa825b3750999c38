"""Words: counted in texts and stores, seen by runs; budgets of them, and checkpoints by them."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from helpers import symbols_tokenizer, tiny_training, tree
from lmlab.cli import main
from lmlab.config import digest, from_command_line, from_mapping, read_toml
from lmlab.config.model import ModelConfig
from lmlab.config.training import BABYLM_WORDS, CheckpointConfig, OptimizerConfig, TrainConfig
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.store import EncodedDocument, TokenStore, write_store
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.data.words import Words, count_words
from lmlab.errors import UserError
from lmlab.run_folders.checkpoint import checkpoint_step, checkpoints
from lmlab.run_folders.words import WordMark, word_checkpoints, word_marks, words_seen
from lmlab.training import loop
from lmlab.training.loop import train
from lmlab.training.setup import resolve, resolve_run

PASSAGES = {  # by hand, with the rules of UAX 29 for what has no blanks
    "a b\n\nc": (3, 0),
    "": (0, 0),
    "naïve café\tdon't 3.14 😀": (5, 0),
    "한국어 문장 입니다": (3, 0),  # Korean has blanks
    "我喜欢 iPhone 15。 hello": (6, 3),  # a character each
    "ペンです": (3, 3),  # a run of Katakana is one word
    "「東京」は can't": (4, 3),
    "abc東京のOS": (5, 5),
    "ไป ดี": (3, 3),  # vowels above and below belong to their consonant
    "မြန်မာ": (3, 3),
}


def test_words_of_passages():
    assert {text: count_words(text) for text in PASSAGES} == {
        text: Words(*counts) for text, counts in PASSAGES.items()
    }


@hypothesis.given(st.lists(st.sampled_from(sorted(PASSAGES)), max_size=6))
def test_words_add_up_over_texts(texts):
    whole = count_words("\n".join(texts))
    assert (whole.count, whole.segmented) == tuple(
        np.sum([PASSAGES[text] for text in texts] or [(0, 0)], axis=0)
    )


def prepared(tmp_path, name="store", files=5, **settings):
    """Two sources, one of them of Chinese too; returns the store and the words of each."""
    rng = np.random.default_rng(7)
    sizes = {"english": [], "mixed": []}
    for source, has in sizes.items():
        (tmp_path / source).mkdir(exist_ok=True)
        for number in range(files):
            words = int(rng.integers(3, 40))
            text = " ".join("word" if source == "english" else "中文" for _ in range(words))
            (tmp_path / source / f"{number}.txt").write_text(f"{text} {source} {number}", "utf-8")
            has.append(words * (1 if source == "english" else 2) + 2)
    config = PrepareConfig(
        tmp_path / name, CorpusConfig(tuple(str(tmp_path / source) for source in sizes)),
        TokenizerConfig(kind="bytes"), SplitConfig(validation=0.2, test=0.2, **settings),
    )  # fmt: skip
    return prepare(config), {source: sum(has) for source, has in sizes.items()}


def known(part):
    assert part.words is not None
    return part.words


@pytest.mark.parametrize("seed", range(3))
def test_words_of_splits_and_sources_add_up(tmp_path, seed):
    store, words = prepared(tmp_path, seed=seed)
    assert sum(store.split(name).words for name in store.splits) == sum(words.values())
    for number, (source, count) in enumerate(words.items()):
        parts = [store.split(name).sources[number] for name in store.splits]
        assert {part.name for part in parts} == {source}
        assert sum(known(part).count for part in parts) == count
    segmented = sum(known(record).segmented for record in store.splits.values())
    assert segmented == words["mixed"] - 2 * 5  # all but "mixed" and the number of each file


def test_prepare_shows_words_and_how_they_were_counted(tmp_path, capsys):
    store, words = prepared(tmp_path)
    capsys.readouterr()
    texts = [str(tmp_path / source) for source in words]
    shares = ["--split.validation", "0.2", "--split.test", "0.2", "--kind", "bytes"]
    assert main(["prepare", *texts, *shares, "--out", str(store.path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    table = [line.split() for line in shown]
    assert table[0][:3] == ["split", "documents", "words"]
    assert [int(row[2]) for row in table[1:4]] == [store.split(s).words for s in store.splits]
    assert any(row[:2] == ["english", str(known(store.split("train").sources[0]).count)]
               for row in table)  # fmt: skip
    assert f"{words['mixed'] - 10:,} of scripts without blanks" in shown[-2]


def forget_words(store):
    """The store as it would have been made before words were counted."""
    file = store.path / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest.pop("manifest_sha256")
    for split in manifest["splits"].values():
        for part in (split, *split.get("sources", ())):
            part.pop("words")
    file.write_text(json.dumps({**manifest, "manifest_sha256": digest(manifest)}))
    return TokenStore(store.path)


def test_a_store_of_before_goes_on_but_knows_no_words(tmp_path):
    store, _ = prepared(tmp_path)
    before = forget_words(store)
    assert before.fingerprint == store.fingerprint
    config = tiny_training(before, tmp_path / "run")
    assert resolve_run(config, before).identity == resolve_run(config, store).identity
    train(config)
    with pytest.raises(UserError, match=r"not known.*Prepare the text again, in another folder"):
        _ = before.split("train").words
    marked: dict[str, Any] = {"checkpoints": CheckpointConfig(words=(9,))}
    for changes in ({"words": 9}, marked, {"budget": "strict-small", "steps": 1}):
        with pytest.raises(UserError, match="Prepare the text again"):
            train(tiny_training(before, tmp_path / "other", **changes))
    assert prepared(tmp_path)[0].splits == before.splits  # the same inputs: it is reused


def word_store(path, words, *, documents=6, sources=()):
    """Documents of 30 tokens, each of the source's number of words."""
    rng = np.random.default_rng(1)
    splits = {
        split: [
            EncodedDocument(
                f"{split}/{number}/{i}", rng.integers(0, 9, 30), 90, number, words=(each, 0)
            )
            for number, each in enumerate(words)
            for i in range(documents)
        ]
        for split in ("train", "validation")
    }
    return write_store(path, symbols_tokenizer(9), splits, request={}, sources=sources)


def test_a_store_with_too_many_words_is_refused(tmp_path):
    store = word_store(tmp_path / "s", [10])
    assert store.split("train").words == 60
    train(tiny_training(store, tmp_path / "run", words=60))
    with pytest.raises(UserError, match=r"has 60 words, and `words` allows 59"):
        train(tiny_training(store, tmp_path / "other", words=59))
    large = word_store(tmp_path / "large", [2_000_000])
    with pytest.raises(UserError, match=r"12,000,000 words, and `budget` strict-small allows 10,0"):
        train(tiny_training(large, tmp_path / "other", budget="strict-small", steps=1))
    assert resolve(tiny_training(large, tmp_path / "x", budget="strict", steps=1)).steps == 1


def test_a_budget_is_ten_epochs_at_most_and_has_the_checkpoints_of_its_track(tmp_path):
    store = word_store(tmp_path / "s", [10])
    config = TrainConfig(store.path, context=8, batch=4, budget="strict-small")
    assert (config.words, config.epochs, config.checkpoints.words) == (10**7, 10.0, "babylm")
    resolved = resolve(config)
    assert resolved.steps == 58  # 186 tokens are 23 windows of 8; 230 in batches of 4
    assert resolve(resolved) == resolved
    with pytest.raises(UserError, match=r"`steps` 59.*strict-small allows 58"):
        resolve(dataclasses.replace(config, epochs=None, steps=59))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 10.5}, r"`epochs` 10\.5.*10,000,000 words, read 10 times"),
        ({"words": 10**7 + 1}, r"`words` 10,000,001"),
        ({"steps": 5, "early_stopping": 2}, "`checkpoints.words` and `budget`"),
    ]
    for changes, message in refused:
        with pytest.raises(UserError, match=message):
            TrainConfig(store.path, budget="strict-small", **changes)
    assert TrainConfig(store.path).steps == 1000
    assert TrainConfig(store.path, budget="strict", steps=1000).epochs is None
    assert TrainConfig(store.path, budget="strict", words=5).words == 5


def test_words_decide_a_run_only_as_checkpoints(tmp_path):
    config = TrainConfig(tmp_path, batch=4, steps=9)

    def identity(**changes):
        changed = dataclasses.replace(config, **changes)
        resolved = changed.resolved(device="cpu", dtype="float32", threads=1)
        return digest(resolved.identity_values(store_fingerprint="f", parent=None))

    assert identity(words=5) == identity()
    marked = CheckpointConfig(words="babylm")
    assert identity(budget="strict") == identity(checkpoints=marked) != identity()
    some = [CheckpointConfig(words=words) for words in ((5, 100), (100, 5, 5))]
    assert identity(checkpoints=some[0]) == identity(checkpoints=some[1]) != identity()
    # that of runs before there were words, before blocks began at zero and short runs validated
    # seldom, and before Muon's three iterations and the default size of today
    before = {
        "model": ModelConfig(layers=4, heads=4, width=128, zero_init=False),
        "evaluate_every": 1,
        "optimizer": OptimizerConfig("adamw"),
    }
    assert identity(**before) == "e801b3fffd51cc23bc8823bb31e879ddaa4eef7fed716938bca6ee0367734af3"


def test_numbers_may_be_written_short():
    def train_options(*words):
        return from_command_line(TrainConfig, ["--store", "s", *words], program="train")

    config = train_options("--words", "10M", "--epochs", "10", "--checkpoints.words", "1M", "100k")
    assert (config.words, config.checkpoints.words) == (10**7, (10**5, 10**6))
    assert train_options("--tokens", "1.5M", "--batch", "1").steps == round(1.5e6 / 256)
    assert train_options("--checkpoints.words", "babylm").checkpoints.word_counts == BABYLM_WORDS
    for wrong in ("1.2345K", "M", "1MM", "-1M", "1e3M", "１M"):
        with pytest.raises(UserError, match="expected int"):
            train_options(f"--words={wrong}")


def test_babylm_has_its_28_checkpoints():
    names = [WordMark(words, 0).name for words in BABYLM_WORDS]
    assert names == [f"chck_{n}M" for n in (
        *range(1, 10), *range(10, 101, 10), *range(200, 1001, 100),
    )]  # fmt: skip
    assert [WordMark(n, 0).name for n in (100_000, 1_500_000, 1234)] == [
        "chck_100K", "chck_1500K", "chck_1234",
    ]  # fmt: skip


@hypothesis.given(
    words=st.integers(1, 40), batch=st.integers(1, 5), steps=st.integers(1, 30),
    marks=st.sets(st.integers(1, 300), min_size=1, max_size=5),
)  # fmt: skip
def test_marks_are_the_first_steps_at_or_past_them(word_stores, words, batch, steps, marks):
    train_split = word_stores(words).split("train")
    config = TrainConfig(
        train_split.store.path, context=8, batch=batch, steps=steps,
        checkpoints=CheckpointConfig(words=tuple(marks)),
    )  # fmt: skip
    seen = [Fraction(step * batch * 8 * 6 * words, 6 * 31) for step in range(steps + 2)]
    expected = []
    for mark in sorted(marks):
        step = next((step for step, have in enumerate(seen) if have >= mark), None)
        if step is not None:
            expected.append(WordMark(mark, min(step, steps)))
    assert word_marks(config, train_split) == expected
    assert [words_seen(config, train_split, n) for n in range(steps)] == [
        int(have) for have in seen[:steps]
    ]


@pytest.fixture(scope="module")
def word_stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    made = {}

    def store(words):
        if words not in made:
            made[words] = word_store(folder / str(words), [words])
        return made[words]

    return store


def test_words_of_sources_that_are_sampled(tmp_path):
    store = word_store(tmp_path / "s", [10, 30], sources=["few", "many"])
    split = store.split("train")
    config = TrainConfig(store.path, context=8, batch=4, steps=9, source_temperature=1e9)
    # both sources have as many tokens, and are drawn equally often
    assert words_seen(config, split, 31) == 31 * 32 * (10 + 30) // (2 * 31)
    uneven = dataclasses.replace(split.sources[0], tokens=split.sources[0].tokens * 3)
    split.sources = (uneven, split.sources[1])
    equal = words_seen(config, split, 31)
    assert equal == 31 * 32 * (Fraction(10, 3) + 30) // (2 * 31)
    in_proportion = dataclasses.replace(config, source_temperature=1.0)
    assert words_seen(in_proportion, split, 31) == 31 * 32 * (60 + 180) // (4 * 186)


@pytest.mark.parametrize("stopped_at", [None, 3, 7])
def test_checkpoints_by_words_stay_and_resuming_is_exact(tmp_path, monkeypatch, stopped_at):
    store = word_store(tmp_path / "s", [10])  # 10 words in 31 tokens: a step of 32 sees 10.3
    config = tiny_training(
        store, tmp_path / "run", steps=12,
        checkpoints=CheckpointConfig(every=2, keep=1, words=(11, 20, 60, 124, 126, 140)),
    )  # fmt: skip
    if stopped_at is not None:
        real = loop.Trainer.update

        def update(self):
            if self.step == stopped_at:
                raise KeyboardInterrupt
            return real(self)

        monkeypatch.setattr(loop.Trainer, "update", update)
        with pytest.raises(KeyboardInterrupt):
            train(config)
        monkeypatch.setattr(loop.Trainer, "update", real)
    train(config)
    kept = [checkpoint_step(path) for path in checkpoints(tmp_path / "run")]
    assert kept == [2, 6, 12]  # 20.6, 61.9 and 123.9 words: the last is as near to 124 as it gets
    assert [(c.name, c.step, c.words) for c in word_checkpoints(tmp_path / "run")] == [
        ("chck_11", 2, 20), ("chck_20", 2, 20), ("chck_60", 6, 61), ("chck_124", 12, 123),
        ("chck_126", 12, 123), ("main", 12, 123),
    ]  # fmt: skip
    stored = read_toml(tmp_path / "run" / "config.toml")
    stored.pop("lmlab")
    assert from_mapping(TrainConfig, stored, where="").checkpoints == config.checkpoints
    files = tree(tmp_path / "run" / "checkpoints")
    whole = train(dataclasses.replace(config, out=tmp_path / "whole"))
    assert files == tree(whole.path / "checkpoints")


def test_words_of_a_run_whose_store_is_another_by_now(tmp_path):
    store = word_store(tmp_path / "s", [10])
    train(tiny_training(store, tmp_path / "run", steps=1))
    assert [c.name for c in word_checkpoints(tmp_path / "run")] == ["main"]
    store.path.rename(tmp_path / "away")
    word_store(tmp_path / "s", [10], documents=7)
    with pytest.raises(UserError, match="another store"):
        word_checkpoints(tmp_path / "run")
