"""What commands refuse before torch is loaded and a model or a text is read. Imports no torch.

Notable: a refusal here is only earlier than that of what opens the model or the store, which checks
again; what cannot be told without opening a model is left to that.
"""

from __future__ import annotations

import re
from pathlib import Path

from lmlab.data.store import TokenStore
from lmlab.errors import UserError

_HUB = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")


def check_models(*names: str) -> None:
    """`UserError` for a name that is neither a place here nor written as one of the Hub."""
    for name in names:
        path = Path(name)
        of_tower = path.with_name(re.sub("@[12]$", "", path.name) or path.name)
        if not (path.exists() or of_tower.exists() or _HUB.fullmatch(name)):
            raise UserError(
                f"{name}: neither a run, a checkpoint, nor a transformers model here, and no name "
                "of the Hub (NAME or OWNER/NAME)"
            )


def check_store(path: Path | None, *splits: str) -> None:
    """`UserError` where there is no store at `path` (None: none is asked for), or none of its
    `splits`."""
    if path is None:
        return
    store = TokenStore(path)
    for split in splits:
        store.split(split)
