"""lm-eval's tasks on any model: an lm-eval model over lmlab's own scoring, and what it found.

`HarnessModel` can also be handed to lm-eval's own functions:
`simple_evaluate(HarnessModel(model))`.

Notable:
- Log-likelihoods are those of `lm.likelihood`, so the conventions of docs/evaluation.md
  hold: backward models give differences of joints, masked models pseudo-log-likelihoods.
- A backward model has no greedy continuation. lm-eval wants a flag, which is then False, and what
  it makes of it (the accuracy of a task of plain log-likelihoods) is left out of the result.
- Standard errors are lm-eval's. Those that it bootstraps take 1000 resamples here, not 100,000:
  such a standard error is itself good to about 2 %.
- lm-eval's tasks may draw from the global generators of `random` and NumPy. They are seeded as
  lm-eval does and put back.
"""

from __future__ import annotations

import difflib
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.errors import UserError, install_extra
from lmlab.lm.language_model import LanguageModel
from lmlab.lm.likelihood import (
    Likelihoods,
    Request,
    likelihood_method,
    log_likelihoods,
    reading_notes,
    rolling_log_likelihoods,
)
from lmlab.lm.sampling import check_continues, continuations
from lmlab.progress import say
from lmlab.topics.scoring.zero_shot import Estimate, Metrics, Scale, TaskScore

try:
    from lm_eval.api.model import LM
    from lm_eval.defaults import (
        DEFAULT_MAX_GEN_TOKS,
        DEFAULT_OTHER_SEED,
        DEFAULT_RANDOM_SEED,
    )
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise UserError(
        f"tasks of lm-eval need lmlab's extra 'eval' ({error}): {install_extra('eval')}. "
        "lmlab's own tasks need nothing more; name them KIND=SOURCE"
    ) from error

_VERSION = version("lm_eval")
_RESAMPLES = 1000
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_GREEDY = {"loglikelihood": {"acc"}, "multiple_choice": {"exact_match"}}
"""Metrics that lm-eval makes of the greedy flag, by what a task asks for."""


class HarnessModel(LM):
    """A model as lm-eval's model. `truncated` counts the requests cut to fit, `texts` are those
    that were read, by task."""

    def __init__(self, lm: LanguageModel, *, batch: int | None = None) -> None:
        super().__init__()
        self.lm, self.batch = lm, batch
        self.truncated: Counter[str] = Counter()
        self.texts: defaultdict[str, list[str]] = defaultdict(list)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one."""
        asked = [Request(*r.args, where=f"{r.task_name}, document {r.doc_id}") for r in requests]
        found = log_likelihoods(self.lm, asked, greedy=True, batch=self.batch)
        self._count(requests, found)
        for request, one in zip(requests, asked, strict=True):
            self.texts[request.task_name].append(one.context + one.continuation)
        greedy_N = np.zeros(len(asked), dtype=bool) if found.greedy_N is None else found.greedy_N
        return list(zip(found.nats_N.tolist(), greedy_N.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of each text, read in windows."""
        texts = [r.args[0] for r in requests]
        for request, text in zip(requests, texts, strict=True):
            self.texts[request.task_name].append(text)
        return rolling_log_likelihoods(self.lm, texts, batch=self.batch).nats_N.tolist()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the model writes after each context, up to the task's stops."""
        written = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for n, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(n)
        for rows in groups.values():
            request = requests[rows[0]]
            self.texts[request.task_name] += [requests[n].args[0] for n in rows]
            texts = continuations(
                self.lm,
                [requests[n].args[0] for n in rows],
                **_how_to_write(request.args[1], request.task_name),
            )
            for n, text in zip(rows, texts, strict=True):
                written[n] = text
        return written

    def _count(self, requests: Sequence[Any], found: Likelihoods) -> None:
        for n in np.flatnonzero(found.truncated_N).tolist():
            self.truncated[requests[n].task_name] += 1


def _how_to_write(asked: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Arguments of `continuations` from a task's `generation_kwargs`."""
    asked = dict(asked)
    stop = asked.pop("until", None) or []
    lengths = [asked.pop(name) for name in _LENGTHS if name in asked]
    temperature = float(asked.pop("temperature", 0.0) or 0.0)
    draws = asked.pop("do_sample", None)
    if draws and not temperature:
        temperature = 1.0
    made = {
        "tokens": int(lengths[0]) if lengths else DEFAULT_MAX_GEN_TOKS,
        "stop": [s for s in ([stop] if isinstance(stop, str) else stop) if s],
        "temperature": temperature if draws is not False else 0.0,
        "top_k": asked.pop("top_k", None),
    }
    beyond = {k: v for k, v in asked.items() if not (k in ("top_p", "num_beams") and v == 1)}
    if beyond:
        raise UserError(
            f"task '{task}' generates with {', '.join(beyond)}, which lmlab does not do; it takes "
            f"until, do_sample, temperature, top_k and {_LENGTHS[0]}"
        )
    return made


def harness(
    lm: LanguageModel,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    limit: int | None = None,
    batch: int | None = None,
) -> list[TaskScore]:
    """lm-eval's tasks, groups and tags, and those of YAML files in the folder `include`.

    `limit` asks the first items of each task, as lm-eval's own limit does. A group has the figures
    of its tasks under the part "task".

    Raises `UserError` for a name that is not known, a task that cannot be loaded (its data are on
    the Hub), and for one that the model cannot do.
    """
    if limit is not None and limit < 1:
        raise UserError(f"`limit` {limit} must be at least 1")
    with _as_lm_eval_is_run():
        loaded = _load(tasks, include)
        for name, task in loaded["tasks"].items():
            if task.OUTPUT_TYPE == "generate_until":
                check_continues(lm)
            if getattr(task, "UNSAFE_CODE", False):
                raise UserError(f"task '{name}' runs code that models write; lmlab does not")
            if getattr(task, "MULTIMODAL", False):
                raise UserError(f"task '{name}' shows images; lmlab's models read text only")
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        model = HarnessModel(lm, batch=batch)
        found = evaluate(model, loaded, limit=limit, bootstrap_iters=_RESAMPLES, log_samples=False)
        return _results(lm, model, loaded, found)


def _load(names: Sequence[str], include: Path | None) -> Any:
    if include is not None:
        if not include.is_dir():
            raise UserError(f"`include` {include}: no such folder")
        # lm-eval's own list of tasks takes seconds to read
        local = TaskManager(include_path=str(include), include_defaults=False)
        if all(name in local.task_index for name in names):
            return _loaded(local, names)
    say("reading lm-eval's list of tasks")
    manager = TaskManager(include_path=None if include is None else str(include))
    for name in names:
        if name not in manager.task_index:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UserError(
                f"task '{name}': lm-eval {version('lm_eval')} has none of this name{hint}. Your "
                "own are found with `include` FOLDER; lmlab's are named KIND=SOURCE"
            )
    return _loaded(manager, names)


def _loaded(manager: Any, names: Sequence[str]) -> Any:
    try:
        return manager.load(list(names))
    except Exception as error:  # whatever a task's own code, its YAML or its data give
        raise UserError(
            f"lm-eval cannot load {', '.join(names)}: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _as_lm_eval_is_run() -> Iterator[None]:
    """Global generators seeded as lm-eval does, and put back; bootstrap in this process, since
    forking one with a model in it is asking for trouble; what lm-eval prints goes to stderr."""
    before, numpy_before = random.getstate(), np.random.get_state()
    variable = "DISABLE_MULTIPROC"
    value = os.environ.get(variable)
    os.environ[variable] = "1"
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)
        if value is None:
            del os.environ[variable]
        else:
            os.environ[variable] = value


def _results(lm: LanguageModel, model: HarnessModel, loaded: Any, found: Any) -> list[TaskScore]:
    groups, tasks = loaded.get("groups", {}), loaded["tasks"]
    leaves = {name: [t.task_name for t in group.get_all_tasks()] for name, group in groups.items()}
    inner = {child for group in groups.values() for child in group.child_names}
    inner |= {name for of_group in leaves.values() for name in of_group}
    made: list[TaskScore] = []
    for name in [*groups, *tasks]:
        if name in inner:
            continue
        members = leaves.get(name, [name])
        asked = {member: found["n-samples"][member] for member in members}
        unknown: set[str] = set()
        if lm.order == "backward":
            unknown = set().union(*(_GREEDY.get(tasks[m].OUTPUT_TYPE, set()) for m in members))
        metrics = {
            each: _metrics(found["results"][each], unknown, items)
            for each, items in [
                (name, sum(a["effective"] for a in asked.values())),
                *((m, a["effective"]) for m, a in asked.items()),
            ]
        }
        notes: list[str] = []
        if any(f"{u},none" in found["results"][m] for m in members for u in unknown):
            notes.append("a backward model has no greedy continuation: no accuracy of it")
        if likelihood_method(lm) == "pseudo-log-likelihood":
            notes.append("pseudo-log-likelihoods: not comparable with those of causal models")
        shots = sorted({found["n-shot"][m] for m in members})
        made.append(
            TaskScore(
                task=name,
                source=f"lm-eval {version('lm_eval')}, version {found['versions'].get(name)}, "
                f"{' or '.join(map(str, shots))}-shot",
                available=sum(a["original"] for a in asked.values()),
                metrics=metrics[name],
                parts={"task": {m: metrics[m] for m in members}} if name in groups else {},
                method=likelihood_method(lm),
                truncated=sum(model.truncated[m] for m in members),
                notes=(
                    *notes,
                    *reading_notes(lm, [t for m in members for t in model.texts[m]]),
                ),
            )
        )
    return made


def _metrics(values: Mapping[str, Any], unknown: set[str], items: int) -> Metrics:
    """Estimates from lm-eval's "metric,filter" and "metric_stderr,filter"."""
    made: dict[str, Estimate] = {}
    for key, value in values.items():
        metric, comma, selection = key.partition(",")
        number = isinstance(value, int | float)
        if not comma or metric.endswith("_stderr") or metric in unknown or not number:
            continue
        error = values.get(f"{metric}_stderr,{selection}")
        name = metric if selection == "none" else f"{metric} ({selection})"
        made[name] = Estimate(
            float(value),
            float(error) if isinstance(error, int | float) else None,
            items,
            scale=_scale(metric),
        )
    return made


def _scale(metric: str) -> Scale:
    if metric.startswith(("acc", "exact_match")):
        return "share"
    return "positive" if metric.endswith("perplexity") else "any"
