"""benchmarks/trained_on.py: its sums by hand, and a whole run at the smallest size."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import lmlab
from helpers import script
from lmlab.lm.language_model import open_model

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "trained_on.py"


@cache
def _script():
    return script(SCRIPT)


def _sums(nats_D, tokens_D):
    return _script().Sums(tuple(nats_D), tuple(tokens_D))


def test_a_rise_is_over_the_unpruned_model_of_the_same_time_and_text():
    rng = np.random.default_rng(0)
    tokens_D = rng.integers(50, 150, 6).astype(float)
    unpruned_D = 4 * tokens_D
    before = [
        _sums(unpruned_D + extra_D, tokens_D) for extra_D in np.outer([0, 0.2, 0.8], tokens_D)
    ]
    noise_D = rng.normal(size=6)
    noise_D -= noise_D.mean()
    after = [
        _sums(unpruned_D - 10, tokens_D),
        _sums(unpruned_D - 10 + 0.05 * tokens_D, tokens_D),
        _sums(unpruned_D - 10 + 0.2 * tokens_D + noise_D, tokens_D),
    ]
    fisher, encoding = _script().rises(before, after)
    assert (fisher.way, encoding.way) == ("fisher", "encoding")
    assert fisher.before.estimate == pytest.approx(0.2)
    assert fisher.left.estimate == pytest.approx(0.25)
    assert encoding.after.estimate == pytest.approx(0.2)
    assert encoding.left.estimate == pytest.approx(0.25)
    low, high = encoding.left.bounds
    assert low < 0.25 < high
    assert encoding.after.documents == 6
    assert encoding.p < 0.05
    assert _script().gained(before, after).estimate == pytest.approx(60 / tokens_D.sum())


def test_a_share_of_rises_that_are_not_all_above_zero_has_no_interval():
    share = _script().share_of(np.array([1.0, 1.0]), np.array([5.0, -1.0]))
    assert share.estimate == pytest.approx(0.5)
    assert share.bounds is None


@pytest.mark.slow
def test_a_whole_run_at_the_smallest_size_goes_on_where_it_was(text_store, tmp_path, monkeypatch):
    run = lmlab.train(
        text_store, architecture="qwen3", layers=1, heads=2, width=16, context=48, batch=4,
        steps=8, threads=1, out=tmp_path / "parent",
    )  # fmt: skip
    arguments = [
        str(run.path), str(text_store.path), "--lab", str(tmp_path / "lab"), "--steps", "2",
        "--context", "48", "--windows", "8", "--measured", "12",
    ]  # fmt: skip
    found = _script().main(arguments)
    lab = tmp_path / "lab"
    assert "11 of 16 dimensions" in open_model(lab / "pruned-fisher").head

    # by another way, the rise of one of them, before and after
    def scored(model: Path) -> float:
        return lmlab.score(model, text_store, split="test", context=48, windows=12).nats_per_token

    before = scored(lab / "pruned-encoding") - scored(run.path)
    after = scored(lab / "encoding-2") - scored(lab / "unpruned-2")
    assert found[1].before.estimate == pytest.approx(before, abs=1e-6)
    assert found[1].after.estimate == pytest.approx(after, abs=1e-6)
    steps = [lmlab.Run(lab / f"{name}-2").config for name in ("unpruned", "fisher", "encoding")]
    assert len({(c.steps, c.seed, c.batch, c.context) for c in steps}) == 1

    monkeypatch.setattr(lmlab, "score", lambda *_, **__: pytest.fail("it was scored already"))
    assert _script().main(arguments) == found
