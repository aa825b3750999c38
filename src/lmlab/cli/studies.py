"""Studies by one process, by a worker among others, or by workers to be submitted; their status;
and the tour of all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lmlab.cli.commands import Command
from lmlab.cli.help import Option
from lmlab.cli.printing import end_of_study, print_table
from lmlab.config import from_command_line, from_mapping, read_toml
from lmlab.config.spelling import path_taken
from lmlab.errors import UserError
from lmlab.studies.options import SubmitConfig, study_folder
from lmlab.topics.registry import find
from lmlab.topics.tour.options import TourConfig

OF_STUDIES = (
    Option("--plan", "Say what it will train, in which time and on how much disk, and train "
           "nothing.", ("--plan",)),
    Option("--worker", "Share the study with other processes that were given the same command; "
           "start any number, and more at any time.", ("--worker",)),
    Option("--status", "Say where its runs stand, and end.", ("--status",)),
    Option("--submit FILE", "Start workers, on Slurm or here, as the TOML file says "
           "(docs/scale.md).", ("--submit",)),
)  # fmt: skip
"""What every study has beside its own options."""
_INTERRUPTED = (
    "Interrupted, it goes on with the same command; runs that other studies made are shared."
)
WORKERS = "\n".join(
    [
        f"\n\n{_INTERRUPTED}",
        *(textwrap.fill(f"{o.name}: {o.text[0].lower()}{o.text[1:]}", 100) for o in OF_STUDIES),
    ]
)


def run_study(command: Command, kind: type[Any], arguments: Sequence[str]) -> None:
    """Runs a study whose options are `kind`, shares it, or says how far it is."""
    rest = list(arguments)
    worker, status, plan = (_taken(rest, name) for name in ("--worker", "--status", "--plan"))
    submit = path_taken(rest, "--submit")
    if worker + status + plan + (submit is not None) > 1:
        raise UserError("--plan, --worker, --status and --submit are different things; give one")
    config = from_command_line(
        kind, rest, program=f"lmlab {command.name}", positional=command.positional
    )
    from lmlab.studies.corpora import in_tokens

    config = in_tokens(config)
    out = study_folder(command.name.split()[-1], config)
    if status:
        _print_status(out, config.lab)
        return
    if submit is not None:
        from lmlab.integrations.slurm import submit_workers

        how = from_mapping(SubmitConfig, read_toml(submit), where=str(submit))
        jobs = submit_workers(how, [*command.name.split(), *rest, "--worker"], out=out)
        print(f"{len(jobs)} workers: {', '.join(jobs)}; their logs: {out / 'workers'}")
        print("how far they are: the same command with --status in place of --submit")
        return
    from lmlab.studies.parts import LeftToOthers, Planned, planning

    try:
        with planning() if plan else nullcontext():
            result = find(command.function)(config, worker=worker)
    except Planned:
        _print_status(out, config.lab)
        print("nothing was trained; without --plan the same command trains these runs")
    except LeftToOthers as left:
        print(left)
    else:
        end_of_study(result, out)


def _taken(arguments: list[str], name: str) -> bool:
    """Whether the flag is among the arguments; takes it out."""
    found = name in arguments
    while name in arguments:
        arguments.remove(name)
    return found


def _print_status(out: Path, lab: Path) -> None:
    from lmlab.studies.status import COLUMNS, study_status, summary

    rows = study_status(out, lab)
    print_table(COLUMNS, [row.cells() for row in rows])
    print(summary(rows, out))


def tour(config: TourConfig) -> None:
    from lmlab.topics.tour.second import halve_threads

    shared = halve_threads()  # before torch is imported
    from lmlab.topics.tour.study import run_tour

    end_of_study(run_tour(config, shared=shared), config.lab / "tour")
