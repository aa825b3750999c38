"""`lmlab completion`: what a real shell offers for the beginning of a command line."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

from lmlab.cli import COMMANDS, main
from lmlab.cli.help import command_help
from lmlab.config.spelling import names_of
from lmlab.topics.registry import STUDIES, find

needs = {
    shell: pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell} on this machine")
    for shell in ("bash", "zsh", "fish")
}


@pytest.fixture
def script(capsys):
    def of(shell: str) -> str:
        assert main(["completion", shell]) == 0
        return capsys.readouterr().out

    return of


def run(shell: str, program: str) -> list[str]:
    """The lines that a shell prints."""
    done = subprocess.run(shell, input=program, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def in_bash(script: str, *beginnings: tuple[str, ...]) -> list[list[str]]:
    """What TAB offers after each list of words, the last of which is being typed."""
    steps = [script]
    for words in beginnings:
        before, word = map(shlex.quote, ["", *words][-2:])
        steps += [
            f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}",
            f'_lmlab lmlab {word} {before}; echo "${{COMPREPLY[*]}}"',
        ]
    return [line.split() for line in run("bash", "\n".join(steps))]


@needs["bash"]
def test_bash_offers_commands_studies_options_and_their_words(script):
    offered = in_bash(
        script("bash"),
        ("lmlab", "tr"),
        ("lmlab", "study", "en"),
        ("lmlab", "train", "--obj"),
        ("lmlab", "train", "--objective", "headless"),
        ("lmlab", "train", "--objective", "=", "headless-"),
        ("lmlab", "train", "--objective", "="),
        ("lmlab", "study", "arrow", "--wor"),
        ("lmlab", "arrow", "lab/a", "--wor"),
        ("lmlab", "completion", ""),
        ("lmlab", "score", "la"),  # a name of a file: bash's own
        ("lmlab", "nonsense", "--ou"),
    )
    objectives = offered.pop(5)
    assert {"causal", "masked", "headless", "towers"} <= set(objectives)
    assert offered == [
        ["train"], ["encoding"], ["--objective"], ["headless", "headless-masked"],
        ["headless-masked"], ["--worker"], [], ["bash", "zsh", "fish"], [], [],
    ]  # fmt: skip


@needs["bash"]
def test_bash_knows_every_option_that_help_shows(script):
    lines = [("lmlab", *name.split(), "-") for name in COMMANDS]
    for (name, command), offered in zip(
        COMMANDS.items(), in_bash(script("bash"), *lines), strict=True
    ):
        kind = find(command.options)
        shown = command_help(command, kind, everything=True)
        options = set(re.findall(r"^  --(\S+)", shown, re.MULTILINE))
        without = {option.replace("[no-]", "") for option in options}
        negated = {option.replace("[no-]", "no-") for option in options if "[" in option}
        more = {"plan", "worker", "status", "submit"} if command in STUDIES.values() else set()
        expected = without | negated | more | {"help", "config"}
        words = {word.removeprefix("--") for word in offered}
        assert expected <= words, name
        find_place = names_of(kind).switched
        places = {find_place(word.replace("-", "_")) for word in words - more - {"help", "config"}}
        assert places == {find_place(word.replace("-", "_")) for word in without | negated}, name
        assert len(offered) == len(set(offered))


@needs["fish"]
def test_fish_offers_the_same(script):
    asked = ["lmlab tr", "lmlab study e", "lmlab train --objective headless-",
             "lmlab study arrow --wor", "lmlab arrow --wor", "lmlab completion z"]  # fmt: skip
    lines = [f"complete -C{shlex.quote(line)}; echo end" for line in asked]
    offered = run("fish", "\n".join([script("fish"), *lines]))
    words = [line.split("\t")[0] for line in offered]
    assert words == [
        "train", "end", "encoding", "end", "headless-masked", "end", "--worker", "end", "end",
        "zsh", "end",
    ]  # fmt: skip


@needs["zsh"]
def test_zsh_reads_its_script(script):
    completes = "compdef() { echo $*; }\n"
    assert run("zsh", completes + script("zsh")) == ["_lmlab lmlab"]


def test_an_unknown_shell_is_refused(capsys):
    assert main(["completion", "powershell"]) == 2
    assert "bash" in capsys.readouterr().err
