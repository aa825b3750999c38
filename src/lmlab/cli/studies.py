"""Commands that run studies and draw their reports.

Each names its options and the function that runs it. Rooms that need torch are imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.cli.printing import end_of_study, show
from lmlab.cli.sharing import Run, run_study
from lmlab.config import from_command_line
from lmlab.studies.options import ReportConfig
from lmlab.topics.tour.options import TourConfig


def plan(arguments: Sequence[str]) -> None:
    from lmlab.topics.planning.options import PlanConfig

    config = from_command_line(PlanConfig, arguments, program="lmlab plan", leading=("--study",))
    from lmlab.topics.planning.plan import plan as make_plan

    show("plan", config, make_plan(config))


def study_arrow(arguments: Sequence[str]) -> None:
    from lmlab.topics.arrow.options import ArrowConfig

    def load() -> Run:
        from lmlab.topics.arrow.study import run_arrow

        return run_arrow

    run_study("study arrow", ArrowConfig, load, arguments)


def study_headless(arguments: Sequence[str]) -> None:
    from lmlab.topics.headless.options import HeadlessStudyConfig

    def load() -> Run:
        from lmlab.topics.headless.study import run_headless

        return run_headless

    run_study("study headless", HeadlessStudyConfig, load, arguments)


def study_decomposition(arguments: Sequence[str]) -> None:
    from lmlab.topics.decomposition.options import DecompositionStudyConfig

    def load() -> Run:
        from lmlab.topics.decomposition.study import run_decomposition

        return run_decomposition

    run_study("study decomposition", DecompositionStudyConfig, load, arguments)


def study_towers(arguments: Sequence[str]) -> None:
    from lmlab.topics.towers.options import TowersStudyConfig

    def load() -> Run:
        from lmlab.topics.towers.study import run_towers

        return run_towers

    run_study("study towers", TowersStudyConfig, load, arguments)


def study_encoding(arguments: Sequence[str]) -> None:
    from lmlab.topics.encoding.options import EncodingStudyConfig

    def load() -> Run:
        from lmlab.topics.encoding.study import run_encoding

        return run_encoding

    run_study("study encoding", EncodingStudyConfig, load, arguments)


def finetune(arguments: Sequence[str]) -> None:
    from lmlab.topics.finetuning.options import FinetuneConfig

    def load() -> Run:
        from lmlab.topics.finetuning.study import run_finetune

        return run_finetune

    run_study("finetune", FinetuneConfig, load, arguments)


def report(arguments: Sequence[str]) -> None:
    config = from_command_line(
        ReportConfig, arguments, program="lmlab report", leading=("--study",)
    )
    from lmlab.topics.redraw import redraw

    print(f"report: {redraw(config.study).resolve()}")


def tour(arguments: Sequence[str]) -> None:
    config = from_command_line(TourConfig, arguments, program="lmlab tour")
    from lmlab.topics.tour.study import run_tour

    end_of_study(run_tour(config).parent)
