"""The page for contributors: its analysis of sixty lines works as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lmlab

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "contributing.md").read_text("utf-8")
BLOCKS = re.findall(r"```(?:python|toml|text)\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the project with the page's analysis added to it."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", project)
    *files, kind, command, place = BLOCKS
    names = re.findall(r"`(src/lmlab/topics/repeats/\w+\.py)`:", PAGE)
    assert len(names) == len(files)
    for name, text in zip(names, files, strict=True):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text, "utf-8")
    (project / names[0]).with_name("__init__.py").touch()

    def change(name: str, old: str, new: str) -> None:
        text = (project / name).read_text("utf-8")
        assert text.count(old) == 1, f"{name}: {old}"
        (project / name).write_text(text.replace(old, new), "utf-8")

    change("src/lmlab/topics/registry.py", "KINDS = {\n", "KINDS = {\n" + kind)
    change("src/lmlab/cli/commands.py", "_ALL = (\n", "_ALL = (\n" + command)
    without = place.replace(" | repeats", "")
    change("pyproject.toml", without, place)
    return project


def run(project: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_analysis_has_sixty_lines():
    lines = [line for text in BLOCKS[:3] for line in text.splitlines() if line.strip()]
    assert len(lines) <= 60


def test_the_analysis_gets_command_table_figure_page_and_json(extended, text_store, tmp_path):
    trained = lmlab.train(
        text_store, steps=1, layers=1, heads=1, width=16, context=16, batch=2, out=tmp_path / "run"
    )
    out = tmp_path / "out"
    shown = run(
        extended, "-m", "lmlab", "repeats", trained.path, "--store", text_store.path, "--out", out
    )
    assert "nats per token" in shown
    assert "report.html" in shown
    assert "<figure>" in (out / "report.html").read_text("utf-8")
    values = json.loads((out / "results.json").read_text("utf-8"))
    mean = sum(
        share * values[kind]["estimate"]
        for kind, share in (("repeated", values["share"]), ("new", 1 - values["share"]))
    )
    assert mean == pytest.approx(lmlab.score(trained, text_store).nats_per_token)
    run(
        extended,
        "-c",
        f"import lmlab; r = lmlab.read({str(out)!r}); assert type(r).from_json(r.to_json()) == r; "
        f"assert len(r.frame()) == 2; assert len(r.figures()) == 1",
    )


def test_the_analysis_keeps_the_order_of_rooms(extended):
    run(extended, "-c", "from importlinter.cli import lint_imports_command as c; c()")


def test_files_on_the_page_exist():
    named = {n for n in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE) if "repeats" not in n}
    named = {n for n in named if "NAME" not in n}
    assert len(named) >= 10
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "src" / "lmlab" / name).exists(), name
