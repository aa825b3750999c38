"""Results: JSON gives back what was stored, and refuses what it cannot read rightly."""

from __future__ import annotations

import html
import importlib
import json
import typing
from dataclasses import dataclass, fields, replace
from pathlib import Path

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lmlab.config.training import TrainConfig
from lmlab.errors import UserError
from lmlab.numerics.random_effects import Clusters
from lmlab.objectives.evaluate import position_edges
from lmlab.results import Result
from lmlab.topics.arrow.arrow import Arrow, arrow_by_position, arrow_of_time
from lmlab.topics.arrow.between_models import ModelsArrow
from lmlab.topics.arrow.comparison import Scored, compare
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.babylm.options import BabyLMStudyConfig
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.registry import KINDS
from lmlab.topics.scoring import score_report
from lmlab.topics.scoring.score import Score
from lmlab.topics.scoring.zero_shot import Estimate, mean_estimate
from lmlab.topics.tour.options import TourConfig
from lmlab.topics.towers.options import TowersStudyConfig
from lmlab.topics.tuning.options import TuneConfig
from lmlab.training.cost import Flops
from lmlab.training.doctor import Diagnosis, Targets, Timing

RESULTS = sorted(KINDS)
CONFIGS = (
    ArrowConfig(lab=Path("a"), order=("permutation:1",)),
    DecompositionStudyConfig(models=("gpt2",), embedding=EmbeddingConfig(32, layer=2)),
    EmbeddingConfig(unit="word"),
    EncodingStudyConfig(out=Path("a")),
    FinetuneConfig(("gpt2", "other"), ("glue=rte",), names=("a", "b")),
    HeadlessStudyConfig(),
    TourConfig(lab=Path("a")),
    TowersStudyConfig(),
    BabyLMStudyConfig(text="a", data=Path("b"), recipes=("gpt2", "causal")),
    TuneConfig(Path("store"), over={"micro_batch": (None, 4), "betas": ((0.9, 0.9), (0.5, 0.5))}),
    TrainConfig(Path("store"), objective="headless", micro_batch=4),
)
"""Options that results hold: values drawn at random would be refused."""


@dataclass(frozen=True)
class Inner:
    values: tuple[float, ...]
    by_name: dict[str, int]
    by_number: dict[int, float | None]


@dataclass(frozen=True)
class Toy(Result, kind="toy", views="nowhere"):
    numbers_N: np.ndarray
    inner: Inner
    parts: list[Inner | None]
    pair: tuple[str, int] = ("a", 1)


def a_score(windows: int) -> Score:
    """A score of so many windows: its arrays go together, so no field is drawn alone."""
    ones_M = np.ones(windows, dtype=np.int64)
    return Score(
        model="m", order="forward", store="s", split="test", context=4, cluster_unit="document",
        nats_Mb=np.full((windows, len(position_edges(4)) - 1), 1.5), tokens_M=4 * ones_M,
        clusters=Clusters([f"d{n}" for n in range(windows)]), repeated_nats_M=0.5 * ones_M,
        repeated_M=ones_M, conditions="all before", text_bytes=None if windows > 2 else 9,
    )  # fmt: skip


def diagnoses() -> st.SearchStrategy:
    """Costs of which none is zero, since they are divided by one another."""
    positive = st.floats(1.0, 1e12)
    flops = st.builds(Flops, positive, positive, positive)
    return st.builds(
        Diagnosis, flops=flops, flops_cross_entropy=flops, flops_headless=flops,
        targets=st.builds(Targets, positive), windows=st.integers(1, 10**9),
        timing=st.none() | st.builds(Timing, positive, st.none() | positive),
    )  # fmt: skip


def an_arrow(windows: int) -> Arrow:
    """An arrow whose figures go together."""
    forward_N = np.arange(1.0, windows + 1)
    return arrow_of_time(forward_N, forward_N + 0.1, np.arange(windows))


def result_type(kind: str) -> type[Result]:
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def values_of(hint: object) -> st.SearchStrategy:
    """Values of a field's type, of moderate size."""
    return st.from_type(typing.cast(type, hint))


def few(hint: object) -> st.SearchStrategy:
    """Tuples and dictionaries of at most two items: nested ones grow large, and slow, soon."""
    first, *rest = typing.get_args(hint)
    if typing.get_origin(hint) is dict:
        return st.dictionaries(values_of(first), values_of(rest[0]), max_size=2)
    if rest == [Ellipsis]:
        return st.lists(values_of(first), max_size=2).map(tuple)
    return st.tuples(*map(values_of, (first, *rest)))


@pytest.fixture(autouse=True, scope="module")
def _strategies():
    st.register_type_strategy(
        np.ndarray,
        arrays.arrays(
            np.float64, arrays.array_shapes(max_dims=2, max_side=3), elements=st.floats()
        ),
    )
    for of_several in (tuple, dict):
        st.register_type_strategy(of_several, few)
    for config in CONFIGS:
        st.register_type_strategy(type(config), st.just(config))
    st.register_type_strategy(Arrow, st.integers(1, 6).map(an_arrow))
    st.register_type_strategy(Score, st.integers(1, 4).map(a_score))
    shares_N = st.lists(st.floats(0, 1), min_size=1, max_size=4).map(np.array)
    st.register_type_strategy(Estimate, shares_N.map(mean_estimate))
    st.register_type_strategy(Diagnosis, diagnoses())
    st.register_type_strategy(
        Clusters, st.integers(1, 4).map(lambda n: Clusters(np.arange(n), np.arange(n) // 2))
    )
    st.register_type_strategy(float, st.floats() | st.sampled_from([0.0, 1.5]))


@pytest.mark.parametrize("kind", [*RESULTS, "toy"])
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],  # a result is large: shrinking it takes minutes
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_json_gives_back_every_result(kind, data):
    cls = Toy if kind == "toy" else result_type(kind)
    result = data.draw(values_of(cls) if cls in (Score, Diagnosis) else st.builds(cls))
    text = json.dumps(result.to_json(), allow_nan=False)
    again = cls.from_json(json.loads(text))
    assert again == result
    for field in fields(cls):
        first, second = getattr(result, field.name), getattr(again, field.name)
        assert type(first) is type(second), field.name
        if isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second)
    assert json.dumps(again.to_json()) == text


def test_what_cannot_be_read_rightly_is_refused_by_name():
    toy = Toy(np.array([1.0, np.nan]), Inner((1.0,), {"a": 1}, {2: None}), [None])
    values = toy.to_json()
    assert values["numbers_N"] == [1.0, "nan"]
    assert Toy.from_json({**values, "command": "toy", "options": {}}) == toy
    with pytest.raises(UserError, match=r"f\.json: a result of kind 'other', not 'toy'"):
        Toy.from_json({**values, "kind": "other"}, where="f.json")
    with pytest.raises(UserError, match=r"schema 0 of a 'toy' result, .* reads schema 1"):
        Toy.from_json({**values, "schema": 0})
    with pytest.raises(UserError, match="unknown key 'piar'; did you mean 'pair'"):
        Toy.from_json({**values, "piar": 1})
    with pytest.raises(UserError, match="missing key 'inner'"):
        Toy.from_json({k: v for k, v in values.items() if k != "inner"})
    with pytest.raises(UserError, match="numbers_N"):
        Toy.from_json({**values, "numbers_N": ["x"]})


@dataclass(frozen=True)
class Several(Result, kind="several", views="nowhere"):
    by_name: dict[str, Toy]


def test_a_result_within_a_result_is_refused_by_its_own_schema():
    """Only the outer one said its schema, so one of before was read as if it were of now."""
    several = Several({"a": Toy(np.zeros(2), Inner((), {}, {}), [])})
    values = several.to_json()
    assert Several.from_json(values) == several
    values["by_name"]["a"]["schema"] = 0
    with pytest.raises(UserError, match=r"by_name: a: schema 0 of a 'toy' result"):
        Several.from_json(values)


def test_results_with_other_values_are_not_equal():
    inner = Inner((1.0,), {}, {})
    assert Toy(np.zeros(2), inner, []) == Toy(np.zeros(2), inner, [])
    assert Toy(np.zeros(2), inner, []) != Toy(np.ones(2), inner, [])
    assert Toy(np.zeros(2), inner, []) != inner


def test_a_result_that_is_saved_and_printed_is_drawn_once(tmp_path, monkeypatch):
    """Every command drew its figures for the page, and again for the summary that it prints."""
    drawn = []
    draw = score_report.report
    monkeypatch.setattr(score_report, "report", lambda result: drawn.append(result) or draw(result))
    score = a_score(2)
    score.save(tmp_path)
    assert score.summary() in html.unescape((tmp_path / "report.html").read_text("utf-8"))
    assert len(score.figures()) == 2
    assert drawn == [score]


def test_bins_where_nothing_is_lost_have_no_arrow_and_no_point():
    """The page of two models put losses of all bins beside positions of those with an arrow."""
    forward, backward = a_score(2), replace(a_score(2), order="backward")
    for score in (forward, backward):
        score.nats_Mb[:, 1] = 0.0
    bins = arrow_by_position(
        forward.nats_Mb, backward.nats_Mb, forward.cluster_M, forward.position_edges
    )
    assert len(bins) == forward.nats_Mb.shape[1] - 1
    pair = [[Scored(each.model, each)] for each in (forward, backward)]
    comparison = compare(*pair, corpus="c", label="m")
    assert comparison.by_position == bins
    result = ModelsArrow(comparison, forward, backward)
    np.testing.assert_allclose(forward.nats_per_token_b, [1.5, 0.0, 1.5, 1.5])
    assert forward.nats_per_token_at([each.first for each in bins]).tolist() == [1.5, 1.5, 1.5]
    assert [len(section.figures) for section in result.report.sections] == [0, 1, 1, 0]


def test_a_line_of_a_result_has_its_values_and_no_array():
    result = a_score(3)
    line = repr(result)
    assert f"nats_per_token={result.nats_per_token:.6g}" in line
    assert f"interval={result.nats_per_token:.6g} [" in line
    assert "array" not in line
    assert "\n" not in line
    assert len(line) < 700
