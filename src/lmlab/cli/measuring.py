"""Commands that measure models and do more than one function of the face.

Each gets its options, and returns a result or prints what it found. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lmlab.cli.printing import folder_of, keywords, show, use_device, with_dashes
from lmlab.cli.refusals import check_models, opening
from lmlab.processes import is_first
from lmlab.topics.comparing.options import CompareConfig, parse_kinds
from lmlab.topics.decomposition.options import ApplyConfig, DecomposeConfig, EmbedConfig
from lmlab.topics.lineage.options import LineageConfig
from lmlab.topics.scoring.options import EvalConfig
from lmlab.topics.surprisal.options import SurprisalConfig
from lmlab.topics.surprisal.texts import STANDARD_INPUT

if TYPE_CHECKING:
    from lmlab.topics.babylm.model_score import SuiteScore
    from lmlab.topics.comparing.compare import ModelsCompared
    from lmlab.topics.decomposition.of_models import Embeddings
    from lmlab.topics.lineage.lineage import Lineage
    from lmlab.topics.scoring.zero_shot import Evaluation

_ROWS = 300
"""Most rows that are printed; more are in the files only."""


def compare(config: CompareConfig) -> ModelsCompared:
    from lmlab.face import compare as compare_models

    kinds = parse_kinds(config.kinds)
    opening(*(model for runs in kinds.values() for model in runs))
    return compare_models(kinds, **keywords(config, "kinds"))


def evaluate(config: EvalConfig) -> Evaluation | SuiteScore:
    from lmlab import face

    if config.suite is None:
        return face.evaluate(**keywords(config, "suite", "data", "fast"))
    asked = keywords(config, "tasks", "include", "limit", "head", "store", "suite")
    return face.evaluate_suite(**asked, out=folder_of("evaluate", config))


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
        path = mapping_file(out, label)
        save_mapping(path, fit, result.models, config.embedding, result.padded_to)
    print(f"weights: {out}")


def lineage(config: LineageConfig) -> Lineage:
    from lmlab.topics.lineage.lineage import lineage as measure

    return measure(config, device=use_device(config.device))


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


def surprisal(config: SurprisalConfig) -> None:
    """Prints the words with their surprisal, and writes them as csv too."""
    from lmlab import face
    from lmlab.durable import write_text
    from lmlab.topics.surprisal.report import csv_text
    from lmlab.topics.surprisal.texts import Text, texts_of_words

    texts: list[Text] = texts_of_words(config.text)
    if texts[0].id == STANDARD_INPUT:  # so that another text has another folder
        config = replace(config, text=(texts[0].text,))
    result = face.surprisal(texts=texts, **keywords(config, "text"))
    rows = sum(len(text.units) for text in result.texts)
    folder = show(
        "surprisal", config, result, text=with_dashes(result.summary()) if rows > _ROWS else ""
    )
    write_text(folder / "surprisal.csv", csv_text(result))
    print(f"table: {folder / 'surprisal.csv'}")
