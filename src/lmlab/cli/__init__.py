"""Commands. No logic: each parses its options, calls one function and prints what it returns.

Notable: rooms that need torch are imported inside the command, so that `lmlab --help` and a
mistyped option answer at once.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

from lmlab.cli import encoding, measuring, studies, training
from lmlab.errors import UserError
from lmlab.processes import is_first, leave, rank, world

USAGE = """lmlab: a laboratory for language models

  lmlab prepare         text to a token store
  lmlab train           train a model on a store; the same command resumes
  lmlab doctor          what a training run will cost here; options as for train
  lmlab score           nats per token and bits per byte of a model on a store
  lmlab geometry        shape of embeddings and hidden states, loss by frequency
  lmlab encode          how the output embedding encodes token probability
  lmlab steer           scale tokens' probabilities by editing output embeddings
  lmlab prune           remove dimensions of the output embedding; a smaller head
  lmlab dynamics        when in training the output embedding encodes frequency
  lmlab eval            LAMBADA, BLiMP, multiple choice and lm-eval's tasks, zero-shot
  lmlab finetune        classifiers on labelled texts, from any model, with intervals
  lmlab sample          text from a model
  lmlab export          a model as a standard transformers folder
  lmlab embed           text to rows of hidden states, any models
  lmlab decompose       how much of a model is a linear combination of others
  lmlab apply           map cheap embeddings to an expensive model's
  lmlab prefer          which types of token each of two towers predicts better
  lmlab arrow           compare a forward and a backward model on a store
  lmlab plan            seeds, documents and tokens that it takes to see a difference
  lmlab study arrow     train both directions and measure the arrow of time
  lmlab study headless  train with and without a softmax, and compare the heads
  lmlab study towers    which tokens two towers with one prediction take
  lmlab study decomposition
                        how much of each of a zoo of models is in the others
  lmlab study encoding  train models and see how their embeddings hold probability
  lmlab report          draw the report of a finished study again
  lmlab tour            a small edition of the studies, in a few minutes

Each command has --help, and --config FILE reads its options from TOML. Studies and finetune are
shared by processes with --worker, started on Slurm with --submit FILE; --status says how far."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (2 for a user's mistake)."""
    # a shell's `>&-` gives a command no output at all; what it would say goes nowhere
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # what a terminal has no letter for is shown as "?", and costs no result
            stream.reconfigure(errors="replace")
    try:
        try:
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
        print(USAGE)
        return 0
    if given[0] == "--version":
        from lmlab import __version__

        print(f"lmlab {__version__}")
        return 0
    if given[0] == "study" and (len(given) == 1 or given[1] in ("-h", "--help")):
        studies_of = ", ".join(sorted(n.split()[1] for n in COMMANDS if n.startswith("study ")))
        print(f"lmlab study NAME ...: one of {studies_of}. Each has --help")
        return 0
    name = " ".join(given[:2]) if given[0] == "study" else given[0]
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean 'lmlab {near[0]}'?" if near else ""
        print(f"lmlab: unknown command '{name}'{hint}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        if world() > 1 and name not in BY_MANY:
            raise UserError(
                f"runs in one process, and torchrun started {world()}: start it without. "
                f"By many processes: {', '.join(sorted(BY_MANY))}"
            )
        with nullcontext() if is_first() else _silence():
            command(given[len(name.split()) :])
    except UserError as error:
        where = "" if is_first() else f" (process {rank()})"
        print(f"lmlab {name}{where}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nlmlab {name}: interrupted; the same command goes on from what is saved",
            file=sys.stderr,
        )
        return 130
    leave()
    return 0


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


BY_MANY = {"train", "score", "encode", "embed", "decompose", "prefer"}
"""Commands that several processes (torchrun) do together."""

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": training.prepare,
    "train": training.train,
    "doctor": training.doctor,
    "score": measuring.score,
    "geometry": measuring.geometry,
    "encode": encoding.encode,
    "steer": encoding.steer,
    "prune": encoding.prune,
    "dynamics": encoding.dynamics,
    "eval": measuring.evaluate,
    "finetune": studies.finetune,
    "sample": training.sample,
    "export": training.export,
    "embed": measuring.embed,
    "decompose": measuring.decompose,
    "apply": measuring.apply,
    "arrow": measuring.arrow,
    "plan": studies.plan,
    "study arrow": studies.study_arrow,
    "study headless": studies.study_headless,
    "study decomposition": studies.study_decomposition,
    "prefer": measuring.prefer,
    "study towers": studies.study_towers,
    "study encoding": studies.study_encoding,
    "report": studies.report,
    "tour": studies.tour,
}
