"""No pickle and no evaluated text: a walk through the package's syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lmlab

PACKAGE = Path(lmlab.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

MODULES = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve",
    "jsonpickle", "yaml",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    "torch.load", "torch.save", "torch.hub", "torch.jit.load", "torch.package",
    "torch.export.load", "os.system", "os.popen", "numpy.fromregex",
    "pandas.read_pickle", "ctypes.pythonapi",
}  # fmt: skip
KEYWORDS = {
    "weights_only": {False},
    "trust_remote_code": {True},
    "allow_pickle": {True},
    "use_safetensors": {False, None},
    "shell": {True},
}


def _full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, with its module."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`np.load` as numpy.load; what is no plain chain of names ends in `?`."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    return "?"


def findings(source: str) -> list[str]:
    """What a source file may not do, with its lines."""
    tree = ast.parse(source)
    names = _full_names(tree)
    found = []
    for node in ast.walk(tree):
        said: list[str] = []
        if isinstance(node, ast.Import):
            said = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            said = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Attribute | ast.Name):
            said = [_dotted(node, names)]
        for name in said:
            parts = name.split(".")
            prefixes = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
            if parts[0] in MODULES or prefixes & ATTRIBUTES:
                found.append(f"line {node.lineno}: {name}")  # type: ignore[attr-defined]
        if not isinstance(node, ast.Call):
            continue
        called = _dotted(node.func, names)
        if called.removeprefix("builtins.") in CALLS:
            found.append(f"line {node.lineno}: {called}()")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        for argument, forbidden in KEYWORDS.items():
            value = given.get(argument)
            if value is None:
                continue
            if not isinstance(value, ast.Constant) or value.value in forbidden:
                found.append(f"line {node.lineno}: {argument}={ast.unparse(value)}")
        required = {"numpy.load": "allow_pickle", "numpy.save": "allow_pickle"}.get(called)
        if called.endswith(".from_pretrained") and "trust_remote_code" not in given:
            required = None if "**" in ast.unparse(node) else "trust_remote_code"
        if required and required not in given:
            found.append(f"line {node.lineno}: {called}() without {required}=False")
    return found


@pytest.mark.promise("Nothing in the package unpickles, evaluates text or trusts foreign code")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_the_package_has_none_of_it(file):
    assert findings(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from pickle import loads", "import joblib.numpy",
        "def f():\n    import shelve", "import torch\ntorch.load(f)",
        "import torch as t\nt.load(f)",
        "from torch import load", "from torch import load as f", "import torch\nf = torch.load",
        "eval('1')", "exec(text)", "import builtins\nbuiltins.eval('1')",
        "compile(text, '', 'exec')",
        "import os\nos.system('')", "from os import system", "import os as o\no.popen('ls')",
        "import numpy as np\nnp.load(f, allow_pickle=True)", "import numpy as np\nnp.load(f)",
        "from numpy import load\nload(f)", "import numpy as np\nnp.load(f, allow_pickle=flag)",
        "read(f, weights_only=False)", "AutoModel.from_pretrained(n, trust_remote_code=True)",
        "AutoModel.from_pretrained(n)", "kind.from_pretrained(n, trust_remote_code=trust)",
        "m.from_pretrained(n, trust_remote_code=False, use_safetensors=False)",
        "import subprocess\nsubprocess.run(line, shell=True)", "import marshal",
        "__import__('pickle')",
    ],
)  # fmt: skip
def test_each_of_them_is_seen(source):
    assert len(findings(source)) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.no_grad()", "model.eval()", "import re\nre.compile('x')",
        "from safetensors.torch import load\nload(data)", "torch.compile(model)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "m.from_pretrained(n, trust_remote_code=False)",
    ],
)  # fmt: skip
def test_what_is_harmless_is_not(source):
    assert findings(source) == []
