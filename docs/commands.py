"""Writes docs/commands.md from the table of commands: `make docs`."""

from lmlab.cli.commands import COMMANDS

print("# Commands\n")
print("Written by `make docs` from the table in `src/lmlab/cli/commands.py`. Each has `--help`.\n")
print("| command | what it does | example |")
print("| --- | --- | --- |")
for command in COMMANDS.values():
    example = f"`lmlab {command.name} {command.example}`" if command.example else ""
    print(f"| `lmlab {command.name}` | {command.help} | {example} |")
