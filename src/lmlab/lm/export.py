"""A model as a standard transformers folder, its output bias included.

Stock architectures load in any process and give lmlab's own logits (`lmlab.models.export`). Classes
of our own (recurrent models, towers, narrow heads, Llama with a bias) load after `import
lmlab.models`, or by the code that goes with them where that is trusted (`lmlab.models.own_code`).
The tokenizer goes with them and adds what training puts around a text; so do a model card
(`lmlab.lm.card`) and `lmlab.json`, by which lmlab still knows the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmlab.durable import StagedFolder, check_absent, to_json
from lmlab.errors import UserError
from lmlab.lm.card import Scores, model_card, reads_otherwise
from lmlab.lm.language_model import LanguageModel, plain_objective
from lmlab.models.export import without_own_bias
from lmlab.models.files import model_files
from lmlab.models.own_code import own_code
from lmlab.progress import say


def export_model(
    lm: LanguageModel, out: Path, *, scores: Sequence[Scores] = (), published_as: str | None = None
) -> Path:
    """Writes the folder `out`, complete or not at all, and returns it; its model card has `scores`,
    and loads it by `published_as`, its name on the Hub (REPOSITORY or REPOSITORY@REVISION).

    Raises `UserError` if `out` exists, for a model from elsewhere, one tower of two, an objective
    whose distribution is not that of the model's logits, and as `models.export.without_own_bias`.
    """
    check_absent(out)
    if not lm.record:
        raise UserError(f"{lm.name} is not a model of lmlab; it needs no export")
    if getattr(lm.model, "view", None) is not None:
        raise UserError(
            f"{lm.name}: a tower is exported with the other one; give {lm.name[:-2]}, "
            f"whose towers are then {out}@1 and {out}@2"
        )
    if not lm.objective.criterion.scores_own_logits:
        raise UserError(
            f"{lm.name} was trained with a cosine or a temperature, which transformers' "
            "models do not have"
        )
    model = without_own_bias(lm.model)
    published: dict[str, Any] = {"published_as": published_as} if published_as else {}
    write_model(
        lm, model, out,
        scores=scores,
        head="untied" if model is not lm.model else lm.head,
        exported_from=lm.name,
        loads_without_lmlab=not model.config.model_type.startswith("lmlab_"),
        **published,
    )  # fmt: skip
    return out


def write_model(
    lm: LanguageModel,
    model: Any,
    out: Path,
    *,
    texts: Mapping[str, str] | None = None,
    scores: Sequence[Scores] = (),
    **record: Any,
) -> None:
    """Writes `model`, which was made of `lm`, as the folder `out`, complete or not at all.

    `record` is what its lmlab.json says otherwise than that of `lm`, if that has one; `texts` are
    further files. A model of lmlab gets a model card, and the code of its class if that is ours.

    Raises `UserError` if `out` exists.
    """
    check_absent(out)
    if lm.record:
        auto_map, code = own_code(model.config)
        surround = lm.objective.reading.surround(model.config, lm.context)
        of_model = {**lm.record, "objective": plain_objective(lm).record(), **record}
        name = record.get("published_as", out.name)
        card = model_card(lm, model, name, record=of_model, own_code=bool(code), scores=scores)
        files = {
            **model_files(model, reads=reads_otherwise(lm), auto_map=auto_map),
            **lm.tokenizer.files(surround),
            **code,
            "lmlab.json": to_json(of_model).encode(),
            "README.md": card.encode(),
        }
    else:
        files = {**model_files(model), **lm.tokenizer.files()}
    say(f"writing {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with StagedFolder(out) as folder:
        for name, data in files.items():
            folder.write(name, data)
        for name, text in (texts or {}).items():
            folder.write(name, text.encode())
