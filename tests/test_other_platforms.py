"""One-process use on Windows and macOS, as far as Linux can tell: `windows_rules` says how far."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lmlab
from lmlab.cli.commands import COMMANDS
from lmlab.config.spelling import words_by_place
from lmlab.durable import is_member
from lmlab.topics.comparing.options import parse_kinds
from lmlab.topics.registry import find
from windows_rules import MODULES, OF_OS, OF_SIGNAL

HERE = Path(__file__).parent
SOURCE = Path(lmlab.__file__).parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
def test_it_prepares_trains_goes_on_and_scores_by_the_rules_of_windows(tmp_path):
    done = python(str(HERE / "windows_rules.py"), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("bits per byte\n")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import fcntl", "ModuleNotFoundError: fcntl: Windows has no such module"),
        ("import os; os.sched_getaffinity(0)", "has no attribute 'sched_getaffinity'"),
        ("from signal import SIGKILL", "cannot import name 'SIGKILL'"),
        ("file = open(folder / 'a'); (folder / 'a').rename(folder / 'b')", "is in use"),
        ("import numpy; a = numpy.memmap(folder / 'a'); (folder / 'a').unlink()", "is in use"),
        ("file = open(folder / 'a'); folder.rename(folder.with_name('c'))", "is in use"),
        ("(folder / 'forward:1').write_text('')", "no name of a file"),
        ("(folder / 'aux.txt').write_text('')", "no name of a file"),
        ("import os; os.open(folder, os.O_RDONLY)", "a folder cannot be opened"),
    ],
)
def test_the_rules_can_be_broken(tmp_path, code, says):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("text")
    (tmp_path / "breaks.py").write_text(f"from pathlib import Path\nfolder = Path('in')\n{code}\n")
    run = (
        "import os, sys; sys.path[:0] = sys.argv[1:]; os.chdir(sys.argv[2]);"
        "from pathlib import Path; import windows_rules as rules;"
        "rules.hide_posix('breaks'); rules.keep_rules(Path.cwd()); import breaks"
    )
    done = python("-B", "-c", run, str(HERE), str(tmp_path))
    assert done.returncode == 1
    assert says in done.stderr


def test_what_windows_lacks_is_asked_for_before_it_is_used():
    """In all files, those that the run above does not come to as well."""
    used = 0
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text("utf-8")
        if not any(name in text for name in (*MODULES, *OF_OS, *OF_SIGNAL)):
            continue
        tree = ast.parse(text)
        asked = {
            node
            for scope in ast.walk(tree)
            if isinstance(scope, ast.FunctionDef | ast.Try)
            and ("hasattr(os," in ast.unparse(scope) or "ImportError" in ast.unparse(scope))
            for node in ast.walk(scope)
        }
        for node in ast.walk(tree):
            names = _needs(node)
            used += len(names)
            assert not names or node in asked, (
                f"{file}, line {getattr(node, 'lineno', 0)}: {', '.join(names)}"
            )
    assert used >= 3  # so it looks at something


def _needs(node: ast.AST) -> list[str]:
    """Modules and names of POSIX that a node of a program uses."""
    match node:
        case ast.Import(names=names):
            return [each.name for each in names if each.name in MODULES]
        case ast.ImportFrom(module=str(module)) if module in MODULES:
            return [module]
        case ast.ImportFrom(module="os" | "signal", names=names):
            return [each.name for each in names if each.name in OF_OS + OF_SIGNAL]
        case ast.Attribute(value=ast.Name("os" | "signal"), attr=name):
            return [name] if name in OF_OS + OF_SIGNAL else []
    return []


PLACE = r"C:\models\one"


def test_paths_with_drive_letters_stay_whole():
    assert parse_kinds([f"NAME={PLACE},D:\\two", "gpt2"])["NAME"] == (PLACE, "D:\\two")
    score = find(COMMANDS["score"].options)
    words = words_by_place(score, [PLACE, f"--store={PLACE}", "--out", "D:/out"], ("model",))
    assert words == {("model",): [PLACE], ("store",): [PLACE], ("out",): ["D:/out"]}


@pytest.mark.parametrize(
    "name", [r"..\outside", r"C:\outside", "C:outside", r"\outside", r"\\host\outside", "/outside"]
)
def test_a_manifests_name_stays_in_its_folder_on_windows_too(name):
    assert is_member("tokenizer/tokenizer.json")
    assert not is_member(name)
