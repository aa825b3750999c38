"""benchmarks/spare.py: what it computes itself, and a whole run at the smallest size."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import lmlab
from helpers import script
from lmlab.lm.language_model import open_model
from lmlab.topics import registry
from lmlab.topics.encoding.dynamics import Captured, Dynamics, Snapshot

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "spare.py"


@cache
def _script():
    return script(SCRIPT)


@pytest.fixture(autouse=True)
def known():
    """What the script registers is known in each test, and forgotten after it."""
    registry._ADDED[_script().Spare.kind] = _script().Spare
    yield
    registry._ADDED.clear()


def _watched(steps, r2, loss, kl) -> Dynamics:
    none = Captured(None, None, None, None, None)
    return Dynamics(
        model="m", store="s", windows=1, moved=(), moved_embedding=(), frequency=none, loss=none,
        snapshots=tuple(
            Snapshot(f"{k}", k, r2_frequency=r, r2_alpha=1.0, slope_norm=1.0, mean_norm=1.0,
                     unigram_kl=d, loss=x)
            for k, r, x, d in zip(steps, r2, loss, kl, strict=True)
        ),
    )  # fmt: skip


def test_half_is_between_checkpoints_by_the_logarithm_of_the_step():
    steps = (0, 1, 3, 7, 15)
    # half of 0.8 at step 3; below 6 nats half of 1.0 midway of 7 and 15; half the fall of 3 at 3
    watched = _watched(
        steps, (0.0, 0.2, 0.4, 0.6, 0.8), (8.0, 7.0, 6.5, 5.8, 5.0), (2, 1, 0.5, 0.2, 0.2)
    )
    frequency, context, loss = _script().halves(watched, 6.0)
    assert frequency == pytest.approx(3)
    share = (0.5 - 0.2) / 0.8
    assert context == pytest.approx(8 * 2**share - 1)
    assert loss == pytest.approx(3)
    assert np.isnan(_script().halves(watched, 4.0)[1])
    # at step 1 a fifth of the way, at step 3 a half; step sqrt(8) - 1 is midway by the logarithm
    moved = replace(watched, moved=(0.0, 0.2, 0.5, 0.8, 1.0))
    assert _script().moved_at(moved, 8**0.5 - 1) == pytest.approx(0.35)


def test_the_priors_share_is_what_the_falls_are():
    arm = _script().Arm(16, False)
    seeds = [
        _watched((0, 1), (0, 0.5), (8.0, 6.0), (1.9, 0.4)),
        _watched((0, 1), (0, 0.7), (8.2, 7.2), (1.8, 0.9)),
    ]
    first, last = _script().steps_of(arm, seeds)
    assert (first.by_prior, first.step) == (0.0, 0)
    assert last.by_prior == pytest.approx((1.5 + 0.9) / (2.0 + 1.0))
    assert last.r2_frequency == pytest.approx(0.6)


def test_the_slope_is_least_squares_over_log2_width():
    rng = np.random.default_rng(0)
    by_width = {width: rng.normal(size=(3, 5)) for width in (32, 64, 256)}
    fitted_SC = np.polyfit(
        np.log2([32, 64, 256]), np.stack(list(by_width.values())).reshape(3, -1), 1
    )[0].reshape(3, 5)
    np.testing.assert_allclose(_script().slope(by_width), fitted_SC)


def test_what_changes_predictions_in_one_direction_has_rank_one():
    rng = np.random.default_rng(1)
    hidden_ND = rng.normal(size=(200, 4))
    direction_D = np.array([1.0, 2, 0, -1])
    one_VD = rng.normal(size=(7, 1)) * direction_D
    assert _script().fisher_rank(one_VD, np.zeros(7), hidden_ND) == pytest.approx(1, abs=1e-4)
    # by the definition, context by context
    embedding_VD, bias_V = rng.normal(size=(7, 4)), rng.normal(size=7)
    p_NV = torch.from_numpy(hidden_ND @ embedding_VD.T + bias_V).softmax(1).numpy()
    fisher_DD = np.mean(
        [embedding_VD.T @ (np.diag(p_V) - np.outer(p_V, p_V)) @ embedding_VD for p_V in p_NV], 0
    )
    # C^1/2 F C^1/2 has the eigenvalues of F C
    values = np.linalg.eigvals(fisher_DD @ np.cov(hidden_ND.T, bias=True)).real
    share = values / values.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    found = _script().fisher_rank(embedding_VD, bias_V, hidden_ND)
    assert found == pytest.approx(expected, rel=1e-4)
    assert 2 < found < 4


@pytest.mark.slow
def test_a_whole_run_at_the_smallest_size_goes_on_where_it_was(text_store, tmp_path, monkeypatch):
    script, lab = _script(), tmp_path / "lab"
    arguments = [
        str(text_store.path), "--lab", str(lab), "--widths", "16", "8", "--asked-width", "16",
        "--tied-widths", "16", "--tuned-tied",
        "--seeds", "2", "--tokens", "800", "--context", "48", "--batch", "4", "--short", "2",
        "--windows", "8", "--measured", "12", "--tuned-steps", "2",
    ]  # fmt: skip
    result = script.main(arguments)
    assert len(result.arms) == 2 * (2 + 1)
    assert len(result.rises) == len(result.arms) * len(script.WAYS) * len(script.SHARES)
    assert {each.arm for each in result.remaining} == {"16-untied", "16-tied"}

    # the loss, and that of the pruned children before they were trained, by another way
    def scored(model: Path) -> float:
        options = {"split": "test", "context": 48, "windows": 12}
        return lmlab.score(model, text_store, **options).nats_per_token

    runs = [lab / f"16-untied-s{seed}" for seed in range(2)]
    arm = next(a for a in result.arms if (a.arm, a.step) == ("16-untied", 4))
    assert arm.loss.estimate == pytest.approx(np.mean([scored(run) for run in runs]), abs=1e-3)
    pruned = [lab / f"16-untied-s{seed}-children" / "pruned-encoding" for seed in range(2)]
    assert "11 of 16 dimensions" in open_model(pruned[0]).head
    rise = next(
        r for r in result.rises
        if (r.arm, r.step, r.way, r.share) == ("16-untied", 4, "encoding", 0.3)
    )  # fmt: skip
    expected = np.mean([scored(p) - scored(run) for p, run in zip(pruned, runs, strict=True)])
    assert rise.nats.estimate == pytest.approx(expected, abs=2e-3)
    (before,) = [r.before for r in result.remaining if (r.arm, r.way) == ("16-untied", "encoding")]
    assert before.estimate == pytest.approx(expected, abs=1e-6)

    stored = json.loads((lab / "result" / "results.json").read_text("utf-8"))
    assert script.Spare.from_json(stored) == result
    for name in ("score", "prune", "dynamics"):
        monkeypatch.setattr(lmlab, name, lambda *_, **__: pytest.fail("it was measured already"))
    assert script.main(arguments) == result
