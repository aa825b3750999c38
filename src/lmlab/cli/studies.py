"""Commands that run studies and draw their reports.

Each parses its options, calls one function and prints what it returns. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmlab.cli.printing import end_of_study
from lmlab.config import from_command_line
from lmlab.config.commands import (
    ReportConfig,
    TourConfig,
)

if TYPE_CHECKING:
    pass


def study_arrow(arguments: Sequence[str]) -> None:
    from lmlab.config.studies import ArrowConfig

    config = from_command_line(ArrowConfig, arguments, program="lmlab study arrow")
    from lmlab.studies.arrow import run_arrow

    end_of_study(run_arrow(config))


def study_headless(arguments: Sequence[str]) -> None:
    from lmlab.config.studies import HeadlessStudyConfig

    config = from_command_line(HeadlessStudyConfig, arguments, program="lmlab study headless")
    from lmlab.studies.headless import run_headless

    end_of_study(run_headless(config))


def study_decomposition(arguments: Sequence[str]) -> None:
    from lmlab.config.decomposition import DecompositionStudyConfig

    config = from_command_line(
        DecompositionStudyConfig, arguments, program="lmlab study decomposition"
    )
    from lmlab.studies.decomposition import run_decomposition

    end_of_study(run_decomposition(config))


def study_towers(arguments: Sequence[str]) -> None:
    from lmlab.config.towers import TowersStudyConfig

    config = from_command_line(TowersStudyConfig, arguments, program="lmlab study towers")
    from lmlab.studies.towers import run_towers

    end_of_study(run_towers(config))


def study_encoding(arguments: Sequence[str]) -> None:
    from lmlab.config.encoding import EncodingStudyConfig

    config = from_command_line(EncodingStudyConfig, arguments, program="lmlab study encoding")
    from lmlab.studies.encoding import run_encoding

    end_of_study(run_encoding(config))


def report(arguments: Sequence[str]) -> None:
    config = from_command_line(ReportConfig, arguments, program="lmlab report")
    from lmlab.studies.redraw import redraw

    print(f"report: {redraw(config.study).resolve()}")


def tour(arguments: Sequence[str]) -> None:
    config = from_command_line(TourConfig, arguments, program="lmlab tour")
    from lmlab.studies.tour import run_tour

    end_of_study(run_tour(config.lab))
