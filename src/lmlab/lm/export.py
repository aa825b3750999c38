"""A model as a standard transformers folder, its output bias included.

Stock architectures load in any process and give lmlab's own logits (`lmlab.models.export`); Llama
with a bias and recurrent models load after `import lmlab.models`. The tokenizer goes with them, and
`lmlab.json`, so that lmlab still knows the order.
"""

from __future__ import annotations

from pathlib import Path

from lmlab.durable import StagedFolder, check_absent, to_json
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, plain_objective
from lmlab.models.export import without_own_bias
from lmlab.models.files import model_files


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
    stock = not model.config.model_type.startswith("lmlab_")
    record = {
        **lm.record,
        "objective": plain_objective(lm).record(),
        "head": "untied" if model is not lm.model else lm.head,
        "exported_from": lm.name,
        "loads_without_lmlab": stock,
    }
    with StagedFolder(out) as folder:
        files = {
            **model_files(model),
            **lm.tokenizer.files(),
            "lmlab.json": to_json(record).encode(),
        }
        for name, data in files.items():
            folder.write(name, data)
    return out
