"""`lmlab completion SHELL`: a script by which a shell completes commands, options and their words.

All it knows is written into the script, from the table of commands and from what `--help all`
shows, so that pressing TAB starts no Python. A new version of lmlab needs a new script.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lmlab.cli.commands import COMMANDS
from lmlab.cli.help import Option, help_of
from lmlab.cli.studies import OF_STUDIES
from lmlab.topics.registry import STUDIES, find


@dataclass(frozen=True)
class CompletionConfig:
    """Prints the script by which a shell completes commands, options and what an option takes.

    bash: lmlab completion bash > ~/.local/share/bash-completion/completions/lmlab;
    fish: lmlab completion fish > ~/.config/fish/completions/lmlab.fish;
    zsh: lmlab completion zsh > FOLDER/_lmlab, with a folder of $fpath. A new version of lmlab may
    have other options: write the file again then."""

    shell: Literal["bash", "zsh", "fish"]
    """bash, zsh or fish."""


def completion(config: CompletionConfig) -> None:
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[config.shell](_table()), end="")


@dataclass(frozen=True)
class _Known:
    """A command, as a shell has to know it."""

    name: str
    about: str
    options: tuple[Option, ...]
    first: tuple[str, ...]
    """What its first word may be, where that is one of a few."""

    @property
    def described(self) -> dict[str, str]:
        """What each option is for, by the words it is written as."""
        return {word: option.text for option in self.options for word in option.words}

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The words that an option takes, where they are a few."""
        return {w: each.choices for each in self.options if each.choices for w in each.words}


_COMMON = (
    Option("", "how to use it; --help all: every option", ("--help",)),
    Option("", "a TOML file to read options from first", ("--config",)),
)


def _table() -> list[_Known]:
    table = []
    for name, command in COMMANDS.items():
        told = help_of(command, find(command.options))
        named = [option for option in (*told.usual, *told.others) if option.words]
        first = next((o.choices for o in told.usual if not o.words), ())
        more = (*_COMMON, *(OF_STUDIES if command in STUDIES.values() else ()))
        table.append(_Known(name, command.help, (*named, *more), first))
    return table


def _first_words(table: list[_Known]) -> dict[str, str]:
    """What may stand after `lmlab`, and what it is for."""
    plain = {known.name: known.about for known in table if " " not in known.name}
    return {**plain, "study": "train what a question compares, and answer it"}


def _second_words(table: list[_Known]) -> dict[str, str]:
    """What may stand after `lmlab study`, and what it is for."""
    return {known.name.split()[1]: known.about for known in table if " " in known.name}


def _list(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))


def _bash(table: list[_Known]) -> str:
    lines = [
        "# Completes lmlab in bash. Made by: lmlab completion bash",
        "_lmlab() {",
        '    local word="$2" before="$3" name="${COMP_WORDS[1]}" at=2 words=""',
        '    if [ "$name" = study ] && [ "$COMP_CWORD" -gt 2 ]; then',
        '        name="study ${COMP_WORDS[2]}" at=3',
        "    fi",
        '    if [ "$COMP_CWORD" = 1 ]; then',
        f"        words={_list(_first_words(table))}",
        '    elif [ "$name" = study ]; then',
        f"        words={_list(_second_words(table))}",
        '    elif [ "$before" = = ]; then',  # bash makes words of --option=value
        '        before="${COMP_WORDS[COMP_CWORD-2]}"',
        "    fi",
        '    [ "$word" = = ] && before="${COMP_WORDS[COMP_CWORD-1]}" word=""',
        '    case "$name $before" in',
    ]
    for known in table:
        lines += [f"    '{known.name} {word}') words={_list(takes)} ;;"
                  for word, takes in known.choices.items()]  # fmt: skip
    lines += ["    esac", '    case "$name $word" in']
    lines += [f"    '{known.name} -'*) words={_list(known.described)} ;;" for known in table]
    lines += ["    esac", '    [ "$COMP_CWORD" = "$at" ] && case "$name $word" in']
    lines += [f"    '{k.name} '[!-]* | '{k.name} ') words={_list(k.first)} ;;"
              for k in table if k.first]  # fmt: skip
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _lmlab lmlab",  # default: files, where no word is known
    ]
    return "\n".join(lines) + "\n"


def _zsh(table: list[_Known]) -> str:
    def described(words: dict[str, str]) -> str:
        # a colon parts a word from its description
        return " ".join(shlex.quote(f"{w}:{_short(text)}") for w, text in words.items())

    lines = [
        "#compdef lmlab",
        "# Completes lmlab in zsh. Made by: lmlab completion zsh",
        "_lmlab() {",
        "    local name=${words[2]} before=${words[CURRENT-1]} at=3",
        "    local -a known",
        '    if [[ $name == study ]] && (( CURRENT > 3 )); then name="study ${words[3]}" at=4; fi',
        "    if (( CURRENT == 2 )); then",
        f"        known=({described(_first_words(table))})",
        "        _describe command known; return",
        "    elif [[ $name == study ]]; then",
        f"        known=({described(_second_words(table))})",
        "        _describe study known; return",
        "    fi",
        "    if [[ $PREFIX == --*=* ]]; then before=${PREFIX%%=*}; compset -P '*='; fi",
        '    case "$name $before" in',
    ]
    for known in table:
        lines += [f"    '{known.name} {word}') compadd -- {shlex.join(takes)}; return ;;"
                  for word, takes in known.choices.items()]  # fmt: skip
    lines += ["    esac", '    [[ $PREFIX == -* ]] && case "$name" in']
    for known in table:
        every = described(known.described)
        lines += [
            f"    '{known.name}') known=({every})",
            "        _describe option known; return ;;",
        ]
    lines += ["    esac", '    (( CURRENT == at )) && case "$name" in']
    lines += [f"    '{k.name}') compadd -- {shlex.join(k.first)}; return ;;"
              for k in table if k.first]  # fmt: skip
    lines += [
        "    esac",
        "    _files",
        "}",
        '[[ $funcstack[1] == _lmlab ]] && _lmlab "$@" || compdef _lmlab lmlab',
    ]
    return "\n".join(lines) + "\n"


def _fish(table: list[_Known]) -> str:
    lines = [
        "# Completes lmlab in fish. Made by: lmlab completion fish",
        "function __lmlab_command",
        "    set -l given (commandline -opc)",
        '    test "$given[2]" = study; and echo "study $given[3]"; or echo "$given[2]"',
        "end",
        "function __lmlab_at",
        "    test (count (commandline -opc)) = $argv[1]",
        "end",
    ]
    for word, about in _first_words(table).items():
        lines.append(f"complete -c lmlab -f -n '__lmlab_at 1' -a {word} -d {_fish_text(about)}")
    for word, about in _second_words(table).items():
        when = shlex.quote('__lmlab_at 2; and test (__lmlab_command) = "study "')
        lines.append(f"complete -c lmlab -f -n {when} -a {word} -d {_fish_text(about)}")
    for known in table:
        when = shlex.quote(f'test (__lmlab_command) = "{known.name}"')
        for word, text in known.described.items():
            takes = known.choices.get(word, ())
            words = f" -x -a {_list(takes)}" if takes else ""
            lines.append(f"complete -c lmlab -n {when} -l {word[2:]}{words} -d {_fish_text(text)}")
        if known.first:
            at = shlex.quote(f'__lmlab_at 2; and test (__lmlab_command) = "{known.name}"')
            lines.append(f"complete -c lmlab -f -n {at} -a {_list(known.first)}")
    return "\n".join(lines) + "\n"


def _fish_text(text: str) -> str:
    return "'" + _short(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _short(text: str) -> str:
    """The first sentence, at most 72 letters of it."""
    sentence = text.split(". ")[0].removesuffix(".")
    return sentence if len(sentence) <= 72 else sentence[:71].rstrip() + "…"
