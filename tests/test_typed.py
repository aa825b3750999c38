"""A program that uses lmlab has its types: the package says that it has them (`py.typed`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmlab

_CONSUMER = """\
import lmlab

store = lmlab.prepare("novels", "store", vocabulary=300)
reveal_type(store.vocabulary)
reveal_type(lmlab.train(store, steps=2).path)
reveal_type(lmlab.score("gpt2", store).nats_per_token)
lmlab.score("gpt2", store, windows="many")
"""


@pytest.mark.skipif(shutil.which("pyright", path=Path(sys.executable).parent) is None,
                    reason="needs pyright")  # fmt: skip
def test_a_consumers_pyright_sees_types(tmp_path):
    """Installed, that is: in a folder of packages, whose code is not searched for types unless it
    says that it has some."""
    packages = tmp_path / "env" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "lmlab").symlink_to(Path(lmlab.__file__).parent)
    (tmp_path / "use.py").write_text(_CONSUMER)
    settings = {"include": ["use.py"], "useLibraryCodeForTypes": False,
                "venvPath": ".", "venv": "env"}  # fmt: skip
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    pyright = Path(sys.executable).parent / "pyright"
    done = subprocess.run(
        [pyright, "--outputjson"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    said = {each["range"]["start"]["line"]: each["message"] for each in found}
    assert 'is "int"' in said[3]
    assert 'is "Path"' in said[4]
    assert 'is "float"' in said[5]
    assert '"int | None"' in said[6]
    assert [each["severity"] for each in found].count("error") == 1
