"""Commands. No logic: each parses its options, calls one function and prints what it returns.

The table of them is `lmlab.cli.commands`.
"""

from __future__ import annotations

import difflib
import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

from lmlab.cli.commands import COMMANDS, ELSEWHERE, usage
from lmlab.cli.printing import with_dashes
from lmlab.errors import UserError
from lmlab.processes import is_first, leave, rank, world
from lmlab.progress import said_as
from lmlab.training.stopping import ended_by_sigterm


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 2 for a user's mistake, 130 after Ctrl-C and
    143 after SIGTERM."""
    # a shell's `>&-` gives a command no output at all; what it would say goes nowhere
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what a terminal has no letter for is shown as "?", and costs no result
            stream.reconfigure(errors="replace")
    try:
        try:
            with said_as(with_dashes), ended_by_sigterm():
                return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # whoever read the output is gone (`| head`); what Python would flush at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says of a program that SIGPIPE ended


def _run(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if given[0] == "--version":
        from lmlab import __version__

        print(f"lmlab {__version__}")
        return 0
    if given[0] == "study" and (len(given) == 1 or given[1] in ("-h", "--help")):
        names = sorted(name.split()[1] for name in COMMANDS if name.startswith("study "))
        print(f"lmlab study NAME ...: one of {', '.join(names)}. Each has --help")
        return 0
    name = " ".join(given[:2]) if given[0] == "study" else given[0]
    command = COMMANDS.get(name)
    if command is None:
        near = ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, COMMANDS, n=1)), "")
        hint = f"; did you mean 'lmlab {near}'?" if near else ""
        print(f"lmlab: unknown command '{name}'{hint or chr(10) * 2 + usage()}", file=sys.stderr)
        return 2
    from lmlab.cli.running import run

    try:
        if world() > 1 and not command.processes:
            many = ", ".join(sorted(each.name for each in COMMANDS.values() if each.processes))
            raise UserError(
                f"runs in one process, and torchrun started {world()}: start it without. "
                f"By many processes: {many}"
            )
        with nullcontext() if is_first() else _silence():
            run(command, given[len(name.split()) :])
    except UserError as error:
        where = "" if is_first() else f" (process {rank()})"
        print(f"lmlab {name}{where}: {with_dashes(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if is_first():
            saved = str(stopped) or "interrupted; what is finished is saved"
            print(f"\nlmlab {name}: {saved}. {_goes_on(given)}", file=sys.stderr)
        return 128 + getattr(stopped, "number", signal.SIGINT)
    leave()
    return 0


def _goes_on(given: Sequence[str]) -> str:
    same = f"the same command goes on: lmlab {shlex.join(given)}"
    return same[0].upper() + same[1:] if world() == 1 else f"By torchrun, {same}"


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield
