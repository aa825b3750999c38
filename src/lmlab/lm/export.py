"""A model as a standard transformers folder, its output bias included.

Stock architectures load in any process and give lmlab's own logits (`lmlab.models.export`); Llama
with a bias and recurrent models load after `import lmlab.models`. The tokenizer goes with them, and
`lmlab.json`, so that lmlab still knows the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmlab.durable import StagedFolder, check_absent, to_json
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, plain_objective
from lmlab.models.export import without_own_bias
from lmlab.models.files import model_files
from lmlab.progress import say


def export_model(lm: LanguageModel, out: Path) -> Path:
    """Writes the folder `out`, complete or not at all, and returns it.

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
    write_model(
        lm, model, out,
        head="untied" if model is not lm.model else lm.head,
        exported_from=lm.name,
        loads_without_lmlab=not model.config.model_type.startswith("lmlab_"),
    )  # fmt: skip
    return out


def write_model(
    lm: LanguageModel,
    model: Any,
    out: Path,
    *,
    texts: Mapping[str, str] | None = None,
    **record: Any,
) -> None:
    """Writes `model`, which was made of `lm`, as the folder `out`, complete or not at all.

    `record` is what its lmlab.json says otherwise than that of `lm`, if that has one; `texts` are
    further files. Raises `UserError` if `out` exists.
    """
    check_absent(out)
    surround = None
    if lm.record:
        surround = lm.objective.reading.surround(model.config, lm.context)
    files = {**model_files(model), **lm.tokenizer.files(surround)}
    if lm.record:
        of_model = {**lm.record, "objective": plain_objective(lm).record(), **record}
        files["lmlab.json"] = to_json(of_model).encode()
    say(f"writing {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with StagedFolder(out) as folder:
        for name, data in files.items():
            folder.write(name, data)
        for name, text in (texts or {}).items():
            folder.write(name, text.encode())
