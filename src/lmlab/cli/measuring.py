"""Commands that measure models and do more than one function of the face.

Each gets its options, and returns a result or prints what it found. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmlab.cli.printing import keywords, show, use_device
from lmlab.cli.refusals import check_models, opening
from lmlab.processes import is_first
from lmlab.topics.comparing.options import CompareConfig, parse_kinds
from lmlab.topics.decomposition.options import ApplyConfig, DecomposeConfig, EmbedConfig

if TYPE_CHECKING:
    from lmlab.topics.comparing.compare import ModelsCompared
    from lmlab.topics.decomposition.of_models import Embeddings


def compare(config: CompareConfig) -> ModelsCompared:
    from lmlab.face import compare as compare_models

    kinds = parse_kinds(config.kinds)
    opening(*(model for runs in kinds.values() for model in runs))
    return compare_models(kinds, **keywords(config, "kinds"))


def embed(config: EmbedConfig) -> Embeddings:
    from lmlab.topics.decomposition.of_models import embeddings
    from lmlab.training.hardware import resolve_device

    return embeddings(config, device=resolve_device(config.device))


def decompose(config: DecomposeConfig) -> None:
    from lmlab.topics.decomposition.mapping import mapping_file, save_mapping
    from lmlab.topics.decomposition.of_models import decompose_models
    from lmlab.training.hardware import resolve_device

    result, fits = decompose_models(config, device=resolve_device(config.device))
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
