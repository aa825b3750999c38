"""benchmarks/objectives.py: what it computes itself, and a whole table at the smallest size."""

from __future__ import annotations

import csv
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import lmlab
from helpers import script, task_folder
from lmlab.errors import UserError
from lmlab.extend import Clusters
from lmlab.topics import registry
from lmlab.topics.babylm.comparison import About, Units, compare_recipes

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "objectives.py"


@cache
def _script():
    return script(SCRIPT, "objectives_table")


@pytest.fixture(autouse=True)
def known():
    """What the script registers is known in each test, and forgotten after it."""
    kind = _script().ObjectivesTable
    registry._ADDED[kind.kind] = kind
    yield
    registry._ADDED.clear()


def _plan(**options):
    return _script().Plan(text=("t",), **options)


def _samples(name: str, values: dict[str, np.ndarray]) -> dict:
    """Samples (S, C) of each objective on one measure."""
    made = _script().Sample.of_units
    return {(key, name): [made(row_C) for row_C in v_SC] for key, v_SC in values.items()}


def test_cells_are_compared_as_the_babylm_study_compares_recipes():
    script, rng = _script(), np.random.default_rng(0)
    names = ("causal", "headless", "mixed")
    shared_C = rng.normal(60, 8, 23)
    values = {
        name: shared_C + 3 * n + rng.normal(0, 2, (3, 1)) + rng.normal(0, 2, (3, 23))
        for n, name in enumerate(names)
    }
    plan = _plan(objectives=names, data=Path("d"))
    cells = script.compared(_samples(script.ZORRO.name, values), None, plan)
    about = About("zorro", "points", "sets", percent=True, chance=None)
    units = {
        name: [Units(tuple("abc"), row_C, np.ones(23)) for row_C in v_SC]
        for name, v_SC in values.items()
    }
    (task,) = compare_recipes([(about, units)])
    found = {c.objective: c for c in cells if c.measure == script.ZORRO.name}
    for score in task.scores:
        cell = found[score.recipe]
        assert cell.value == score.value
        assert cell.by_seed == pytest.approx(score.by_seed)
        assert cell.p == score.p
        if score.difference is not None:
            assert (cell.test.low, cell.test.high) == (score.difference.low, score.difference.high)


def test_numbers_of_whole_runs_have_welchs_test_and_holms_p():
    script, rng = _script(), np.random.default_rng(1)
    names = ("causal", "headless", "mixed", "masked")
    values = {name: rng.normal(0.5 + 0.1 * n, 0.02, (3, 1)) for n, name in enumerate(names)}
    cells = script.compared(_samples(script.ENCODING.name, values), None, _plan(objectives=names))
    found = {c.objective: c for c in cells if c.measure == script.ENCODING.name}
    welch: dict[str, Any] = {
        name: stats.ttest_ind(values[name][:, 0], values["causal"][:, 0], equal_var=False)
        for name in names[1:]
    }
    ordered = sorted(welch, key=lambda name: welch[name].pvalue)
    raised = 0.0
    for place, name in enumerate(ordered):
        raised = max(raised, min(1.0, welch[name].pvalue * (3 - place)))
        assert found[name].p == pytest.approx(raised)
        low, high = welch[name].confidence_interval()
        assert (found[name].test.low, found[name].test.high) == pytest.approx((low, high))
    own = stats.t.interval(0.95, 2, values["causal"].mean(), stats.sem(values["causal"][:, 0]))
    assert (found["causal"].value.low, found["causal"].value.high) == pytest.approx(own)
    assert found["causal"].p is None


def test_the_arrow_is_that_of_all_nats_and_what_is_held_against_zero_has_a_test():
    script, rng = _script(), np.random.default_rng(2)
    nats = {name: rng.uniform(8, 12, (3, 12)) for name in ("causal", "causal, backward")}
    samples = _samples(script._NATS, nats)
    samples |= _samples(script.ROUTER.name, {"causal": rng.normal(0.1, 0.01, (3, 1))})
    plan = _plan(objectives=tuple(nats))
    cells = script.compared(samples, Clusters(np.arange(12)), plan)
    arrow, router = (
        next(c for c in cells if (c.objective, c.measure) == ("causal", measure.name))
        for measure in (script.ARROW, script.ROUTER)
    )
    f, b = (v_SM.sum() for v_SM in nats.values())
    assert arrow.value.estimate == pytest.approx(200 * (b - f) / (b + f))
    assert arrow.value.low < np.mean(arrow.by_seed) < arrow.value.high
    assert arrow.test.estimate == arrow.value.estimate
    gains = [float(s.figure) for s in samples["causal", script.ROUTER.name]]
    of_router: Any = stats.ttest_1samp(gains, 0)
    p = np.array([of_router.pvalue, stats.t.sf(
        abs(arrow.test.estimate / arrow.test.standard_error), arrow.test.degrees_of_freedom) * 2,
    ])  # fmt: skip
    expected = [min(1.0, 2 * p[k]) if p[k] == p.min() else max(p[k], 2 * p.min()) for k in (0, 1)]
    assert [router.p, arrow.p] == pytest.approx(expected)
    backward = next(
        c for c in cells if (c.objective, c.measure) == ("causal, backward", script.ARROW.name)
    )
    assert backward.empty == "stands with causal"


def test_a_plan_that_makes_no_table_is_refused():
    with pytest.raises(UserError, match="diffusion"):
        _plan(objectives=("causal", "diffusion"))
    with pytest.raises(UserError, match="two"):
        _plan(objectives=("causal",))


@pytest.mark.slow
def test_a_whole_table_at_the_smallest_size_goes_on_where_it_was(
    text_store, tmp_path, monkeypatch, capsys
):
    script, data = _script(), tmp_path / "data"
    data.mkdir()
    lab = tmp_path / "lab"
    objectives = ["causal", "causal, backward", "masked", "towers"]
    arguments = [
        str(text_store.path), "--data", str(task_folder(data)), "--lab", str(lab), "--objectives",
        *objectives, "--size", "nano", "--context", "48", "--batch", "4", "--tokens", "800",
        "--seeds", "2", "--windows", "8", "--pieces", "60", "--length", "8",
    ]  # fmt: skip
    result = script.main(arguments)
    assert result.tokens == 4 * 48 * 4
    assert "seed 1, objective 4 of 4: towers" in capsys.readouterr().out
    filled = {(c.objective, c.measure) for c in result.cells if c.value is not None}
    every = {(name, m.name) for name in objectives for m in script.MEASURES}
    assert every - filled == {
        ("masked", script.LOSS.name),
        *((name, script.ARROW.name) for name in objectives[1:]),
        *((name, script.ROUTER.name) for name in objectives[:3]),
    }
    assert all(bool(c.empty) == (c.value is None) for c in result.cells)
    # 2 losses, 1 arrow, 1 router, and 3 of each of the six others
    assert len(result.tested) == 2 + 1 + 1 + 3 * 6

    loss = result.at("causal", script.LOSS)
    scores = [
        lmlab.score(lab / "runs" / f"causal-{seed}", text_store, split="test").nats_per_token
        for seed in range(2)
    ]
    assert loss.by_seed == pytest.approx(scores)
    assert loss.value.estimate == pytest.approx(np.mean(scores))
    assert lmlab.read(lab / "table") == result

    rows = list(csv.DictReader(io.StringIO((lab / "table" / "table.csv").read_text("utf-8"))))
    assert [row["row"] for row in rows] == objectives
    assert float(rows[0][script.LOSS.name]) == pytest.approx(loss.value.estimate, rel=1e-5)
    assert rows[2][script.LOSS.name] == ""
    tests = list(csv.DictReader(io.StringIO((lab / "table" / "tests.csv").read_text("utf-8"))))
    assert len(tests) == len(result.tested)

    for name in ("score", "encoding", "prefer", "evaluate_suite", "decompose"):
        monkeypatch.setattr(lmlab, name, lambda *_, **__: pytest.fail("it was measured already"))
    assert script.main(arguments) == result
