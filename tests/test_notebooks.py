"""The notebooks of the documentation run, in small, and hold what they showed when run in full."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

import small_sizes
from helpers import script

ROOT = Path(__file__).parent.parent
runner = script(ROOT / "docs" / "run_notebooks.py")
NAMES = sorted(path.stem for path in runner.FOLDER.glob("*.ipynb"))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(runner.FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One for all, since importing torch takes seconds; in small."""
    paths = [ROOT / "src", ROOT / "tests", os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    with runner.kernel(tmp_path_factory.mktemp("notebooks"), env=environment) as client:
        runner.prepare(client, "import small_sizes; small_sizes.shrink()")
        yield client


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name, kernel):
    notebook = read(name)
    kept = [[output.output_type for output in cell.outputs] for cell in code(notebook)]
    for cell in code(notebook):
        cell.source = small_sizes.small_python(cell.source)
    runner.execute(kernel, notebook)
    runner.tidy(notebook)
    shown = [[output.output_type for output in cell.outputs] for cell in code(notebook)]
    if not small_sizes.SMALL or name != "your-own-text":
        assert list(map(bool, shown)) == list(map(bool, kept)), "run it anew: make notebooks"
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    html = [output.get("data", {}).get("text/html", "") for output in outputs]
    assert any("<img" in each or "srcdoc" in each for each in html), "it shows no figure"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_as_it_was_run(name):
    path = runner.FOLDER / f"{name}.ipynb"
    text = path.read_text("utf-8")
    assert len(text) <= runner.LARGEST
    assert not re.search(r"/tmp/|/home/|/root/|/work/|/Users/", text), "it names a machine's path"
    notebook = read(name)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "**So what:**" in prose
    for link in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert (runner.FOLDER / link).exists(), link


def test_what_passes_is_left_out():
    cell = nbformat.v4.new_code_cell("x", execution_count=7)
    data = {"text/html": "", "text/plain": "<IPython.core.display.HTML object>"}
    cell.outputs = [
        nbformat.v4.new_output("display_data", data),
        nbformat.v4.new_output("display_data", {"image/png": "", "text/plain": "<Figure>"}),
        nbformat.v4.new_output("stream", name="stderr", text="a note"),
        nbformat.v4.new_output("stream", name="stdout", text="1"),
        nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=9),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x"), cell])
    runner.tidy(notebook)
    assert [output.output_type for output in cell.outputs] == [
        "display_data",
        "stream",
        "execute_result",
    ]
    assert cell.execution_count == cell.outputs[2].execution_count == 1


def test_the_guide_has_the_code_of_the_first_notebook():
    """docs/python.md shows as a script what the notebook shows step by step."""
    guide = (ROOT / "docs" / "python.md").read_text("utf-8")
    script = [line for line in guide.split("```python\n")[1].split("```")[0].splitlines() if line]
    lines = [line for cell in code(read("first-look")) for line in cell.source.splitlines()]
    shown = {"arrow", "encoding.figures()[0]", "frame", ""}  # what stands alone in a cell is shown
    assert [line for line in lines if line not in shown] == script[:-1]
    assert script[-1] == "print(frame)"
    assert len(script) <= 15
