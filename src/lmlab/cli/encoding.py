"""Commands on how output embeddings hold token probability.

Each parses its options, calls one function and prints what it returns. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmlab.cli.printing import options_of, print_result, show, use_device
from lmlab.cli.refusals import (
    check_models,
    check_store,
    check_untie,
    check_vocabulary,
    opening,
)
from lmlab.config import from_command_line
from lmlab.durable import check_absent


def encode(arguments: Sequence[str]) -> None:
    from lmlab.topics.encoding.options import EncodeConfig

    config = from_command_line(
        EncodeConfig, arguments, program="lmlab encode", leading=("--model",)
    )
    check_models(config.model)
    check_store(config.store, config.split)
    check_vocabulary(config.store, config.model)
    opening(config.model)
    from lmlab.data.store import TokenStore
    from lmlab.lm.language_model import open_model
    from lmlab.topics.encoding.of_model import encode

    result = encode(
        open_model(config.model, device=use_device(config.device), raw_head=config.head == "raw"),
        TokenStore(config.store),
        split=config.split,
        context=config.context,
        max_windows=config.windows,
        ridge=config.ridge,
        rotations=config.rotations,
    )
    show("encode", config, result)


def steer(arguments: Sequence[str]) -> None:
    from lmlab.topics.encoding.options import SteerConfig

    config = from_command_line(SteerConfig, arguments, program="lmlab steer", leading=("--model",))
    if config.out is not None:
        check_absent(config.out)
    check_models(config.model)
    check_store(config.store, "validation")
    check_store(config.other, "validation")
    for text in (config.store, config.other):
        check_vocabulary(text, config.model)
    if config.method != "bias":
        check_untie(
            config.model,
            untie=config.untie,
            why="An edit of it would change what the model reads, so it gets a head of its own",
        )
    opening(config.model)
    from lmlab.data.store import TokenStore
    from lmlab.lm.language_model import open_model
    from lmlab.topics.encoding.steering_effects import (
        parse_factors,
        steering_effects,
        write_steered,
    )

    lm = open_model(config.model, device=use_device(config.device))
    result = steering_effects(
        lm,
        TokenStore(config.store),
        parse_factors(lm, config.token),
        method=config.method,
        exact=config.exact,
        ridge=config.ridge,
        untie=config.untie,
        context=config.context,
        max_windows=config.windows,
        other=None if config.other is None else TokenStore(config.other),
    )
    if config.out is None:
        show("steer", config, result)
        return
    place = write_steered(lm, result, config.out, options=options_of(config))
    print_result(result, config.out)
    print(f"model: {place}")


def prune(arguments: Sequence[str]) -> None:
    from lmlab.topics.encoding.options import PruneConfig

    config = from_command_line(PruneConfig, arguments, program="lmlab prune", leading=("--model",))
    if config.share is not None and config.out is not None:
        check_absent(config.out)
    check_models(config.model)
    check_store(config.store, "validation")
    check_store(config.other, "validation")
    for text in (config.store, config.other):
        check_vocabulary(text, config.model)
    if config.share is not None:
        check_untie(
            config.model,
            untie=config.untie,
            why="That stays, so a smaller head is added to it, and the model gets larger",
        )
    opening(config.model)
    from lmlab.data.store import TokenStore
    from lmlab.lm.language_model import open_model
    from lmlab.topics.encoding.pruning_curves import check_can_write, prune, write_pruned

    lm = open_model(config.model, device=use_device(config.device))
    if config.share is not None:
        check_can_write(lm, config.share, way=config.way, untie=config.untie)
    result = prune(
        lm,
        TokenStore(config.store),
        shares=config.shares,
        share=config.share,
        way=config.way,
        untie=config.untie,
        replacement=config.replace,
        margin=config.margin,
        context=config.context,
        max_windows=config.windows,
        prompts=config.prompts,
        other=None if config.other is None else TokenStore(config.other),
    )
    if config.share is None or config.out is None:
        show("prune", config, result)
        return
    result = write_pruned(lm, result, config.out, options=options_of(config))
    print_result(result, config.out)
    print(f"model: {config.out}")


def dynamics(arguments: Sequence[str]) -> None:
    from lmlab.topics.encoding.options import DynamicsConfig

    config = from_command_line(
        DynamicsConfig, arguments, program="lmlab dynamics", leading=("--model",)
    )
    check_models(config.model, *config.more)
    check_store(config.store, "validation")
    check_vocabulary(config.store, config.model, *config.more)
    opening(config.model)
    from lmlab.data.store import TokenStore
    from lmlab.topics.encoding.dynamics import Watch, watch_run
    from lmlab.topics.encoding.tables import snapshot_row

    watch = Watch(
        TokenStore(config.store),
        context=config.context,
        max_windows=config.windows,
        device=use_device(config.device),
    )
    seen = (
        map(watch.look, [config.model, *config.more])
        if config.more
        else watch_run(Path(config.model), watch, follow=config.follow, pause=config.pause)
    )
    for snapshot in seen:
        print(snapshot_row(snapshot), flush=True)
    show("dynamics", config, watch.result(config.model))
