"""The front door: every public function has an example that runs, and importing costs nothing."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
import types

import pytest

import lmlab
from helpers import sentences
from lmlab import face, functional
from lmlab.config import from_keywords
from lmlab.config.training import TrainConfig
from lmlab.data.prepare import PrepareConfig
from lmlab.errors import UserError
from lmlab.progress import track


@pytest.fixture(scope="module")
def trained_folder(text_store, tmp_path_factory):
    """A run's model, exported as transformers has it."""
    out = tmp_path_factory.mktemp("face")
    run = lmlab.train(
        text_store, steps=1, layers=1, heads=1, width=16, context=16, batch=2, out=out / "run"
    )
    return lmlab.export(run, out / "folder")


def documented(module: types.ModuleType) -> list[str]:
    """Functions in the order of the file."""
    names = [n for n, f in inspect.getmembers(module, inspect.isfunction) if n in lmlab.__all__]
    return sorted(names, key=lambda name: getattr(module, name).__code__.co_firstlineno)


def test_every_example_runs(tmp_path, monkeypatch):
    """One after another, as one would read them: what one makes, the next ones use."""
    folder = tmp_path / "novels"
    folder.mkdir()
    for number, text in enumerate(sentences(60, seed=1)):
        (folder / f"{number}.txt").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"lmlab": lmlab}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    count = 0
    for name in documented(face):
        text = inspect.getdoc(getattr(lmlab, name)) or ""
        test = parser.get_doctest(text, names, name, None, None)
        report: list[str] = []
        runner.run(test, out=report.append, clear_globs=False)
        assert not report, "".join(report)
        names |= test.globs
        count += len(test.examples)
        assert test.examples, name
    assert count >= 30
    assert doctest.testmod(functional).failed == 0


@pytest.mark.parametrize("name", lmlab.__all__)
def test_what_is_public_is_there_and_explained(name):
    public = getattr(lmlab, name)
    assert inspect.getdoc(public)
    assert name in dir(lmlab)
    if inspect.isfunction(public):
        assert "return" in public.__annotations__


def test_functional_is_complete():
    for name in functional.__all__:
        assert inspect.getdoc(getattr(functional, name)), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = lmlab.trian


def test_importing_loads_neither_torch_nor_numpy():
    code = "import lmlab, sys; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_keywords_fill_sections_where_that_is_clear():
    config = from_keywords(
        PrepareConfig, {"out": "s", "vocabulary": 300, "test_documents": 2, "split_seed": 5},
        where="prepare",
    )  # fmt: skip
    assert config.tokenizer.vocabulary == 300
    assert (config.split.test_documents, config.split.seed) == (2, 5)
    training = from_keywords(
        TrainConfig, {"store": "s", "seed": 3, "learning_rate": 0.1, "layers": 2}, where="train"
    )
    assert (training.seed, training.optimizer.learning_rate, training.model.layers) == (3, 0.1, 2)
    with pytest.raises(UserError, match="train: unknown option `learnin_rate`; did you mean"):
        from_keywords(TrainConfig, {"store": "s", "learnin_rate": 1.0}, where="train")
    with pytest.raises(UserError, match="train: steps: expected int"):
        from_keywords(TrainConfig, {"store": "s", "steps": "many"}, where="train")
    for number in (float("nan"), "inf"):
        with pytest.raises(UserError, match=r"`optimizer.learning_rate` .* must be finite"):
            from_keywords(TrainConfig, {"store": "s", "learning_rate": number}, where="train")
    with pytest.raises(UserError, match=r"could be .* or .*; write which"):
        from_keywords(TrainConfig, {"store": "s", "name": "x", "path": "y"}, where="train")


def test_what_is_no_store_and_what_is_no_result_are_refused_in_words(trained_folder, tmp_path):
    for text in ("a text", "long " * 1000, ["a text", "another"]):
        with pytest.raises(UserError, match=r"no folder of a token store: lmlab\.prepare\(TEXT, O"):
            lmlab.score(trained_folder, text)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"is a training run, no result: lmlab\.Run\(PATH\) opens"):
        lmlab.read(trained_folder.parent / "run")
    with pytest.raises(UserError, match=r"results\.json is not there: a command, a study or"):
        lmlab.read(tmp_path)
    with pytest.raises(UserError, match="nowhere is not there"):
        lmlab.read(tmp_path / "nowhere")


def test_a_notebook_gets_a_bar_of_its_own(monkeypatch):
    """With a kernel, progress is shown below the cell and drawn anew in place."""
    drawn: list[str] = []
    handle = types.SimpleNamespace(update=drawn.append)
    ipython = types.ModuleType("IPython")
    display = types.ModuleType("IPython.display")
    vars(ipython)["get_ipython"] = lambda: types.SimpleNamespace(kernel=object())
    vars(display).update(HTML=str, display=lambda html, display_id: drawn.append(html) or handle)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with track("a <b>", 4, "tokens") as bar:
        bar.advance(2)
    assert drawn[1].startswith('<progress value="2" max="4"></progress> a &lt;b&gt;: 2 of 4 tokens')
    assert drawn[-1] == ""  # it took less than a second


def test_a_model_object_of_transformers_is_read_as_its_folder_is(trained_folder, text_store):
    """With its tokenizer; weights in other types, or no tokenizer, are refused."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(trained_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained_folder)
    lm = lmlab.load(model, tokenizer)
    folder = lmlab.load(trained_folder)
    assert lm.objective.record() == folder.objective.record()
    given = "a b c d"
    assert lm.tokenizer.encode(given).tolist() == folder.tokenizer.encode(given).tolist()
    with pytest.raises(UserError, match="give its tokenizer too"):
        lmlab.load(model)
    with pytest.raises(UserError, match="brings its own tokenizer"):
        lmlab.load(trained_folder, tokenizer)
    with pytest.raises(UserError, match=r"masked"):
        lmlab.load(model, tokenizer, objective="masked")
    with pytest.raises(UserError, match=r"bfloat16.*model\.float\(\)"):
        lmlab.load(model.bfloat16(), tokenizer)
