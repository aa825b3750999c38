"""Configuration: defaults < TOML < command line; unknown keys name the nearest known."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmlab
from lmlab.config import (
    digest,
    from_command_line,
    from_mapping,
    read_toml,
    to_command_line,
    to_mapping,
    to_toml,
)
from lmlab.config.model import ModelConfig
from lmlab.config.training import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig
from lmlab.data.splits import SplitConfig
from lmlab.data.tokenizers import TokenizerConfig
from lmlab.errors import UserError
from lmlab.studies.options import SubmitConfig
from lmlab.topics.arrow.options import ArrowConfig
from lmlab.topics.decomposition.options import DecompositionStudyConfig, EmbeddingConfig
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.finetuning.options import FinetuneConfig
from lmlab.topics.headless.options import HeadlessStudyConfig
from lmlab.topics.towers.options import TowersStudyConfig


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["cosine", "linear"] = "cosine"
    pair: tuple[float, int] = (1.0, 2)


@dataclass(frozen=True)
class Outer:
    """Something to configure."""

    out: Path
    names: tuple[str, ...] = ("a",)
    steps: int = 3
    limit: int | None = None
    fast: bool = False
    inner: Inner = field(default_factory=Inner)


def toml(tmp_path, text) -> str:
    (tmp_path / "c.toml").write_text(text)
    return str(tmp_path / "c.toml")


def resolve(*arguments) -> Outer:
    return from_command_line(Outer, [str(a) for a in arguments], program="test")


def test_defaults_then_file_then_options(tmp_path):
    assert resolve("--out", "x") == Outer(Path("x"))
    text = 'out = "file"\nsteps = 7\nnames = ["b", "c"]\n[inner]\nrate = 2\nkind = "linear"\n'
    path = toml(tmp_path, text)
    in_file = Outer(Path("file"), ("b", "c"), 7, inner=Inner(2.0, "linear"))
    assert resolve("--config", path) == in_file
    assert resolve(f"--config={path}") == in_file
    both = resolve("--steps", 9, "--config", path, "--inner.rate", 4, "--out", "y", "--fast")
    assert both == Outer(Path("y"), ("b", "c"), 9, fast=True, inner=Inner(4.0, "linear"))
    assert isinstance(both.inner.rate, float)


def test_a_required_key_may_come_from_either(tmp_path):
    path = toml(tmp_path, "steps = 7\n")
    assert resolve("--config", path, "--out", "x") == Outer(Path("x"), steps=7)
    with pytest.raises(UserError, match="needs `out`; 'test --help' says what for"):
        resolve("--config", path)
    with pytest.raises(UserError, match="missing key 'out'"):
        from_mapping(Outer, {}, where="here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('out = "x"\nstep = 3', "unknown key 'step'; did you mean 'steps'?"),
        ("stpes = 3", "unknown key 'stpes'; did you mean 'steps'?"),
        ('out = "x"\n[inner]\nrat = 3', "inner: unknown key 'rat'; did you mean 'rate'?"),
        ('out = "x"\nzzz = 3', "unknown key 'zzz'; known keys: out, names"),
        ('out = "x"\nsteps = "3"', "steps: expected int, got '3'"),
        ('out = "x"\nsteps = 3.0', "steps: expected int, got 3.0"),
        ('out = "x"\nsteps = true', "steps: expected int, got True"),
        ('out = "x"\nfast = 1', "fast: expected bool, got 1"),
        ("out = 3", "out: expected Path, got 3"),
        ('out = "x"\nnames = "abc"', "names: expected a list, got 'abc'"),
        ('out = "x"\nnames = ["a", 1]', r"names\[1\]: expected str, got 1"),
        ('out = "x"\ninner = 3', "inner: expected a table"),
        ('out = "x"\n[inner]\nkind = "cosin"', "'cosin' is not one of 'cosine', 'linear'; did"),
        ('out = "x"\n[inner]\npair = [1.0]', "pair: expected 2 values, got 1"),
        ('out = "x"\nlimit = "many"', "limit: expected int, got 'many'"),
        ("out = ", "not TOML: Invalid value"),
    ],
)
def test_a_wrong_file_names_file_key_and_remedy(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"c\.toml: .*{message}"):
        resolve("--config", toml(tmp_path, text))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.toml: no such configuration file"):
        resolve("--config", tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="is a folder"):
        resolve("--config", tmp_path)
    with pytest.raises(UserError, match="--config needs the path"):
        resolve("--config")
    (tmp_path / "c.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(UserError, match="not UTF-8 at byte 5"):
        resolve("--config", tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps", "`steps` needs a value"),
        ("--steps 2.5", "`steps`: expected int, got '2.5'"),
        ("--inner.rate much", r"`inner\.rate`: expected float, got 'much'"),
        ("--inner.pair 1", r"`inner\.pair`: expected 2 values, got 1"),
        ("--inner.kind cosin", r"`inner\.kind`: 'cosin' is not one of .* did you mean 'cosine'"),
        ("--fast=maybe", "`fast`: expected bool, got 'maybe'"),
        ("--no-fast=true", "`no-fast` takes no value"),
        ("--fast True", "'True': no option takes this word"),
    ],
)
def test_a_malformed_option_is_named(words, message):
    """The parser of before drew a box, and ended the process."""
    with pytest.raises(UserError, match=message):
        resolve("--out", "x", *words.split())


def test_switches_and_options_that_may_be_none():
    assert resolve("--out", "x", "--fast=True") == resolve("--out", "x", "--fast")
    assert resolve("--out", "x", "--fast=false") == resolve("--out", "x", "--no-fast")
    assert resolve("--out", "x", "--limit", "3").limit == 3
    assert resolve("--out", "x", "--limit", "None").limit is None
    assert resolve("--out", "x", "--inner.rate", "1e-3").inner.rate == 1e-3
    assert resolve("--out", "x", "--inner.pair", "-1", "2").inner.pair == (-1.0, 2.0)
    names = resolve("--out", "3", "--names", "3", "true").names
    assert [(type(name), name) for name in names] == [(str, "3"), (str, "true")]
    assert resolve("--out", "x", "--names").names == ()


@pytest.mark.parametrize("option", ["--stesp", "--inner.rte"])
def test_an_unknown_option_names_the_nearest(option):
    with pytest.raises(UserError, match=rf"`{option[2:]}`; did you mean `(steps|inner_rate)`"):
        resolve("--out", "x", option, "3")


EXAMPLES = [
    TrainConfig(Path("s")),
    TrainConfig(
        Path("s"),
        out=Path("o"),
        order="permutation:3",
        model=ModelConfig("gru", size="3x512", layers=2, tied=True),
        micro_batch=8,
        optimizer=OptimizerConfig("muon", betas=(0.8, 0.99)),
        schedule=ScheduleConfig("wsd", decay=0.5),
        checkpoints=CheckpointConfig(every=7, logarithmic=True, keep=2),
        evaluate_every=3,
        threads=2,
    ),
    PrepareConfig(
        Path("s"),
        CorpusConfig(("a", "hf:b"), separator="\n\n", skip_empty=True, max_documents=3),
        TokenizerConfig(kind="pretrained", name="gpt2"),
        SplitConfig(0.1, 0.0, 3),
    ),
    ArrowConfig(size=("nano", "1x256"), architecture=("gpt2", "gru"), out=Path("o")),
]


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda c: type(c).__name__)
def test_stored_configurations_come_back(tmp_path, config):
    plain = to_mapping(config)
    assert from_mapping(type(config), plain, where="here") == config
    (tmp_path / "c.toml").write_text(to_toml(plain), "utf-8")
    assert read_toml(tmp_path / "c.toml") == plain
    read = from_command_line(type(config), ["--config", str(tmp_path / "c.toml")], program="test")
    assert read == config


STUDIES = [
    *EXAMPLES,
    ArrowConfig(("a b", "linear:6:4:1"), seeds=3, compile=True, windows=5),
    HeadlessStudyConfig(
        model=ModelConfig("llama", "nano"), equal_time=False, cost_vocabularies=(), windows=3
    ),
    TowersStudyConfig(text=("shuffled:a'b",), split=False, cloze=False, learning_rate=3e-5),
    DecompositionStudyConfig(models=("x", "y"), embedding=EmbeddingConfig(length=8), lengths=()),
    EncodingStudyConfig(factors=(3.0,), dynamics=False),
    FinetuneConfig(("m",), ("glue=rte",), ("-m",), epochs=5.0, freeze_body=True, limit=4),
]


@pytest.mark.parametrize("config", STUDIES, ids=lambda c: type(c).__name__)
def test_the_command_line_of_a_configuration_makes_it_again(config):
    options = to_command_line(type(config), to_mapping(config))
    assert from_command_line(type(config), options, program="test") == config


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(UserError, match=r"`inner\.rate` .*: give a finite number"):
        resolve("--out", "x", f"--inner.rate={value}")


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(UserError, match=r"`out` .*: not UTF-8"):
        resolve("--out", "caf\udce9.jsonl")


@given(
    st.builds(
        Outer,
        out=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).map(Path),
        names=st.lists(st.text()).map(tuple),
        steps=st.integers(-(2**60), 2**60),
        limit=st.none() | st.integers(0, 9),
        fast=st.booleans(),
        inner=st.builds(Inner, rate=st.floats(allow_nan=False, allow_infinity=False)),
    )
)
def test_any_configuration_comes_back(config):
    assert from_mapping(Outer, to_mapping(config), where="here") == config


def test_a_whole_number_for_any_number_makes_the_same_digest():
    """In Python as at the command line: the folder of a study and its page are the same."""
    whole, typed = (
        FinetuneConfig(models=("a",), tasks=("glue=rte",), epochs=epochs) for epochs in (3, 3.0)
    )
    assert digest(to_mapping(whole)) == digest(to_mapping(typed))
    several = HeadlessStudyConfig(learning_rates=(1, 2))
    assert to_mapping(several)["learning_rates"] == [1.0, 2.0]
    assert repr(several.learning_rates) == "(1.0, 2.0)"


def test_digests_are_of_the_values():
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert digest([]) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


# what decides a run


def identity(config, **changes):
    changed = dataclasses.replace(config, **changes).resolved(
        device="cpu", dtype="float32", threads=changes.get("threads", 1)
    )
    return changed.identity_values(store_fingerprint="f", parent=None)


@pytest.mark.parametrize(
    "changes",
    [
        {"store": Path("elsewhere")},
        {"out": Path("elsewhere")},
        {"threads": 5},
        {"strict": True},
        {"micro_batch": 32},  # what None means for this batch
        {"evaluate_every": 50},  # what None means for these steps
    ],
)
def test_what_does_not_decide_a_run(changes):
    config = TrainConfig(Path("s"), batch=32, steps=1000)
    assert identity(config, **changes) == identity(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"order": "backward"},
        {"steps": 999},
        {"micro_batch": 16},
        {"context": 128},
        {"model": ModelConfig(dropout=0.1)},
        {"optimizer": OptimizerConfig(weight_decay=0.2)},
        {"schedule": ScheduleConfig(final=0.0)},
        {"evaluate_every": 20},
        {"checkpoints": CheckpointConfig(every=5)},
        {"compile": True},
        {"source_temperature": 1.0},
    ],
)
def test_what_decides_a_run(changes):
    config = TrainConfig(Path("s"), batch=32)
    assert identity(config, **changes) != identity(config)
    other = config.resolved(device="cpu", dtype="float32", threads=1)
    assert other.identity_values(store_fingerprint="g", parent=None) != identity(config)


def test_sampling_by_source_decides_a_run_only_where_it_is_asked_for():
    config = TrainConfig(Path("s"))
    assert "source_temperature" not in identity(config)
    assert identity(config, source_temperature=1.0)["source_temperature"] == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"context": 0},
        {"batch": -1},
        {"steps": 0},
        {"threads": 0},
        {"evaluate_every": 0},
        {"evaluation_windows": 0},
        {"seed": -1},
        {"batch": 6, "micro_batch": 4},
        {"micro_batch": 0},
        {"source_temperature": 0.0},
        {"source_temperature": float("inf")},
    ],
)
def test_settings_that_cannot_train(changes):
    with pytest.raises(UserError, match="|".join(changes)):
        TrainConfig(Path("s"), **changes)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (OptimizerConfig, {"learning_rate": 0}),
        (OptimizerConfig, {"learning_rate": float("nan")}),
        (OptimizerConfig, {"learning_rate": float("inf")}),
        (OptimizerConfig, {"betas": (0.9, 1.0)}),
        (OptimizerConfig, {"weight_decay": -0.1}),
        (OptimizerConfig, {"weight_decay": float("nan")}),
        (ScheduleConfig, {"warmup": 1.0}),
        (ScheduleConfig, {"decay": 0.0}),
        (ScheduleConfig, {"final": 1.5}),
        (CheckpointConfig, {"every": 0}),
        (CheckpointConfig, {"keep": 0}),
    ],
)
def test_settings_outside_their_range(kind, changes):
    with pytest.raises(UserError):
        kind(**changes)


def test_checkpoint_schedules():
    def due(last, **settings):
        config = CheckpointConfig(**settings)
        return [step for step in range(last + 1) if config.due(step, last)]

    assert due(10, every=4) == [4, 8, 10]
    assert due(8, every=4) == [4, 8]
    assert due(3, every=500) == [3]
    assert due(37, every=10, logarithmic=True) == [0, 1, 2, 4, 8, 10, 16, 20, 30, 32, 37]
    dense = due(128, every=500, logarithmic=True, per_doubling=4)
    assert dense[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert dense[-9:] == [32, 38, 45, 54, 64, 76, 91, 108, 128]
    with pytest.raises(UserError, match="logarithmic"):
        CheckpointConfig(per_doubling=4)
    # what is not used decides nothing: runs of before keep their identity
    config = TrainConfig(Path("s"), checkpoints=CheckpointConfig(logarithmic=True))
    assert "per_doubling" not in identity(config)["checkpoints"]


def configurations():
    """Every configuration with a number, whichever command it is of."""
    names = [
        m.name
        for m in pkgutil.walk_packages(lmlab.__path__, "lmlab.")
        if m.name.startswith("lmlab.config.") or m.name.endswith(".options")
    ]
    names += [f"lmlab.data.{name}" for name in ("documents", "prepare", "splits", "tokenizers")]
    for name in names:
        for kind in vars(importlib.import_module(name)).values():
            if not dataclasses.is_dataclass(kind) or kind.__module__ != name:
                continue
            # a file of its own, whose keys have no dashes
            assert isinstance(kind, type)
            if kind.__name__.endswith("Config") and kind is not SubmitConfig:
                for each in dataclasses.fields(kind):
                    hint = str(typing.get_type_hints(kind)[each.name])
                    if any(number in hint for number in ("int", "float")):
                        yield pytest.param(kind, each, id=f"{kind.__name__}.{each.name}")


@pytest.mark.parametrize(("kind", "each"), [*configurations()])
def test_a_number_below_its_bound_is_refused_by_its_configuration(kind, each):
    """`--batch -2` read no window and scored 0 nats: so no option takes what means nothing."""
    hints = typing.get_type_hints(kind)
    needed = {
        f.name: ("a", "b") if "tuple" in str(hints[f.name]) else "a"
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }

    def made(value):
        return kind(
            **{**needed, each.name: (value,) if "tuple" in str(hints[each.name]) else value}
        )

    name = each.name
    real = "float" in str(hints[each.name])
    for wrong in (-2, *([float("nan"), float("inf"), -1e-9] if real else [])):
        with pytest.raises(UserError, match=rf"`([a-z]+\.)?{name}` {wrong}"):
            made(wrong)
    if not real and each.metadata.get("least", 1) > 0:
        with pytest.raises(UserError, match=rf"`([a-z]+\.)?{name}` 0 must be at least [12]"):
            made(0)


def test_seeds_and_what_may_be_none_take_zero():
    assert TrainConfig(store=Path("s"), seed=0).seed == 0
    assert EmbeddingConfig(layer=0).layer == 0
    with pytest.raises(UserError, match=r"`seed` -1 must be at least 0"):
        TrainConfig(store=Path("s"), seed=-1)
    with pytest.raises(UserError, match=r"`optimizer.learning_rate` -1.0 must be at least 0"):
        from_mapping(
            TrainConfig, {"store": "s", "optimizer": {"learning_rate": -1.0}}, where="a.toml"
        )
