"""What the documentation tells to type works: every `sh` and `python` block of its pages is run.

A page begins in a fresh folder, and its blocks are run in their order, in small sizes
(`small_sizes`). A block that only shows something, or needs the network, other people's files or
hours, is fenced `text` or `console`.

Notable: `lmlab` commands run in this process, since importing torch takes seconds; what bash has to
do (a pipe, a file written by `cat <<`) is done by bash, with an `lmlab` of the same sizes. Pages
that take longer are marked slow: `make commands` runs all, and says how long each command took.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import small_sizes
from lmlab.cli import main
from lmlab.config import training
from lmlab.config.model import RECURRENT_SIZES, SIZES
from lmlab.data import docstrings

ROOT = Path(__file__).parent.parent
SOON = ("README.md", "docs/index.md", "docs/start.md")
"""Pages whose blocks `make test` runs; those of the others are slow."""
ELSEWHERE = {
    "docs/contributing.md": "test_contributing.py",
    "docs/python.md": "test_notebooks.py",
}
"""Pages whose Python blocks have a test of their own."""
_SHELL = re.compile(r"[|&;<>()$`*?\[~#=!{]")
"""What only a shell understands, in a word that is not quoted."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Of its first line."""
    language: str
    text: str


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page that say a language; also those that stand in lists and tabs."""
    blocks: list[Block] = []
    inside: re.Match[str] | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if inside is None:
            if inside := re.fullmatch(r"( *)(`{3,})([\w-]*).*", line):
                start, lines = number + 1, []
        elif line.strip() == inside[2]:
            blocks.append(Block(page, start, inside[3], "".join(lines)))
            inside = None
        else:
            lines.append(line.removeprefix(inside[1]) + "\n")
    assert inside is None, f"{page}:{start - 1}: a block without an end"
    return blocks


def statements(script: str) -> Iterator[tuple[int, str]]:
    """What bash would do one after another: the line of each, from 0, and its text."""
    waiting, start = "", 0
    for number, line in enumerate(script.splitlines(keepends=True)):
        if not waiting and (not line.strip() or line.lstrip().startswith("#")):
            continue
        start = start if waiting else number
        waiting += line
        unclear = line.endswith("\\\n") or re.search(r"<<|^\s*(for|while|if)\b|['\"({]", waiting)
        if unclear and not _complete(waiting):
            continue
        yield start, waiting
        waiting = ""
    if waiting:
        yield start, waiting


def _complete(script: str) -> bool:
    if script.endswith("\\\n"):
        return False
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    return checked.returncode == 0 and not checked.stderr  # it warns of a file without its end


def plain_words(statement: str) -> list[str] | None:
    """The words of a statement that needs no shell; None where it needs one."""
    statement = statement.replace("\\\n", " ")
    bare = re.sub(r"'[^']*'|\"[^\"$`\\]*\"|\s#.*", "", statement)
    return None if _SHELL.search(bare) else shlex.split(statement, comments=True)


PAGES = {
    page: blocks_of(page, (ROOT / page).read_text("utf-8"))
    for page in sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
    )
}


def run_as_tested(block: Block) -> bool:
    return block.language == "sh" or (block.language == "python" and block.page not in ELSEWHERE)


@pytest.fixture
def small(monkeypatch) -> None:
    """`small_sizes.shrink`, undone behind the test."""
    for sizes in (SIZES, RECURRENT_SIZES):
        for name in sizes:
            monkeypatch.setitem(sizes, name, sizes[name])
    monkeypatch.setattr(training, "_STEPS", training._STEPS)
    for name in ("_standard_library", "_installed_packages"):
        monkeypatch.setattr(docstrings, name, getattr(docstrings, name))
    small_sizes.shrink()


@pytest.fixture
def shell(tmp_path) -> Mapping[str, str]:
    """The environment of bash, where `lmlab` is the one of this source, in small."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = Path(small_sizes.__file__)
    tool = tools / "lmlab"
    tool.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(script)])} "$@"\n')
    tool.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    sources = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": sources}


class Spent:
    """Time since it was made: of the clock, and of processors for this process and its children."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        times = os.times()
        return times.elapsed, sum(times[:4])

    def __str__(self) -> str:
        clock, processor = (b - a for a, b in zip(self._began, self._now(), strict=True))
        return f"{clock:6.1f} s ({processor:6.1f} of a processor)"


def run_statement(statement: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit status and output."""
    words = plain_words(statement)
    if words and words[0] == "cd":
        os.chdir(words[1])
        return 0, ""
    if words and words[0] == "lmlab" and small_sizes.SMALL:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = main(small_sizes.small_command(words[1:]))
        return status, output.getvalue()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", statement],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def run_block(block: Block, environment: Mapping[str, str], names: dict[str, Any]) -> None:
    """Fails with the page and the line that does not work."""
    if block.language == "python":
        spent = Spent()
        code = "\n" * (block.line - 1) + small_sizes.small_python(block.text)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, block.page, "exec"), names)  # noqa: S102 - of our own pages
        except Exception as error:
            at = [
                f.lineno
                for f in traceback.extract_tb(error.__traceback__)
                if f.filename == block.page
            ]
            pytest.fail(f"{block.page}:{(at or [block.line])[-1]}: {error!r}", pytrace=False)
        print(f"{spent}  {block.page}:{block.line}  (Python)")
        return
    for offset, statement in statements(block.text):
        spent = Spent()
        status, output = run_statement(statement, environment)
        where = f"{block.page}:{block.line + offset}"
        if status:
            pytest.fail(f"{where}: status {status} of {statement}{output}", pytrace=False)
        print(f"{spent}  {where}  {statement.strip()}")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page, marks=() if page in SOON else pytest.mark.slow)
        for page, blocks in PAGES.items()
        if any(map(run_as_tested, blocks))
    ],
)
@pytest.mark.usefixtures("small")
def test_blocks_of_a_page(page, shell, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in filter(run_as_tested, PAGES[page]):
        run_block(block, shell, names)


PAGE = """\
# A page

- In a list:

  ```sh
  # a comment
  cat > notes.txt <<'END'
  lmlab one
  END
  wc -l \\
    < notes.txt
  ```

```text
lmlab never
```

```python
x = 1
assert x == 2
```
"""


def test_blocks_are_found_with_their_lines_and_languages():
    blocks = blocks_of("p.md", PAGE)
    assert [(b.language, b.line) for b in blocks] == [("sh", 6), ("text", 15), ("python", 19)]
    assert blocks[0].text.splitlines()[2] == "lmlab one"
    with pytest.raises(AssertionError, match=r"p\.md:1: a block without an end"):
        blocks_of("p.md", "```sh\nls\n")


def test_statements_are_those_of_bash():
    script, loop = blocks_of("p.md", PAGE)[0].text, "for x in a b; do\n  echo $x\ndone\nls\n"
    assert [at for at, _ in statements(script)] == [1, 4]
    assert list(statements(loop)) == [(0, loop[:-3]), (3, "ls\n")]
    assert plain_words('lmlab surprisal a "The dog; it\'s | here."  # what\n') == [
        "lmlab", "surprisal", "a", "The dog; it's | here.",
    ]  # fmt: skip
    assert plain_words("lmlab runs \\\n  lab") == ["lmlab", "runs", "lab"]
    for shell in ("lmlab runs | head", "lmlab score $X", "lmlab prepare *.txt", 'lmlab x "$Y"'):
        assert plain_words(shell) is None


def test_what_fails_is_named_by_page_and_line(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shell_block, _, python_block = blocks_of("p.md", PAGE)
    run_block(shell_block, shell, {})
    with pytest.raises(pytest.fail.Exception, match=r"p\.md:20: AssertionError"):
        run_block(python_block, shell, {})
    for statement, status in (("ls\nfalse | cat\n", 1), ("cd .\nlmlab runs nowhere\n", 2)):
        with pytest.raises(pytest.fail.Exception, match=rf"p\.md:8: status {status} of"):
            run_block(Block("p.md", 7, "sh", statement), shell, {})


def test_small_commands_ask_for_less_and_keep_the_order_of_sizes():
    text = "train --store s --steps 500 --checkpoints.every 100 --seed 500 --size micro"
    words = shlex.split(text)
    small = small_sizes.small_command(words)
    assert small[:3] == words[:3]
    assert small[7:] == [*words[7:9], *words[9:]]
    assert 100 > int(small[4]) > int(small[6]) > 1
    assert small_sizes.small_command(["tune", "lab", "--tokens", "50K"])[-1] == "2048"
    asked = small_sizes.small_command(["runs", "lab", "--where", "a.rate=0.5", "steps!=100"])
    assert asked == ["runs", "lab", "--where", "a.rate=0.5", f"steps!={small[6]}"]
    longer = small_sizes.small_command(["lengthen", "lab/a", "--steps", "600"])
    assert int(longer[-1]) > int(small[4])
    study = small_sizes.small_command(["study", "arrow", "--tokens", "4_000_000"])
    assert study[3] == "4000"
    assert study[study.index("--seeds") + 1] == "2"
    code = "run = lmlab.train(store, steps=1_000, seed=1_000, order='steps=1')"
    assert small_sizes.small_python(code) == code.replace("steps=1_000", "steps=16").replace(
        "steps=1'", "steps=2'"
    )


@pytest.mark.usefixtures("small")
def test_small_models_and_the_small_corpus_are_there(tmp_path, capsys):
    assert main(["prepare", "docstrings", "--vocabulary", "300", "--out", str(tmp_path / "s")]) == 0
    assert SIZES["nano"] < SIZES["micro"]
    assert SIZES["xl"].layers == 1
    assert "documents" in capsys.readouterr().out
