"""Names of models: a folder, a .gguf file, a Hub name, or a revision of one, as
ORGANISATION/MODEL@REVISION.

Notable: the Hub is asked only for what can be a name of its. A path that is not here is none, and
asking costs a user half a minute of retries without a network.
"""

from __future__ import annotations

import difflib
import re
from importlib.util import find_spec
from pathlib import Path

from lmlab.errors import UserError, install_extra

_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".json", ".jsonl", ".toml", ".txt",
    ".parquet", ".zip",
}  # fmt: skip
_NOTHING = "neither a run, a checkpoint, nor a transformers model"


def where_from(name: str) -> dict[str, str]:
    """What `from_pretrained` of transformers is to be called with for a model's name.

    Raises `UserError` for what is neither here nor a name of the Hub, and for a .gguf file where
    the package that reads it is missing.
    """
    if is_gguf(name):
        if find_spec("gguf") is None:
            raise UserError(f"{name}: .gguf files need an extra: {install_extra('gguf')}")
        file = Path(name)
        return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    place, at, revision = name.rpartition("@")
    if not at or Path(name).exists() or Path(place).exists():
        check_name(name)
        return {"pretrained_model_name_or_path": name}
    check_name(place)
    return {"pretrained_model_name_or_path": place, "revision": revision}


def is_gguf(name: str) -> bool:
    """Whether it is a file of weights, tokenizer and configuration together, as llama.cpp reads
    them. transformers makes float weights of quantized ones, and knows which architectures it
    can."""
    return Path(name).suffix.lower() == ".gguf" and Path(name).is_file()


def check_name(name: str) -> None:
    """`UserError` for a path that is not here and cannot be a name of the Hub."""
    path = Path(name)
    here = path.parent.is_dir() and path.parent != Path()
    if path.exists() or (_NAME.fullmatch(name) and path.suffix not in _SUFFIXES and not here):
        return
    inside = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, inside, n=1)
    raise UserError(
        f"{name}: {_NOTHING}: there is no such place here, and it is no name of the Hub "
        "(NAME or OWNER/NAME)" + (f"; did you mean {path.with_name(near[0])}?" if near else "")
    )


def check_folder(name: str, path: Path) -> None:
    """`UserError` for a folder without a model, that says what it is."""
    if (path / "config.json").is_file():
        return
    runs = sorted(file.parent.name for file in path.glob("*/config.toml"))
    if (path / "manifest.json").is_file() and (path / "tokenizer").is_dir():
        why = "it is a token store, which is given as `store`"
    elif runs:
        why = f"it is a folder of runs; name one: {', '.join(runs[:5])}"
    elif (path / "config.toml").is_file():
        why = "it is a run without a checkpoint yet; the same `lmlab train` goes on with it"
    elif (path / "results.json").is_file():
        why = "it is the folder of a result"
    else:
        why = "it has no config.json" if any(path.iterdir()) else "it is an empty folder"
    raise UserError(f"{name}: {_NOTHING}: {why}")
