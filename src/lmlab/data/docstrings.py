"""The default corpus, docstrings of Python's standard library and of what lmlab itself installs;
and the corpus `code`.

`docstrings:python` is the standard library's alone: little text, but the same on every machine with
one version of Python.

Real English technical prose that is on every machine that runs lmlab, so that nothing has to be
downloaded. A document is one module's docstrings, joined by blank lines, in source order.

Notable:
- Modules are read in a fixed order (standard library first, then packages by name), parsed and
  never imported. Tests are left out, and so is every paragraph seen before (templated
  documentation would otherwise be in training and validation at once).
- Which packages: lmlab's own requirements and theirs, without extras, so that development tools do
  not change the corpus. Other versions of Python or of a package give another corpus; the token
  store's digests tell them apart.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from lmlab.progress import track

_LEFT_OUT_FOLDERS = {
    "test", "tests", "testing", "_testing", "site-packages", "dist-packages", "__pycache__",
    "_vendor", "idle_test", "lib2to3",
}  # fmt: skip
_REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")


def read_docstrings(*, packages: bool = True) -> Iterator[tuple[str, str]]:
    """Names and texts of the default corpus's documents, in their fixed order; without `packages`
    those of the standard library only."""
    modules = _standard_library() + (_installed_packages() if packages else [])
    seen: set[bytes] = set()
    with track("reading docstrings", len(modules), "modules") as bar:
        extracted = _extract([path for _, path in modules])
        for (name, _), paragraphs in zip(modules, extracted, strict=True):
            fresh = [p for p in paragraphs if _remember(p, seen)]
            if fresh:
                yield name, "\n\n".join(fresh)
            bar.advance()


def _extract(paths: list[Path]) -> Iterator[list[str]]:
    """`module_paragraphs` of every path, in order, computed by one process a core.

    Plain child processes of this very file (see the end) rather than multiprocessing, which would
    import the user's main script again, or fork a process that holds threads.
    """
    count = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(paths))
    command = [sys.executable, "-m", "lmlab.data.docstrings"]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    try:
        for index, worker in enumerate(workers):
            assert worker.stdin is not None
            worker.stdin.write(json.dumps([str(p) for p in paths[index::count]]).encode())
            worker.stdin.close()
        for index in range(len(paths)):
            output = workers[index % count].stdout
            assert output is not None
            line = output.readline()
            if not line:
                raise RuntimeError("a process that reads docstrings ended early")
            yield json.loads(line)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()


def _remember(paragraph: str, seen: set[bytes]) -> bool:
    """Whether the paragraph (up to white space) is new; notes it."""
    key = hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=16).digest()
    if key in seen:
        return False
    seen.add(key)
    return True


def module_paragraphs(path: Path) -> list[str]:
    """The paragraphs of all docstrings of one Python file, in source order."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's string literals
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # templates and files for other Python versions are no modules of this one
    paragraphs: list[str] = []
    for docstring in _walk(tree):
        # A docstring can hold lone surrogates ("\ud800"), which no UTF-8 text can
        clean = docstring.encode("utf-8", "ignore").decode("utf-8")
        paragraphs += [p for p in re.split(r"\n\s*\n", clean) if p.strip()]
    return paragraphs


def _walk(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _walk(child)


def _is_test(path: Path) -> bool:
    name = path.stem
    return (
        name.startswith("test_")
        or name.endswith(("_test", "_tests"))
        or name in ("conftest", "tests", "test")
    )


def _modules_below(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir():
            if path.name not in _LEFT_OUT_FOLDERS:
                yield from _modules_below(path)
        elif path.suffix == ".py" and not _is_test(path):
            yield path


def _standard_library() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    return [(f"python/{path.relative_to(root)}", path) for path in _modules_below(root)]


def _installed_packages() -> list[tuple[str, Path]]:
    modules: list[tuple[str, Path]] = []
    for name in sorted(_requirements("lmlab") - {"lmlab"}):
        distribution = metadata.distribution(name)
        for entry in sorted(distribution.files or [], key=str):
            parts = set(entry.parts[:-1])
            path = Path(str(distribution.locate_file(entry)))
            if (
                entry.suffix == ".py"
                and ".." not in parts
                and not parts & _LEFT_OUT_FOLDERS
                and not _is_test(path)
                and path.is_file()
            ):
                modules.append((str(entry), path))
    return modules


def read_code() -> Iterator[tuple[str, str]]:
    """Names and texts of the corpus `code`: the standard library's modules, tests and files that
    are not UTF-8 left out. A text that is no natural language."""
    left_out = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idle_test"}
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if left_out & set(inside.parts[:-1]):
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield inside.as_posix(), text


def docstrings_version(*, packages: bool = True) -> dict[str, str]:
    """What decides these corpora: versions of Python and of every package read."""
    read = sorted(_requirements("lmlab") - {"lmlab"}) if packages else []
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in read}}


def _requirements(root: str) -> set[str]:
    """Names of `root` and of all installed distributions it needs, without extras."""
    names: set[str] = set()
    waiting = [root]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in names:
            continue
        try:
            requirements = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python version
        names.add(name)
        for requirement in requirements:
            match = _REQUIREMENT_NAME.match(requirement)
            if match and not re.search(r";.*\bextra\s*==", requirement):
                waiting.append(match.group())
    return names


if __name__ == "__main__":
    for module in json.load(sys.stdin):
        print(json.dumps(module_paragraphs(Path(module))), flush=True)
