"""Whether the wheel is whole: looks at an environment that has it and nothing else of this folder.

    python tests/installed_wheel.py ENVIRONMENT

Python finds lmlab in the environment, with the mark that it has types; and the first commands of
README.md run there as they stand, in a fresh folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def first_commands() -> str:
    """The first `sh` block of README.md."""
    found = re.search(r"^```sh\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if found is None or "lmlab " not in found[1]:
        raise SystemExit("README.md has no sh block with a command of lmlab")
    return found[1]


def main(environment: Path) -> None:
    hidden = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    hidden["PATH"] = f"{programs}{os.pathsep}{hidden['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        look = "import lmlab, sys; print(sys.version.split()[0], lmlab.__version__, lmlab.__file__)"
        python = programs / "python"
        said = subprocess.run(
            [python, "-c", look], cwd=folder, env=hidden, check=True, capture_output=True, text=True
        ).stdout.strip()
        print(said, flush=True)
        package = Path(said.split(maxsplit=2)[2]).parent
        if not package.is_relative_to(environment) or not (package / "py.typed").is_file():
            raise SystemExit(f"{package}: not the wheel's package, or it has no py.typed")
        start = time.monotonic()
        script = "set -eux\n" + first_commands()
        bash = shutil.which("bash") or "bash"  # the name alone is another bash on Windows: WSL's
        subprocess.run([bash, "-c", script], cwd=folder, env=hidden, check=True)
    print(f"README's first commands took {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
