"""lmlab: a laboratory for language models.

    store = lmlab.prepare("novels/", "lab/novels", vocabulary=4096)
    run = lmlab.train(store, steps=500)
    lm = run.model()                      # or lmlab.load("gpt2"): a run, a folder, a Hub name
    lmlab.geometry(lm, store).page()

`dir(lmlab)` lists all functions; each has its own help. `lmlab.functional` has those of arrays and
tensors, and `lmlab.extend` what objectives and analyses of your own are made of. Everything is
loaded when it is first used, so that `import lmlab` takes no time.

Notable: importing lmlab before torch limits how long OpenMP threads spin while they wait
(`GOMP_SPINCOUNT`, unless that or OMP_WAIT_POLICY is set already). The library's default is to spin
for milliseconds, which slows a training step several times wherever another process wants a core;
benchmarks/openmp_waiting.py measures it.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlab import extend, functional
    from lmlab.data.store import TokenStore
    from lmlab.errors import UserError
    from lmlab.face import (
        Run,
        arrow,
        bottleneck,
        compare,
        decompose,
        dynamics,
        embed,
        encoding,
        evaluate,
        evaluate_suite,
        export,
        finetune,
        geometry,
        lengthen,
        lineage,
        load,
        prefer,
        prepare,
        prune,
        publish,
        read,
        rerank,
        route,
        runs,
        sample,
        score,
        steer,
        study,
        surprisal,
        train,
        tune,
    )
    from lmlab.lm.language_model import LanguageModel
    from lmlab.results import Result

__all__ = [
    "LanguageModel",
    "Result",
    "Run",
    "TokenStore",
    "UserError",
    "arrow",
    "bottleneck",
    "compare",
    "decompose",
    "dynamics",
    "embed",
    "encoding",
    "evaluate",
    "evaluate_suite",
    "export",
    "extend",
    "finetune",
    "functional",
    "geometry",
    "lengthen",
    "lineage",
    "load",
    "prefer",
    "prepare",
    "prune",
    "publish",
    "read",
    "rerank",
    "route",
    "runs",
    "sample",
    "score",
    "steer",
    "study",
    "surprisal",
    "train",
    "tune",
]
_ELSEWHERE = {
    "Result": "lmlab.results",
    "LanguageModel": "lmlab.lm.language_model",
    "TokenStore": "lmlab.data.store",
    "UserError": "lmlab.errors",
}

__version__ = "0.1.0"

# Read by the OpenMP library when it is loaded, so it must stand here, before any import of torch
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def __getattr__(name: str) -> Any:
    """Loads what is public when it is first used (PEP 562)."""
    if name not in __all__:
        other = {"encode": "encoding"}.get(name)  # names of commands
        hint = f"; did you mean {other!r}?" if other else ""
        raise AttributeError(f"module 'lmlab' has no attribute {name!r}{hint}")
    if name in ("extend", "functional"):
        return importlib.import_module(f"lmlab.{name}")
    value = getattr(importlib.import_module(_ELSEWHERE.get(name, "lmlab.face")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
