"""The page of commands, from their table: `python docs/commands.py` writes docs/commands.md."""

from pathlib import Path

from lmlab.cli.commands import COMMANDS

PAGE = Path(__file__).with_suffix(".md")


def text() -> str:
    """The page."""
    lines = [
        "# Commands", "",
        "Written by `make docs` from the table in `src/lmlab/cli/commands.py`. Each has `--help`.",
        "", "| command | what it does | example |", "| --- | --- | --- |",
    ]  # fmt: skip
    for command in COMMANDS.values():
        example = f"`lmlab {command.name} {command.example}`" if command.example else ""
        lines.append(f"| `lmlab {command.name}` | {command.help} | {example} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
