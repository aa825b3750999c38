"""Runs the notebooks of the documentation anew, and keeps what they show: `make notebooks`.

    python docs/run_notebooks.py [NAME ...]

They share one folder, so that a model which two of them train is trained once. What is kept of a
cell is what it printed, drew and returned; bars of progress and notes on stderr are left out. A
notebook that grows beyond `LARGEST` bytes is refused.

tests/test_notebooks.py runs them the same way, in small.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
LARGEST = 300_000
_BAR = "<IPython.core.display.HTML object>"


@contextmanager
def kernel(folder: Path, **settings: Any) -> Iterator[NotebookClient]:
    """A Python that runs one notebook after another, in `folder`: torch is imported once.
    `settings` are those of the process, such as `env`."""
    client = NotebookClient(
        nbformat.v4.new_notebook(),
        kernel_name="python3",
        timeout=3600,
        resources={"metadata": {"path": str(folder)}},
    )
    client.create_kernel_manager()
    client.start_new_kernel(**settings)
    client.start_new_kernel_client()
    try:
        yield client
    finally:
        client._cleanup_kernel()


def prepare(client: NotebookClient, code: str) -> None:
    """Runs what is no part of a notebook."""
    cell = nbformat.v4.new_code_cell(code)
    client.nb = nbformat.v4.new_notebook(cells=[cell])
    client.execute_cell(cell, 0)


def execute(client: NotebookClient, notebook: nbformat.NotebookNode) -> None:
    """Runs all cells in order, in a fresh set of names."""
    prepare(client, "%reset -f")
    client.nb = notebook
    for number, cell in enumerate(notebook.cells):
        client.execute_cell(cell, number)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leaves out bars of progress, notes and what only tells one run from another."""
    count = 0
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if not _passing(output)]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count


def _passing(output: nbformat.NotebookNode) -> bool:
    bar = output.output_type == "display_data" and output.data.get("text/plain") == _BAR
    return bar or output.get("name") == "stderr"


def main(names: list[str]) -> None:
    paths = [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb"))
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "2")
    with tempfile.TemporaryDirectory() as folder, kernel(Path(folder)) as client:
        for path in paths:
            print(path.name, flush=True)
            notebook = nbformat.read(path, as_version=4)
            execute(client, notebook)
            tidy(notebook)
            text = nbformat.writes(notebook) + "\n"
            if len(text) > LARGEST:
                sys.exit(f"{path.name}: {len(text):,} bytes, and {LARGEST:,} are allowed")
            path.write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
