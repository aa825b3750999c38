"""The default corpus: which docstrings, in which order, without tests and repetitions."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from lmlab.data import docstrings
from lmlab.data.docstrings import module_paragraphs, read_docstrings
from lmlab.data.documents import CorpusConfig, read_corpus

SOURCE = '''\
#!/usr/bin/env python
"""Module.

Second paragraph,
two lines."""

x = """not a docstring"""


class A:
    r"""Class with a \\d."""

    def f(self):
        """Method."""
        def g():
            """Nested."""
        return """no"""


if x:
    async def h():
        \'\'\'In a branch.\'\'\'
try:
    pass
except Exception:
    def i():
        """In a handler: \\ud800 is left out."""
'''


def test_paragraphs_of_all_docstrings_in_source_order(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    assert module_paragraphs(path) == [
        "Module.",
        "Second paragraph,\ntwo lines.",
        "Class with a \\d.",
        "Method.",
        "Nested.",
        "In a branch.",
        "In a handler:  is left out.",
    ]


@pytest.mark.parametrize("text", ['"""Python 2."""\nprint "x"', '"""null\0"""', "no = 'docstring'"])
def test_what_is_no_module_gives_nothing(tmp_path, text):
    (tmp_path / "a.py").write_text(text)
    assert module_paragraphs(tmp_path / "a.py") == []


@pytest.fixture
def two_roots(tmp_path, monkeypatch):
    """A small tree instead of the standard library, nothing installed."""
    for name, text in {
        "b.py": '"""One."""',
        "a.py": '"""Two.\n\nOne.\n\nShared  words."""',
        "pkg/c.py": '"""Shared\n    words.\n\nThree."""',
        "pkg/d.py": '"""Three."""',
        "test/e.py": '"""Left out."""',
        "pkg/tests/e.py": '"""Left out."""',
        "pkg/test_f.py": '"""Left out."""',
        "pkg/f_test.py": '"""Left out."""',
        "pkg/conftest.py": '"""Left out."""',
        "site-packages/g.py": '"""Left out."""',
        "pkg/data.txt": '"""Left out."""',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(docstrings, "_installed_packages", list)
    return tmp_path


def test_order_tests_left_out_and_repetitions(two_roots):
    assert list(read_docstrings()) == [
        ("python/a.py", "Two.\n\nOne.\n\nShared  words."),
        ("python/pkg/c.py", "Three."),
    ]


def test_the_standard_library_alone(two_roots, monkeypatch):
    package = two_roots / "site-packages" / "g.py"
    monkeypatch.setattr(docstrings, "_installed_packages", lambda: [("g.py", package)])
    names = {
        source: [document.name for document in read_corpus(CorpusConfig((source,)))]
        for source in ("docstrings", "docstrings:python")
    }
    assert names["docstrings:python"] == ["python/a.py", "python/pkg/c.py"]
    assert names["docstrings"] == [*names["docstrings:python"], "g.py"]
    assert set(docstrings.docstrings_version(packages=False)) == {"python"}


def test_real_modules_are_read_by_child_processes_as_by_this_one():
    modules = [Path(sys.modules[m].__file__ or "") for m in ("ast", "argparse", "json", "typing")]
    read = list(docstrings._extract(modules))
    assert read == [module_paragraphs(path) for path in modules]
    whole = ast.get_docstring(ast.parse(modules[1].read_bytes()))
    assert whole is not None
    assert "\n\n".join(read[1]).startswith(whole[:300])


def test_packages_are_lmlabs_requirements_without_extras():
    version = docstrings.docstrings_version()
    assert {"python", "torch", "transformers", "numpy"} <= set(version)
    assert not {"pytest", "hypothesis", "ruff", "lmlab"} & set(version)
    names = [name for name, _ in docstrings._installed_packages()]
    assert len(set(names)) == len(names)
    assert any(name.startswith("torch/nn/") for name in names)
    assert not any("/tests/" in name or "/test_" in name for name in names)


@pytest.mark.slow
def test_the_whole_corpus_twice():
    first = list(read_docstrings())
    assert sum(len(text.encode()) for _, text in first) >= 8_000_000
    paragraphs = [" ".join(p.split()) for _, text in first for p in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    assert list(read_docstrings()) == first
