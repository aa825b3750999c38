"""The page of commands, from their table: `python docs/commands.py` writes docs/commands.md.

What it says of an option is what `lmlab COMMAND --help` says. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lmlab.cli.commands import COMMANDS
from lmlab.cli.help import Help, Option, help_of
from lmlab.cli.studies import OF_STUDIES
from lmlab.topics.registry import STUDIES, Command, find

PAGE = Path(__file__).with_suffix(".md")
_GROUPS = {
    "Text and training": "prepare train lengthen doctor tune",
    "Runs": "runs watch report",
    "Score and compare": "score compare surprisal evaluate finetune",
    "Look inside": "geometry encode steer prune dynamics bottleneck embed decompose apply "
    "prefer route rerank arrow",
    "Studies": "",  # the rest
    "Use and hand on": "sample export publish completion",
}
"""Commands by what they are for; the others are studies."""
_AS_TRAIN = ("doctor", "tune")
_INTRODUCTION = """\
# Commands

`make docs` writes this page from the table of commands. In a terminal, `lmlab COMMAND --help` shows
the usual options of a command and `--help all` shows every one.

- Options may also stand in a TOML file: `--config FILE`. What you type overrides the file.
- The usual options of a command stand first, by their short names. The others stand by their full
  names, `--SECTION.NAME`. You may leave out the section where only one section has the name:
  `--layers` is `--model.layers`. In a TOML file a section is a table.
- A **model** is a run, a checkpoint, a folder that transformers saved, a `.gguf` file, or a name
  of the Hub.
- A **store** is a folder that `lmlab prepare` made.
- A command that measures writes `results.json` and a page into `--out`.
- `lmlab study`, `lmlab finetune` and `lmlab tune` say with `--plan` what they will train, in which
  time and on how much disk, and train nothing. Processes share them with `--worker`
  ([more machines](scale.md)).
- TAB completes commands, options and their words in bash, zsh and fish, once
  [`lmlab completion`](#lmlab-completion) has written the script of your shell.
"""


def text() -> str:
    """The page."""
    lines = [_INTRODUCTION, "| command | what it does |", "| --- | --- |"]
    lines += [f"| [`lmlab {c.name}`](#{_anchor(c)}) | {c.help} |" for c in COMMANDS.values()]
    for group, names in _groups().items():
        lines += ["", f"## {group}"]
        for name in names:
            lines += ["", *_section(COMMANDS[name])]
    return "\n".join([*lines, ""])


def _groups() -> dict[str, list[str]]:
    groups = {group: names.split() for group, names in _GROUPS.items()}
    placed = {name for names in groups.values() for name in names}
    groups["Studies"] = [name for name in COMMANDS if name not in placed]
    return groups


def _anchor(command: Command) -> str:
    return f"lmlab {command.name}".replace(" ", "-")


def _section(command: Command) -> Iterator[str]:
    told: Help = help_of(command, find(command.options))
    yield from (f"### lmlab {command.name}", "", _plain(told.about), "")
    example = f"lmlab {command.name} {command.example}".strip()
    yield from ("```text", told.usage, *([example] if example != told.usage else []), "```", "")
    yield from _list(told.usual)
    if command in STUDIES.values():
        yield from _list(OF_STUDIES)
    if command.name in _AS_TRAIN:
        train = help_of(COMMANDS["train"], find(COMMANDS["train"].options))
        shared = {word for option in (*train.usual, *train.others) for word in option.words}
        own = [option for option in told.others if not shared & {*option.words}]
        yield from _list(own)
        yield from ("", "All other options of [`lmlab train`](#lmlab-train) too.")
    elif told.others:
        summary = f"<summary>{len(told.others)} more options</summary>"
        yield from ("", f'<details markdown="1">{summary}')
        for section in dict.fromkeys(option.section for option in told.others):
            yield from ("", f"**`--{section}.`**") if section else ()
            yield from ("", *_list([o for o in told.others if o.section == section]))
        yield from ("", "</details>")


def _list(options: Sequence[Option]) -> list[str]:
    return [f"- `{option.name}`: {_plain(option.text)}".rstrip(": ") for option in options]


def _plain(words: str) -> str:
    """Text of a terminal as Markdown: tags and stars in it are meant as they stand, and a page of
    docs/ is a link."""
    parts = re.split(r"(`[^`]*`)", words)
    plain = [p if p.startswith("`") else re.sub(r"([*<])", r"\\\1", p) for p in parts]
    return re.sub(r"\bdocs/([\w-]+)\.md", r"[\1](\1.md)", "".join(plain))


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
