"""One process works where Python has not all that Linux has: Windows and macOS, imitated.

Other libraries keep what they need of Linux: only lmlab's own imports are refused. So the lock is
still Linux's, by filelock.
"""

from __future__ import annotations

import json
import subprocess
import sys

LESS = """
import builtins, os
import_module = builtins.__import__

def without(name, globals=None, locals=None, fromlist=(), level=0):
    if name in {"fcntl", "resource", "grp", "pwd", "termios"}:
        if (globals or {}).get("__name__", "").startswith("lmlab"):
            raise ImportError(f"No module named {name!r}")
    return import_module(name, globals, locals, fromlist, level)

builtins.__import__ = without
for name in ("O_DIRECTORY", "sched_getaffinity"):
    delattr(os, name)
"""


def test_every_module_is_imported_and_a_run_trained_without_what_only_linux_has(
    text_folder, tmp_path
):
    """`lmlab.locks` and `lmlab.training.hardware` imported `fcntl` and `resource`."""
    code = LESS + (
        "import importlib, pkgutil, lmlab\n"
        "for module in pkgutil.walk_packages(lmlab.__path__, 'lmlab.'):\n"
        "    if not module.name.endswith(('__main__', 'lm_eval')):  # an extra\n"
        "        importlib.import_module(module.name)\n"
        "from lmlab.cli import main\n"
        f"store, run = {str(tmp_path / 'store')!r}, {str(tmp_path / 'run')!r}\n"
        f"source = ['--text', {str(text_folder)!r}]\n"
        "prepared = main(['prepare', *source, '--out', store, '--tokenizer.vocabulary', '300'])\n"
        "trained = main(['train', '--store', store, '--out', run, '--steps', '2',\n"
        "    '--batch', '2', '--context', '16', '--model.size', 'nano'])\n"
        "print(prepared, trained)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 0", done.stderr
    timing = (tmp_path / "run" / "timing.jsonl").read_text().splitlines()
    assert json.loads(timing[-1])["peak_memory_bytes"] is None
