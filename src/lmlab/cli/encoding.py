"""Commands on how output embeddings hold token probability: those that write a model, or follow a
run.
"""

from __future__ import annotations

from pathlib import Path

from lmlab import face
from lmlab.cli.printing import keywords, options_of, print_result
from lmlab.data.store import TokenStore
from lmlab.topics.encoding.dynamics import Dynamics, Watch, watch_run
from lmlab.topics.encoding.options import DynamicsConfig, PruneConfig, SteerConfig
from lmlab.topics.encoding.pruning_curves import PruneResult, check_can_write, write_pruned
from lmlab.topics.encoding.steering_effects import SteeringResult, write_steered
from lmlab.topics.encoding.tables import snapshot_row
from lmlab.training.hardware import resolve_device


def steer(config: SteerConfig) -> SteeringResult | None:
    lm = face.load(config.model, device=config.device)
    options = keywords(config, "model", "token", "device")
    result = face.steer(lm, config.token, **options)
    if config.out is None:
        return result
    place = write_steered(lm, result, config.out, options=options_of(config))
    print_result(result, config.out)
    print(f"model: {place}")
    return None


def prune(config: PruneConfig) -> PruneResult | None:
    lm = face.load(config.model, device=config.device)
    if config.share is not None:
        check_can_write(lm, config.share, way=config.way, untie=config.untie)
    options = keywords(config, "model", "replace", "device")
    result = face.prune(lm, replacement=config.replace, **options)
    if config.share is None or config.out is None:
        return result
    result = write_pruned(lm, result, config.out, options=options_of(config))
    print_result(result, config.out)
    print(f"model: {config.out}")
    return None


def dynamics(config: DynamicsConfig) -> Dynamics:
    first = config.models[0]
    watch = Watch(
        TokenStore(config.store),
        context=config.context,
        max_windows=config.windows,
        device=resolve_device(config.device),
    )
    seen = (
        map(watch.look, config.models)
        if config.models != (first,)
        else watch_run(Path(first), watch, follow=config.follow, pause=config.pause)
    )
    for snapshot in seen:
        print(snapshot_row(snapshot), flush=True)
    return watch.result(first)
