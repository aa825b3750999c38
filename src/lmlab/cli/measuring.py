"""Commands that measure models and do more than one function of the face.

Each gets its options, and returns a result or prints what it found. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmlab.cli.printing import as_text, print_table, show, use_device, write_results
from lmlab.cli.refusals import check_models, opening
from lmlab.processes import is_first
from lmlab.topics.decomposition.options import ApplyConfig, DecomposeConfig, EmbedConfig
from lmlab.topics.scoring.options import EvalConfig

if TYPE_CHECKING:
    from lmlab.topics.decomposition.of_models import Embeddings


def evaluate(config: EvalConfig) -> None:
    from lmlab import face

    lm = face.load(
        config.model,
        device=config.device,
        objective=config.objective,
        head=config.head,
        store=config.store,
    )
    made = face.evaluate(
        lm, config.tasks, limit=config.limit, include=config.include, batch=config.batch
    )
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


def embed(config: EmbedConfig) -> Embeddings:
    from lmlab.topics.decomposition.of_models import embeddings

    return embeddings(config, device=use_device(config.device))


def decompose(config: DecomposeConfig) -> None:
    from lmlab.topics.decomposition.mapping import mapping_file, save_mapping
    from lmlab.topics.decomposition.of_models import decompose_models

    result, fits = decompose_models(config, device=use_device(config.device))
    out = show("decompose", config, result)
    for label, fit in fits.items() if is_first() else ():
        save_mapping(mapping_file(out, label), fit, result.models, config.embedding)
    print(f"weights: {out}")


def apply(config: ApplyConfig) -> None:
    from lmlab.topics.decomposition.mapping import apply_mapping, load_mapping

    models = load_mapping(config.weights).models.values()
    check_models(*models)
    opening(*models)
    from lmlab.durable import packed, sealed, write_bytes

    result, mapped_NU = apply_mapping(config, device=use_device(config.device))
    mapped = show("apply", config, result) / "mapped.safetensors"
    write_bytes(mapped, sealed(packed({"rows": mapped_NU})))
    print(f"mapped rows: {mapped}")
