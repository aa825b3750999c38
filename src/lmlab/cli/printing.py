"""What all commands share: devices, tables, results on disk.

Torch is imported inside, so that `lmlab --help` answers at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmlab.config import digest, to_mapping
from lmlab.pages.text import cell
from lmlab.processes import is_first, join, world
from lmlab.results import PAGE, RESULTS

if TYPE_CHECKING:
    from lmlab.pages.page import Table
    from lmlab.results import Result


def end_of_study(result: Result, folder: Path) -> None:
    """Prints the first table of a study's result and where its report is."""
    table = result.tables()[0]
    print_table(table.columns, shown_rows(table))
    print(f"report: {(folder / PAGE).resolve()}")


def with_dashes(message: str) -> str:
    """What the library calls `batch_tokens` is typed as --batch-tokens; a name of Python stays."""
    return re.sub(
        r"`(?!lmlab\.)([a-z][a-z0-9_.]*)`", lambda m: f"--{m[1].replace('_', '-')}", message
    )


def use_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device that `wanted` means here; from now on this process keeps freed memory, and works
    with the others, if `torchrun` started several."""
    from lmlab.training.hardware import available_cores, keep_freed_memory, resolve_device

    keep_freed_memory()
    device = resolve_device(wanted)
    if world() > 1:
        import torch

        join(device)
        torch.set_num_threads(available_cores())
    return device


def shown_rows(table: Table) -> list[list[str]]:
    """The rows of a table in texts, as the page has them."""
    return [[cell(value, where=table.caption)[0] for value in row] for row in table.rows]


def options_of(config: Any) -> dict[str, Any]:
    """What a results.json keeps of a command's options: all but its place."""
    options = to_mapping(config)
    options.pop("out", None)
    return options


def keywords(config: Any, *without: str) -> dict[str, Any]:
    """A command's options as keyword arguments: all but its place, and those left out."""
    names = (each.name for each in fields(config))
    return {name: getattr(config, name) for name in names if name not in ("out", *without)}


def folder_of(command: str, config: Any) -> Path:
    """Where a command's results go: `config.out`, or a folder below lab/results by its options."""
    digested = digest(options_of(config))[:8]
    return config.out or Path("lab") / "results" / f"{command}-{digested}"


def show(command: str, config: Any, result: Result, *, text: str = "") -> Path:
    """Saves a command's result and its page in `folder_of` the command, and prints it (or `text` in
    place of its summary and tables); returns the folder.

    Of several processes, the first writes.
    """
    out = folder_of(command, config)
    if not is_first():
        return out
    result.save(out, command=command, options=options_of(config))
    print_result(result, out, text=text)
    return out


def print_result(result: Result, out: Path, *, text: str = "") -> None:
    """Prints a result that was saved in the folder `out`, as `show` does."""
    print(text or with_dashes(result.summary()))
    for table in [] if text else result.tables():
        print(f"\n{table.caption}")
        print_table(table.columns, shown_rows(table))
    print(f"results: {out / RESULTS}")
    print(f"report: {(out / PAGE).resolve()}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `main` knows what to do; rich would end the process with 1

    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(value) for value in row))
    # in a log file a line is as long as it needs to be
    Output(width=None if sys.stdout.isatty() else 160).print(table)
