"""lmlab's own classes: registered with transformers, and written out for whoever has no lmlab.

An exported model of such a class carries its code: the package's own files, flat, with their
imports among each other made relative, and `auto_map` in its config.json, which names the classes.
Who opens the folder with `trust_remote_code=True` runs that code; lmlab itself never does.

Notable: registering is done here, and so not by the files that are written: there `auto_map` names
the classes. With lmlab in the same process transformers takes lmlab's own, whatever is trusted.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib.metadata import version
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from lmlab.models.biased import BIASED
from lmlab.models.narrow import NARROW
from lmlab.models.recurrent import (
    RecurrentConfig,
    RecurrentForCausalLM,
    RecurrentForSequenceClassification,
    RecurrentModel,
)
from lmlab.models.towers import TowersModel, TowersModelConfig, TwoTower

_OWN: dict[Any, dict[Any, Any]] = {
    RecurrentConfig: {
        AutoModel: RecurrentModel,
        AutoModelForCausalLM: RecurrentForCausalLM,
        AutoModelForSequenceClassification: RecurrentForSequenceClassification,
    },
    TowersModelConfig: {
        AutoModel: TowersModel,
        AutoModelForCausalLM: TwoTower,
        AutoModelForMaskedLM: TwoTower,
    },
    **{
        config: {AutoModelForCausalLM: model}
        for config, model in (*BIASED.values(), *NARROW.values())
    },
}
"""The classes of each configuration of ours, by the Auto class that finds them."""

for _config, _models in _OWN.items():
    AutoConfig.register(_config.model_type, _config)
    for _auto, _model in _models.items():
        _auto.register(_config, _model)

_IMPORT = re.compile(r"^from (lmlab\.[\w.]+) import", re.MULTILINE)


def own_code(config: Any) -> tuple[dict[str, str], dict[str, bytes]]:
    """The `auto_map` of a configuration of ours, and the Python files that it names, by their
    names; both empty for a stock one."""
    if type(config) not in _OWN:
        return {}, {}
    models = {auto.__name__: model for auto, model in _OWN[type(config)].items()}
    classes = {"AutoConfig": type(config), **models}
    auto_map = {name: f"{_flat(c.__module__)}.{c.__name__}" for name, c in classes.items()}
    files: dict[str, bytes] = {}
    waiting = {c.__module__ for c in classes.values()}
    while waiting:
        module = waiting.pop()
        source = inspect.getsource(sys.modules[module])
        waiting |= {name for name in _IMPORT.findall(source) if f"{_flat(name)}.py" not in files}
        flat = _IMPORT.sub(lambda found: f"from .{_flat(found[1])} import", source)
        head = f"# {module} of lmlab {version('lmlab')}, as `lmlab export` wrote it.\n"
        files[f"{_flat(module)}.py"] = (head + flat).encode()
    return auto_map, files


def _flat(module: str) -> str:
    return module.replace(".", "_")
