"""Commands that measure models.

Each parses its options, calls one function and prints what it returns. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.cli.printing import (
    as_text,
    print_table,
    show,
    store_of_head,
    use_device,
    write_results,
)
from lmlab.cli.refusals import check_models, check_store, check_vocabulary, opening
from lmlab.config import from_command_line
from lmlab.errors import UserError
from lmlab.processes import is_first
from lmlab.topics.arrow.options import ArrowPairConfig
from lmlab.topics.geometry.options import GeometryConfig
from lmlab.topics.scoring.options import ScoreConfig


def score(arguments: Sequence[str]) -> None:
    config = from_command_line(ScoreConfig, arguments, program="lmlab score")
    check_models(config.model)
    check_store(config.store, config.split)
    check_vocabulary(config.store, config.model)
    opening(config.model)
    from lmlab.data.store import TokenStore
    from lmlab.lm.calibrated_head import open_with_head
    from lmlab.topics.scoring.score import score

    store = TokenStore(config.store)
    lm = open_with_head(
        config.model,
        config.head,
        store=store,
        held_out="test" if config.split == "validation" else "validation",
        device=use_device(config.device),
        objective=config.objective,
    )
    result = score(
        lm,
        store,
        split=config.split,
        context=config.context,
        batch=config.batch,
        max_windows=config.windows,
    )
    show("score", config, result)


def geometry(arguments: Sequence[str]) -> None:
    config = from_command_line(
        GeometryConfig, arguments, program="lmlab geometry", leading=("--model",)
    )
    check_models(config.model)
    check_store(config.store, config.split)
    check_vocabulary(config.store, config.model)
    opening(config.model)
    from lmlab.data.store import TokenStore
    from lmlab.lm.language_model import open_model
    from lmlab.topics.geometry.geometry import geometry

    result = geometry(
        open_model(config.model, device=use_device(config.device)),
        TokenStore(config.store),
        split=config.split,
        context=config.context,
        max_windows=config.windows,
    )
    show("geometry", config, result)


def evaluate(arguments: Sequence[str]) -> None:
    from lmlab.topics.scoring.options import EvalConfig

    config = from_command_line(EvalConfig, arguments, program="lmlab eval", leading=("--model",))
    store = store_of_head(config.head, config.store)
    check_models(config.model)
    check_store(config.store, "validation")
    check_vocabulary(config.store, config.model)
    from lmlab.data.tasks import read_tasks

    own = [task for task in config.tasks if "=" in task]
    names = [task for task in config.tasks if "=" not in task]
    if config.include is not None and not names:
        raise UserError("--include is where lm-eval tasks are looked for; name one of them")
    tasks = read_tasks(own, limit=config.limit) if own or not names else []
    if names:
        import lmlab.integrations.lm_eval  # noqa: F401 - before the model: the extra may be missing
    opening(config.model)
    from lmlab.lm.calibrated_head import open_with_head
    from lmlab.topics.scoring.zero_shot import zero_shot

    lm = open_with_head(
        config.model,
        config.head,
        store=store,
        device=use_device(config.device),
        objective=config.objective,
    )
    made = [zero_shot(lm, task, batch=config.batch) for task in tasks]
    if names:
        from lmlab.integrations.lm_eval import harness

        include, limit = config.include, config.limit
        made += harness(lm, names, include=include, limit=limit, batch=config.batch)
    values = {
        "model": lm.name,
        "order": lm.order,
        "head": lm.head,
        "tasks": [one.to_json() for one in made],
    }
    write_results("eval", config, values)
    print_table(
        ["task", "part", "metric", "", "95 % interval", "items", "sets"],
        [
            [
                one.task,
                part,
                name,
                as_text(e.value),
                "–" if e.interval is None else "[{}, {}]".format(*map(as_text, e.interval)),
                as_text(e.items),
                "" if e.sets is None else as_text(e.sets),
            ]
            for one in made
            for part, name, e in one.rows()
        ],
    )
    for one in made:
        for note in one.notes:
            print(f"{one.task}: {note}")
        if one.truncated:
            print(f"{one.task}: {one.truncated:,} contexts were cut to fit the model")


def arrow(arguments: Sequence[str]) -> None:
    config = from_command_line(
        ArrowPairConfig, arguments, program="lmlab arrow", leading=("--forward", "--backward")
    )
    check_models(config.forward, config.backward)
    check_store(config.store, config.split)
    check_vocabulary(config.store, config.forward, config.backward)
    opening(config.forward, config.backward)
    from lmlab.data.store import TokenStore
    from lmlab.lm.language_model import open_model
    from lmlab.topics.arrow.between_models import arrow_of_models

    device = use_device(config.device)
    result = arrow_of_models(
        open_model(config.forward, device=device),
        open_model(config.backward, device=device),
        TokenStore(config.store),
        split=config.split,
        context=config.context,
        max_windows=config.windows,
    )
    show("arrow", config, result)


def embed(arguments: Sequence[str]) -> None:
    from lmlab.topics.decomposition.options import EmbedConfig

    config = from_command_line(EmbedConfig, arguments, program="lmlab embed")
    check_models(*config.models)
    check_store(config.store, config.split)
    opening(*config.models)
    from lmlab.topics.decomposition.of_models import embeddings

    show("embed", config, embeddings(config, device=use_device(config.device)))


def decompose(arguments: Sequence[str]) -> None:
    from lmlab.topics.decomposition.options import DecomposeConfig

    config = from_command_line(
        DecomposeConfig, arguments, program="lmlab decompose", leading=("--target",)
    )
    check_models(*config.names)
    check_store(config.store, "train", "validation", "test")
    opening(*config.names)
    from lmlab.topics.decomposition.mapping import mapping_file, save_mapping
    from lmlab.topics.decomposition.of_models import decompose_models

    result, fits = decompose_models(config, device=use_device(config.device))
    out = show("decompose", config, result)
    for label, fit in fits.items() if is_first() else ():
        save_mapping(mapping_file(out, label), fit, result.models, config.embedding)
    print(f"weights: {out}")


def apply(arguments: Sequence[str]) -> None:
    from lmlab.topics.decomposition.options import ApplyConfig

    config = from_command_line(
        ApplyConfig, arguments, program="lmlab apply", leading=("--weights",)
    )
    check_store(config.store, config.split)
    from lmlab.topics.decomposition.mapping import load_mapping

    models = load_mapping(config.weights).models.values()
    check_models(*models)
    opening(*models)
    from lmlab.durable import packed, sealed, write_bytes
    from lmlab.topics.decomposition.applying import apply_mapping

    result, mapped_NU = apply_mapping(config, device=use_device(config.device))
    mapped = show("apply", config, result) / "mapped.safetensors"
    write_bytes(mapped, sealed(packed({"rows": mapped_NU})))
    print(f"mapped rows: {mapped}")


def prefer(arguments: Sequence[str]) -> None:
    from lmlab.topics.towers.options import PreferConfig

    config = from_command_line(PreferConfig, arguments, program="lmlab prefer", leading=("--run",))
    check_models(config.run)
    check_store(config.store, config.split)
    check_vocabulary(config.store, config.run)
    opening(config.run)
    from lmlab.data.store import TokenStore
    from lmlab.lm.language_model import open_model
    from lmlab.topics.towers.preference import Vocabulary, preference
    from lmlab.topics.towers.preference_sums import preference_sums
    from lmlab.topics.towers.tables import preference_tables

    store = TokenStore(config.store)
    sums = preference_sums(
        open_model(config.run, device=use_device(config.device)),
        store,
        split=config.split,
        held_out="test" if config.split == "validation" else "validation",
        context=config.context,
        max_windows=config.windows,
    )
    values = preference(sums, Vocabulary.of(store), seed=config.seed).to_json()
    out = write_results("prefer", config, values)
    if is_first():
        sums.save(out / "sums.safetensors")
    for table in preference_tables(values):
        print(f"\n{table.caption}")
        print_table(table.columns, [[as_text(value) for value in row] for row in table.rows])
