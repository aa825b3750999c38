"""Names of models: a folder, a Hub name, or a revision of one, as ORGANISATION/MODEL@REVISION."""

from __future__ import annotations

from pathlib import Path


def where_from(name: str) -> dict[str, str]:
    """What `from_pretrained` of transformers is to be called with for a model's name."""
    place, at, revision = name.rpartition("@")
    if not at or Path(name).exists() or Path(place).exists():
        return {"pretrained_model_name_or_path": name}
    return {"pretrained_model_name_or_path": place, "revision": revision}
