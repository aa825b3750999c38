"""One command from its words to what it prints: options, refusals, the call, the result.

Torch is imported by the functions of commands, and so after all that can be refused without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from lmlab.cli.commands import Command
from lmlab.cli.help import command_help
from lmlab.cli.printing import keywords, show, use_device
from lmlab.cli.refusals import check_options, models_of, opening
from lmlab.cli.studies import WORKERS, run_study
from lmlab.config import from_command_line
from lmlab.results import Result
from lmlab.topics.registry import STUDIES, find


def run(command: Command, arguments: Sequence[str]) -> None:
    """Runs a command with what stands behind its name. Raises `UserError`."""
    kind = find(command.options)
    if {"-h", "--help"} & set(arguments):
        more = WORKERS if command in STUDIES.values() else ""
        print(command_help(command, kind, everything="all" in arguments, more=more))
        return
    if command in STUDIES.values():
        run_study(command, kind, arguments)
        return
    config = from_command_line(
        kind, arguments, program=f"lmlab {command.name}", positional=command.positional
    )
    check_options(config, any_tokenizer=command.any_tokenizer)
    if command.check:
        find(command.check)(config)
    if models := models_of(config):
        opening(*models)
        use_device(getattr(config, "device", "auto"))
    function = find(command.function)
    if "config" in inspect.signature(function).parameters:
        result = function(config)
    else:
        result = function(**keywords(config))
    if isinstance(result, Result):
        show(command.name, config, result)
