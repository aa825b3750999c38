"""Windows of several sources: pure, each source's epochs whole, shares as the temperature says."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmlab
from helpers import journal, mixed_store, run_folder, tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.mixture import LONGEST_PERIOD, PERIOD, MixedWindows, slots, source_shares
from lmlab.data.windows import key, keyed_bijection
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.progress import track
from lmlab.topics.scoring.kept_scores import cached_score
from lmlab.topics.scoring.score import Score, score
from lmlab.training.loop import train
from lmlab.training.setup import resolve_run

counts = st.lists(st.integers(1, 10**9), min_size=2, max_size=40).map(np.array)
CONTEXT = 8


def windows(store, *, temperature=2.0, context=CONTEXT, batch=5, seed=0):
    split = store.split("train")
    return MixedWindows(split, context, batch=batch, seed=seed, temperature=temperature)


def source_of(mixed, indices):
    return np.searchsorted(np.cumsum(mixed.windows_C), indices, side="right")


def first(mixed, number):
    """The first `number` windows of a run."""
    steps = -(-number // mixed.batch)
    return np.concatenate([mixed.indices(step) for step in range(steps)])[:number]


# shares


@given(counts, st.floats(0.1, 1e6))
def test_shares_are_tokens_to_the_inverse_temperature(tokens, temperature):
    shares = source_shares(tokens, temperature)
    assert shares.sum() == pytest.approx(1)
    wanted = np.log(tokens / tokens[0]) / temperature
    visible = shares > 1e-300
    if shares[0] > 1e-300:
        assert np.log(shares[visible] / shares[0]) == pytest.approx(wanted[visible], abs=1e-6)
    assert (np.diff(shares[np.argsort(tokens)]) >= 0).all()


@given(counts)
def test_temperature_1_is_proportional_and_a_large_one_equal(tokens):
    assert source_shares(tokens, 1) == pytest.approx(tokens / tokens.sum())
    assert source_shares(tokens, 1e9) == pytest.approx(1 / len(tokens), rel=1e-6)


@given(counts, st.floats(0.1, 1e6))
def test_a_period_holds_each_source_by_its_share(tokens, temperature):
    shares = source_shares(tokens, temperature)
    made = slots(shares)
    period = made.sum()
    assert made.min() >= 1
    assert PERIOD <= period <= LONGEST_PERIOD
    if shares.min() * period >= 1:
        assert np.abs(made - period * shares).max() < 1
    else:  # some source is rarer than one slot of the longest period
        assert period == LONGEST_PERIOD
        assert np.abs(made - period * shares).max() <= len(tokens)


# the order of windows


@given(st.integers(0, 2**40), st.integers(1, 64), st.integers(0, 9), st.floats(0.5, 100))
def test_a_batch_is_a_pure_function_of_seed_and_step(
    store_of_three, step, batch, seed, temperature
):
    one = windows(store_of_three, batch=batch, seed=seed, temperature=temperature)
    alone = one.indices(step)
    for other in (step + 1, 0, step + PERIOD, step // 2):
        one.indices(other)
    assert np.array_equal(one.indices(step), alone)
    fresh = windows(store_of_three, batch=batch, seed=seed, temperature=temperature)
    assert np.array_equal(fresh.indices(step), alone)
    assert alone.min() >= 0
    assert alone.max() < one.count
    # the batch only cuts the same order into steps
    single = windows(store_of_three, batch=1, seed=seed, temperature=temperature)
    assert single.indices(step * batch + batch - 1)[0] == alone[-1]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e9])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_window_of_a_source_once_in_each_of_its_epochs(store_of_three, temperature, seed):
    mixed = windows(store_of_three, temperature=temperature, batch=64, seed=seed)
    drawn = first(mixed, 2 * PERIOD + 100)
    sources = source_of(mixed, drawn)
    starts = np.cumsum(mixed.windows_C) - mixed.windows_C
    for source, size in enumerate(mixed.windows_C):
        own = drawn[sources == source] - starts[source]
        assert len(own) > 2 * size
        whole = own[: len(own) // size * size].reshape(-1, size)
        assert (np.sort(whole, axis=1) == np.arange(size)).all()
        assert len(set(own[len(whole) * size :])) == len(own) % size
        assert size < 3 or not np.array_equal(whole[0], whole[1])


@pytest.mark.parametrize("temperature", [1.0, 1 / 0.7, 1 / 0.3, 1e9])
def test_shares_over_a_period(store_of_three, temperature):
    mixed = windows(store_of_three, temperature=temperature, batch=64)
    tokens = np.array([part.tokens for part in store_of_three.split("train").sources])
    shares = tokens ** (1 / temperature) / (tokens ** (1 / temperature)).sum()
    drawn = source_of(mixed, first(mixed, 3 * PERIOD))
    for period in drawn.reshape(3, PERIOD):
        assert np.bincount(period, minlength=3) / PERIOD == pytest.approx(shares, abs=1 / PERIOD)
    # and within a period, sources come mixed
    part = np.bincount(drawn[: PERIOD // 4], minlength=3) / (PERIOD // 4)
    assert part == pytest.approx(shares, abs=0.06)
    assert not np.array_equal(drawn[:PERIOD], drawn[PERIOD : 2 * PERIOD])


def test_seeds_have_their_own_order(store_of_three):
    one, other = (first(windows(store_of_three, seed=s, batch=64), 640) for s in (0, 1))
    assert not np.array_equal(one, other)
    mixed = windows(store_of_three)
    assert not np.array_equal(source_of(mixed, one), source_of(mixed, other))


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(st.lists(lengths, min_size=2, max_size=4), st.integers(1, 9))
def test_no_window_holds_two_sources(tmp_path_factory, documents, context):
    """Every id of the text says its source; between documents there is the end-of-text token."""
    store = mixed_store(
        tmp_path_factory.mktemp("mixed") / "s",
        {"train": {str(n): [[n] * k for k in source] for n, source in enumerate(documents)}},
        symbols=4,
    )
    sizes = np.array([sum(source) + len(source) for source in documents])
    if (sizes < context).any():
        with pytest.raises(UserError, match=rf"source \d has \d tokens .*window of {context}"):
            windows(store, context=context)
        return
    mixed = windows(store, context=context)
    assert mixed.windows_C.tolist() == (sizes // context).tolist()
    assert mixed.count == mixed.windows_C.sum()
    end, stream = store.tokenizer.end_of_text_id, store.split("train").read(0, sizes.sum())
    covered = np.zeros(len(stream), dtype=int)
    for index, ids in enumerate(mixed.ids(np.arange(mixed.count))):
        source = int(source_of(mixed, index))
        assert set(ids) <= {source, end}
        assert np.array_equal(ids, stream[mixed.start(index) : mixed.start(index) + context])
        covered[mixed.start(index) : mixed.start(index) + context] += 1
        assert {name.split("/")[1] for name in mixed.documents(index)} == {str(source)}
    assert covered.max() == 1
    # each source leaves less than one window, at its end
    for size, own in zip(sizes, np.split(covered, np.cumsum(sizes)[:-1]), strict=True):
        assert own.tolist() == [1] * (size // context * context) + [0] * (size % context)


@given(st.lists(st.integers(1, 2**50), min_size=1, max_size=30), st.integers(0, 2**62))
def test_a_bijection_with_a_size_and_a_key_for_each_index(sizes, seed):
    rng = np.random.default_rng(seed)
    size_B, key_B = np.array(sizes), rng.integers(0, 2**63, len(sizes))
    index_B = rng.integers(0, size_B)
    together = keyed_bijection(index_B, size_B, key_B)
    alone = [
        keyed_bijection(np.array([index]), int(size), int(each))[0]
        for index, size, each in zip(index_B, size_B, key_B, strict=True)
    ]
    assert together.tolist() == alone


def test_the_order_of_existing_runs_stays():
    """What the bijection gave before it took arrays of sizes: runs resume by it."""
    assert keyed_bijection(np.arange(8), 1000, key(3, 1)).tolist() == [
        67,
        598,
        774,
        195,
        0,
        823,
        905,
        488,
    ]
    assert keyed_bijection(np.arange(3), 2**40 + 1, key(0)).tolist() == [
        709761984884,
        175843187743,
        546898826230,
    ]


# training


def test_a_run_trains_and_says_its_shares(store_of_three, tmp_path, capsys):
    config = tiny_training(store_of_three, tmp_path / "run", source_temperature=1e9)
    train(config)
    assert len(journal(run_folder(config))) == config.steps
    assert "training windows: large 33.3% (" in capsys.readouterr().err
    record = json.loads(
        (run_folder(config) / "checkpoints" / "step-00000006" / "lmlab.json").read_text()
    )
    assert record["training"]["source_temperature"] == 1e9
    assert len(record["training"]["source_tokens"]) == 3
    without = dataclasses.replace(config, out=tmp_path / "other", source_temperature=None)
    train(without)
    record = json.loads(
        (run_folder(without) / "checkpoints" / "step-00000006" / "lmlab.json").read_text()
    )
    assert not {"source_temperature", "source_tokens"} & set(record["training"])


def test_the_borders_of_sources_decide_a_run_only_where_they_are_used(tmp_path):
    documents = [[n] * 20 for n in range(4)]
    stores = [
        mixed_store(
            tmp_path / str(border),
            {
                split: {"a": documents[:border], "b": documents[border:]}
                for split in ("train", "validation")
            },
            symbols=9,
        )
        for border in (1, 2)
    ]
    values = []
    for store in stores:
        store.fingerprint = "the same"  # else the names of documents tell these two apart
        config = tiny_training(store, tmp_path / "run", source_temperature=1.0)
        without = dataclasses.replace(config, source_temperature=None)
        values.append(tuple(resolve_run(each, store).identity for each in (config, without)))
    assert values[0][0] != values[1][0]
    assert values[0][1] == values[1][1]


def test_stores_of_one_source_have_none_to_draw(small_store, tmp_path):
    config = tiny_training(small_store, tmp_path / "run", source_temperature=1.0)
    with pytest.raises(UserError, match=r"one source.*prepare --text A B"):
        train(config)
    assert not run_folder(config).exists()


def test_a_source_without_a_window_is_named(tmp_path):
    store = mixed_store(
        tmp_path / "s",
        {
            "train": {"en": [[1] * 30], "sw": [[2] * 5], "fr": []},
            "validation": {"en": [[1] * 30], "sw": [], "fr": []},
        },
        symbols=9,
    )
    config = tiny_training(store, tmp_path / "run", source_temperature=1.0)
    with pytest.raises(
        UserError, match=r"source sw has 6 tokens .*shorter `context`, give it more"
    ):
        train(config)
    with pytest.raises(UserError, match=r"source fr has 0 tokens"):
        train(dataclasses.replace(config, out=tmp_path / "shorter", context=6))
    train(dataclasses.replace(config, out=tmp_path / "plain", source_temperature=None))


# scores by source


@pytest.fixture(scope="module")
def run_of_three(store_of_three, tmp_path_factory):
    config = tiny_training(store_of_three, tmp_path_factory.mktemp("runs") / "three")
    return train(dataclasses.replace(config, source_temperature=2.0))


def test_scores_of_sources_are_parts_of_the_whole(store_of_three, run_of_three):
    whole = score(open_model(run_of_three.checkpoint), store_of_three)
    names, parts = zip(*whole.by_source(), strict=True)
    split = store_of_three.split("validation")
    assert names == ("large", "middle", "small")
    for part, source in zip(parts, split.sources, strict=True):
        assert part.tokens == source.tokens - source.documents
        # these stores count three bytes a token
        assert part.bits_per_byte == pytest.approx(part.nats_per_token / np.log(2) / 3)
    assert sum(part.tokens for part in parts) == whole.tokens
    nats = sum(part.tokens * part.nats_per_token for part in parts)
    assert nats / whole.tokens == pytest.approx(whole.nats_per_token)
    # documents come by source: the first clusters are those of the first source
    alone = np.arange(len(whole.nats_M)) < (whole.cluster_M < split.sources[0].documents).sum()
    own = whole.nats_M[alone].sum() / whole.tokens_M[alone].sum()
    large = parts[0]
    assert large.nats_per_token == pytest.approx(own)
    assert large.interval.bounds is not None
    assert large.interval.bounds[0] < large.nats_per_token < large.interval.bounds[1]
    assert parts[2].interval.bounds is None
    assert "1 cluster of text" in parts[2].interval.note
    assert [row[0] for row in whole.tables()[0].rows] == ["all", *names]


def test_samples_know_their_sources(store_of_three, run_of_three):
    lm = open_model(run_of_three.checkpoint)
    sample = [part for _, part in score(lm, store_of_three, max_windows=3).by_source()]
    assert sum(part.tokens for part in sample) <= 3 * CONTEXT
    # a token of these stores is a letter of three bytes
    for part in sample:
        assert part.bits_per_byte == pytest.approx(part.nats_per_token / np.log(2) / 3)


def test_a_cached_score_knows_its_sources(store_of_three, run_of_three):
    with track("scoring", None, "tokens") as bar:
        made, kept = (
            cached_score(
                run_of_three,
                store_of_three,
                split="validation",
                context=CONTEXT,
                max_windows=None,
                order="forward",
                bar=bar,
            )
            for _ in range(2)
        )
    assert made == kept
    assert len(kept.by_source()) == 3


def test_a_kept_score_states_its_own_reading(store_of_three, tmp_path):
    """Was: "each token from BOS and those before it" for every run whose score was kept."""
    run = train(
        tiny_training(
            store_of_three, tmp_path / "run", objective="masked",
            model=ModelConfig(architecture="bert", layers=1, heads=2, width=16),
        )
    )  # fmt: skip
    with track("scoring", None, "tokens") as bar:
        made, kept = (
            cached_score(
                run, store_of_three, split="validation", context=CONTEXT, max_windows=2,
                order="forward", bar=bar,
            )
            for _ in range(2)
        )  # fmt: skip
    assert made == kept
    assert kept.conditions.startswith("each token once, in 7 passes")


def test_a_source_without_text_in_the_split_is_left_out(tmp_path):
    store = mixed_store(
        tmp_path / "s",
        {
            "train": {name: [[1] * 30] for name in "abcd"},
            "validation": {"a": [], "b": [[1] * 9, [2] * 9], "c": [], "d": [[3] * 20]},
        },
        symbols=9,
    )
    run = train(tiny_training(store, tmp_path / "run", source_temperature=1.0))
    parts = score(open_model(run.checkpoint), store).by_source()
    assert [(name, part.tokens) for name, part in parts] == [("b", 18), ("d", 20)]


def test_a_store_of_one_source_has_one_score(small_store, tmp_path):
    run = train(tiny_training(small_store, tmp_path / "run"))
    assert score(open_model(run.checkpoint), small_store).by_source() == []


def test_the_commands_of_the_guide(tmp_path, capsys):
    """docs/training.md, "Several languages", with less of everything."""
    for name, alphabet, count in (
        ("en", "abcdefg ", 60),
        ("fr", "éàçèù ", 30),
        ("sw", "wxyz ", 15),
    ):
        rng = np.random.default_rng(count)
        (tmp_path / "text" / name).mkdir(parents=True)
        for number in range(count):
            text = "".join(rng.choice(list(alphabet), 80))
            (tmp_path / "text" / name / f"{number}.txt").write_text(text, "utf-8")
    store, run, out = tmp_path / "three", tmp_path / "three-33", tmp_path / "score"
    folders = [str(tmp_path / "text" / name) for name in ("en", "fr", "sw")]
    vocabulary = ["--tokenizer.vocabulary", "300", "--split.validation", "0.3"]
    assert main(["prepare", "--text", *folders, "--out", str(store), *vocabulary]) == 0
    assert "tokens of validation" in capsys.readouterr().out
    model = ["--model.layers", "1", "--model.heads", "2", "--model.width", "16"]
    short = ["--steps", "3", "--batch", "2", "--context", "16", "--threads", "1", *model]
    sampled = ["--source-temperature", "3.3", "--out", str(run)]
    assert main(["train", "--store", str(store), *sampled, *short]) == 0
    assert "en " in capsys.readouterr().err
    options = ["--model", str(run), "--store", str(store), "--out", str(out)]
    assert main(["score", *options]) == 0
    printed = capsys.readouterr().out
    result = lmlab.read(out)
    assert isinstance(result, Score)
    parts = result.by_source()
    assert [name for name, _ in parts] == ["en", "fr", "sw"]
    for _, part in parts:
        assert f"{part.nats_per_token:.5f}" in printed
        assert part.bits_per_byte is not None
        assert part.bits_per_byte > 0
    assert (out / "report.html").read_text().count("<figure>") == 3
    assert "{" not in printed
