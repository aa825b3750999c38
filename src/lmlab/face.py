"""The public functions: what a notebook calls. Commands of the same names measure the same.

`import lmlab` shows all of them (`lmlab.__init__` loads this module when one is first used).

Notable:
- A model may be given as a `LanguageModel`, a `Run`, a path or a Hub name; a store as a
  `TokenStore` or a path.
- Options of `prepare`, `train` and `study` are the fields of their configurations. A nested one is
  given by its own name where that is clear (`vocabulary=4096`, `learning_rate=1e-3`), else with its
  section before it (`tokenizer_name="gpt2"`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from lmlab.config import from_keywords
from lmlab.errors import UserError
from lmlab.topics.encoding.options import PruneConfig

if TYPE_CHECKING:
    import pandas as pd

    from lmlab.config.training import TrainConfig
    from lmlab.data.store import TokenStore
    from lmlab.lm.card import Scores
    from lmlab.lm.language_model import LanguageModel
    from lmlab.lm.publish import Publication
    from lmlab.lm.sampling import Samples
    from lmlab.results import Result
    from lmlab.topics.arrow.between_models import ModelsArrow
    from lmlab.topics.babylm.model_score import SuiteScore
    from lmlab.topics.bottleneck.bottleneck import Bottleneck
    from lmlab.topics.comparing.compare import ModelsCompared
    from lmlab.topics.decomposition.of_models import Embeddings, ModelsDecomposition
    from lmlab.topics.encoding.dynamics import Dynamics
    from lmlab.topics.encoding.of_model import EncodingResult
    from lmlab.topics.encoding.pruning_curves import PruneResult
    from lmlab.topics.encoding.steering_effects import SteeringResult
    from lmlab.topics.finetuning.metrics import Finetuning
    from lmlab.topics.geometry.geometry import Geometry
    from lmlab.topics.lineage.lineage import Lineage
    from lmlab.topics.reranking.reranking import Reranking
    from lmlab.topics.routing.routing import Routing
    from lmlab.topics.runs.training_run import TrainingRun
    from lmlab.topics.scoring.score import Score
    from lmlab.topics.scoring.zero_shot import Evaluation
    from lmlab.topics.surprisal.surprisal import Surprisal
    from lmlab.topics.surprisal.texts import Text
    from lmlab.topics.towers.of_model import ModelPreference
    from lmlab.topics.tuning.tuning import Tuning

    AnyModel: TypeAlias = "LanguageModel | Run | str | Path"
    AnyStore: TypeAlias = "TokenStore | str | Path"
    Device: TypeAlias = Literal["auto", "cpu", "cuda"]
    Head: TypeAlias = Literal["own", "raw", "calibrated"]
    Objective: TypeAlias = Literal["auto", "causal", "masked"]


@dataclass(frozen=True)
class Run:
    """A training run: its folder, what was asked for, how it went, and its model."""

    path: Path
    """Its folder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not (self.path / "config.toml").is_file():
            raise UserError(
                f"{self.path}: no run; `lmlab.train` makes one, `lmlab.runs` lists them"
            )

    @cached_property
    def config(self) -> TrainConfig:
        """The resolved configuration that is stored with the run."""
        from lmlab.run_folders.rundir import stored_config

        return stored_config(self.path)

    @property
    def journal(self) -> pd.DataFrame:
        """A row for each logged step: tokens, loss (nats per token), gradient norm, and so on."""
        import pandas as pd

        from lmlab.run_folders.journal import read_journal

        return pd.DataFrame(read_journal(self.path / "journal.jsonl"))

    def course(self) -> TrainingRun:
        """How it went, or goes so far: curve, validations, speed, settings; with its page."""
        from lmlab.topics.runs.training_run import read_run

        return read_run(self.path)

    def model(self, *, device: Device = "auto") -> LanguageModel:
        """The model of the newest checkpoint, ready to analyse."""
        return load(self.path, device=device)


def prepare(text: str | Path | Sequence[str | Path], out: str | Path, **options: Any) -> TokenStore:
    """Prepares text as a token store, or opens the one that was made of the same text.

    Args:
        text: files, folders or globs; a Hub data set; or "docstrings", the default corpus.
        out: folder of the store.
        **options: fields of `CorpusConfig`, `TokenizerConfig` and `SplitConfig`, such as
            `vocabulary=4096`, `kind="bytes"`, `test_documents=5`.

    Raises `UserError` for text that cannot be read, too few documents, or an unknown option.

    >>> store = lmlab.prepare("novels", "lab/novels", vocabulary=300)
    >>> store.vocabulary
    300
    """
    from lmlab.data.prepare import PrepareConfig
    from lmlab.data.prepare import prepare as prepare_store

    texts = [text] if isinstance(text, str | Path) else list(text)
    asked = {"out": Path(out), "text": [str(each) for each in texts], **options}
    return prepare_store(from_keywords(PrepareConfig, asked, where="prepare"))


def train(store: AnyStore, **options: Any) -> Run:
    """Trains a model on a store; the same call goes on with a run that was stopped, or returns it.

    Args:
        store: a token store.
        **options: fields of `TrackedTrainConfig`, such as `steps=500`, `order="backward"`,
            `objective="headless"`, `architecture="llama"`, `layers=4`, `learning_rate=1e-3`,
            `out="lab/runs/mine"`.

    Raises `UserError` for options that do not go together, or are unknown.

    >>> tiny = dict(steps=4, every=2, layers=1, heads=1, width=16, context=16, batch=4)
    >>> run = lmlab.train(store, **tiny, out="lab/forward")
    >>> backward = lmlab.train(store, **tiny, order="backward", out="lab/backward")
    >>> list(run.journal.step)[-1]
    4
    """
    from lmlab.config.tracked import TrackedTrainConfig
    from lmlab.integrations.trackers import train_tracked

    asked = {"store": _store(store).path, **options}
    return Run(train_tracked(from_keywords(TrackedTrainConfig, asked, where="train")).path)


def lengthen(
    run: Run | str | Path,
    *,
    steps: int | None = None,
    tokens: int | None = None,
    out: str | Path | None = None,
) -> Run:
    """Goes on with a finished run, as a new run of so many steps (or tokens) together.

    A constant learning rate goes on; wsd goes on from the last checkpoint before its decay; one
    that has come down (cosine, linear) is warmed up again. What it does is said.

    Args:
        out: its folder (default: beside the finished run).

    Raises `UserError` for a run that is not finished, or a length that is not larger.

    >>> longer = lmlab.lengthen(run, steps=6, out="lab/forward-6")
    >>> list(longer.journal.step)
    [1, 2, 3, 4, 5, 6]
    """
    from lmlab.config.lengthen import LengthenConfig
    from lmlab.training.lengthen import longer_run
    from lmlab.training.loop import train as train_run

    path = run.path if isinstance(run, Run) else Path(run)
    place = None if out is None else Path(out)
    asked = LengthenConfig(path, steps=steps, tokens=tokens, out=place)
    return Run(train_run(longer_run(asked)).path)


def tune(store: AnyStore, over: Mapping[str, Iterable[Any]], **options: Any) -> Tuning:
    """Trains every combination of values of some options, and says which ends at the least
    validation loss, and how sure that is.

    Args:
        store: a token store.
        over: values by option of `TrainConfig`, such as `{"learning_rate": [1e-3, 2e-3]}`.
        **options: fields of `TuneConfig`: `seeds=3`, `halving=True`, `lab="lab"`, and those of
            `TrainConfig`, such as `steps=500`.

    Interrupted, the same call goes on; runs that are there already are not trained again. Raises
    `UserError` for an option that is unknown, tried and given, or tried with a wrong value.

    >>> tuned = lmlab.tune(store, {"learning_rate": [1e-3, 1e-2]}, seeds=2, **tiny)
    >>> list(tuned.best), len(tuned.settings)
    (['optimizer.learning_rate'], 2)
    """
    tried = {name: list(values) for name, values in over.items()}
    return cast("Tuning", _run("tune", {"store": _store(store).path, "over": tried, **options}))


def load(
    model: AnyModel | Any,
    tokenizer: Any = None,
    *,
    device: Device = "auto",
    objective: Objective = "auto",
    head: Head = "own",
    store: AnyStore | None = None,
    split: str = "validation",
) -> LanguageModel:
    """Opens a language model, ready to analyse: float32, evaluation mode.

    Args:
        model: a run, a checkpoint, a folder that transformers saved, a .gguf file, a Hub name (NAME
            or NAME@REVISION); or a model object of transformers.
        tokenizer: the tokenizer object of such a model object.
        device: "auto" takes a GPU where there is one.
        objective: insists on one way to read the model; "auto" finds out.
        head: "raw" leaves out the output bias that lmlab gave a headless model; "calibrated" fits
            two scalars on a split of `store`.

    Raises `UserError` where it cannot be found, is damaged, or is no language model.

    >>> lm = lmlab.load(run)
    >>> lm.context, lm.order
    (16, 'forward')
    """
    from lmlab.lm.calibrated_head import open_with_head
    from lmlab.lm.language_model import LanguageModel, from_transformers
    from lmlab.training.hardware import keep_freed_memory, resolve_device

    if isinstance(model, LanguageModel):
        if (device, objective, head) != ("auto", "auto", "own"):
            raise UserError(
                f"{model.name} is open already: device, objective and head are for load(NAME, ...)"
            )
        return model
    keep_freed_memory()
    path = model.path if isinstance(model, Run) else model
    if not isinstance(path, str | Path):
        if tokenizer is None:
            raise UserError(f"load({type(model).__name__}): give its tokenizer too")
        return from_transformers(model, tokenizer, objective=objective)
    if tokenizer is not None:
        raise UserError(
            f"load({str(path)!r}): a saved model brings its own tokenizer; leave it out"
        )
    return open_with_head(
        path, head, store=None if store is None else _store(store), held_out=split,
        device=resolve_device(device), objective=objective,
    )  # fmt: skip


def score(
    model: AnyModel,
    store: AnyStore | None = None,
    *,
    text: str | Path | Sequence[str | Path] = (),
    separator: str | None = None,
    split: str = "validation",
    context: int | None = None,
    windows: int | None = None,
    batch: int | None = None,
    head: Head = "own",
    objective: Objective = "auto",
    device: Device = "auto",
) -> Score:
    """How well a model predicts a split of a store, or text: nats per token and bits per byte.

    Args:
        text: in place of a store, files or folders; `separator` cuts files into documents.
        context: tokens of a window (default: the longest that fits, at most 1024).
        windows: a fixed random sample of so many windows (default: all).
        batch: windows at a time; does not change the score.
        head, objective, device: how a model is opened that is given by its name (`load`); a
            calibrated head is fitted on the validation split (on test, where that is scored).

    Raises `UserError` for a store of another tokenizer, or a context that does not fit.

    >>> lmlab.score(lm, store).nats_per_token > 0
    True
    >>> lmlab.score(lm, text="novels").split
    'text'
    """
    from lmlab.topics.scoring.score import score as score_store

    if store is None:
        from lmlab.topics.scoring.score import score_text

        if head == "calibrated":
            raise UserError("a calibrated head is fitted to a split of a `store`; give that")
        texts = [text] if isinstance(text, str | Path) else list(text)
        if not texts:
            raise UserError("give `text` or `store` to score the model on")
        return score_text(
            load(model, head=head, objective=objective, device=device),
            [str(each) for each in texts], separator=separator, context=context, batch=batch,
            max_windows=windows,
        )  # fmt: skip
    if text:
        raise UserError("`text` and `store`: give one of them")
    opened = _store(store)
    lm = load(
        model, head=head, store=opened, split=_other_split(split), objective=objective,
        device=device,
    )  # fmt: skip
    return score_store(lm, opened, split=split, context=context, batch=batch, max_windows=windows)


def compare(
    models: Sequence[AnyModel | Sequence[AnyModel]] | Mapping[str, AnyModel | Sequence[AnyModel]],
    store: AnyStore | None = None,
    *,
    text: str | Path | Sequence[str | Path] = (),
    tasks: str | Sequence[str] = (),
    split: str = "validation",
    separator: str | None = None,
    context: int | None = None,
    windows: int | None = None,
    limit: int | None = None,
    batch: int | None = None,
    device: Device = "auto",
) -> ModelsCompared:
    """Compares any models on the same text, on zero-shot tasks, or both: differences with
    intervals, a ranking, and which documents and tokens make the difference.

    Args:
        models: two or more; or by name, each a model or a list of runs that differ by their seed
            only: `{"a": [run1, run2, run3], "b": [run4, run5, run6]}`. With three runs or more a
            kind, intervals and verdicts speak of other seeds too.
        store: its `split` is what they score; models of other tokenizers read its text.
        text: in place of a store, files or folders; `separator` cuts files into documents.
        tasks: KIND=SOURCE each, as of `evaluate`; `limit` is a fixed sample of items a task.
        context, windows, batch: as for `score`, the same for all models.

    Runs of `finetune` are compared on the texts of their own task.

    Raises `UserError` for fewer than two models, the same one twice, nothing to compare them on,
    and as `score` and `evaluate`.

    >>> lmlab.compare([lm, backward], store).text.ranking.lower_is_better
    True
    """
    from lmlab.data.tasks import read_tasks
    from lmlab.topics.comparing.compare import ModelsCompared
    from lmlab.topics.comparing.of_tasks import compare_on_task
    from lmlab.topics.comparing.of_text import compare_on_text
    from lmlab.topics.comparing.options import (
        are_classifiers,
        check_asked,
        check_kinds,
        parse_kinds,
    )

    texts = [text] if isinstance(text, str | Path) else list(text)
    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    if not isinstance(models, Mapping):
        if all(isinstance(each, str) for each in models):
            models = parse_kinds(cast("Sequence[str]", models))
        else:
            check_kinds({str(n): _names(each) for n, each in enumerate(models)})
            models = {", ".join(_names(each)): each for each in models}
    kinds = {
        name: [each] if isinstance(each, str) or not isinstance(each, Sequence) else list(each)
        for name, each in models.items()
    }
    named = {name: tuple(map(_name, runs)) for name, runs in kinds.items()}
    check_kinds(named)
    check_asked(named, text=[str(each) for each in texts], store=store, tasks=asked)
    if are_classifiers(named):
        from lmlab.topics.comparing.of_classifiers import compare_classifiers

        return ModelsCompared(kinds=named, text=None, tasks=(compare_classifiers(named),))
    read = read_tasks(asked, limit=limit) if asked else []
    opened = {name: [load(m, device=device) for m in runs] for name, runs in kinds.items()}
    on_text = None
    if texts or store is not None:
        on_text = compare_on_text(
            opened, text=[str(each) for each in texts], separator=separator,
            store=None if store is None else _store(store), split=split, context=context,
            max_windows=windows, batch=batch,
        )  # fmt: skip
    return ModelsCompared(
        kinds={name: tuple(lm.name for lm in runs) for name, runs in opened.items()},
        text=on_text,
        tasks=tuple(compare_on_task(opened, task, batch=batch) for task in read),
    )


def surprisal(
    model: AnyModel,
    texts: str | Path | Sequence[str | Text],
    *,
    against: AnyModel | None = None,
    unit: Literal["word", "token"] = "word",
    measure: Literal["nats", "bits"] = "nats",
    marks: Literal["attached", "apart"] = "attached",
    context: int | None = None,
    overlap: int | None = None,
    head: Literal["own", "raw"] = "own",
    objective: Objective = "auto",
    device: Device = "auto",
) -> Surprisal:
    """How surprising each word or token of texts is: a table (`.frame()`) and the text in colour.

    A word's probability takes into account where the word ends, which tokens that begin with a
    blank leave open; `topics.surprisal.words` derives it.

    Args:
        texts: a text or several; or the `Path` of a file with text, or of a csv file with the
            columns id, text and, if wanted, regions (the text cut by |).
        against: a second model, of any tokenizer; the page colours the difference.
        unit: words, or the model's tokens.
        measure: what tables and page show; the result's own numbers are nats.
        marks: whether a comma belongs to the word that it stands at, or is a word of its own.
        context: tokens of a window (default: the longest that fits, at most 1024).
        overlap: tokens of a window that the next one reads again (default: half of them).
        head, objective, device: how models are opened that are given by their names (`load`).

    Raises `UserError` for a model without a likelihood of texts, and texts that cannot be read.

    >>> result = lmlab.surprisal(lm, "The model reads a token.")
    >>> list(result.frame().word)
    ['The', 'model', 'reads', 'a', 'token.']
    >>> total, words = result.texts[0].totals[0], result.frame()["nats"]
    >>> abs(sum(words) + total.end - total.nats) < 1e-9
    True
    """
    from lmlab.topics.surprisal.surprisal import surprisal as measure_texts
    from lmlab.topics.surprisal.texts import Text, read_texts

    if isinstance(texts, Path):
        read = read_texts(texts)
    else:
        given = [texts] if isinstance(texts, str) else texts
        read = [
            Text(f"text {number}", each) if isinstance(each, str) else each
            for number, each in enumerate(given, 1)
        ]
    lms = [
        load(each, head=head, objective=objective, device=device)
        for each in (model, against)
        if each is not None
    ]
    return measure_texts(
        lms, read, unit=unit, measure=measure, marks=marks, context=context, overlap=overlap
    )


def evaluate(
    model: AnyModel,
    tasks: str | Sequence[str],
    *,
    limit: int | None = None,
    include: str | Path | None = None,
    head: Head = "own",
    store: AnyStore | None = None,
    objective: Objective = "auto",
    batch: int | None = None,
    device: Device = "auto",
) -> Evaluation:
    """Zero-shot tasks: how well a model does what it was not trained for, with intervals.

    Args:
        tasks: files and folders whose form tells the task (docs/evaluation.md), KIND=SOURCE (the
            kind, and a file, a folder or hf:NAME), or names of lm-eval's (the extra `eval`).
        limit: a fixed sample of so many items a task.
        include: folder with lm-eval tasks of your own.
        batch: sequences at a time; does not change the result.
        head, store, objective, device: how a model is opened that is given by its name (`load`).

    Raises `UserError` for a task that cannot be read.

    >>> import json, pathlib
    >>> _ = pathlib.Path("items.jsonl").write_text(json.dumps({"text": "one two three"}))
    >>> result = lmlab.evaluate(lm, "lambada=items.jsonl")
    >>> result.tasks[0].metrics["accuracy"].items
    1
    """
    from lmlab.data.tasks import is_source, read_tasks
    from lmlab.topics.scoring.zero_shot import Evaluation, zero_shot

    given = [tasks] if isinstance(tasks, str) else list(tasks)
    own = [task for task in given if "=" in task or is_source(task)]
    names = [task for task in given if task not in own]
    if include is not None and not names:
        raise UserError("`include` is where lm-eval tasks are looked for; name one of them")
    read = read_tasks(own, limit=limit) if own or not names else []
    if names:
        import lmlab.integrations.lm_eval  # noqa: F401 - before the model: the extra may be missing
    lm = load(model, device=device, objective=objective, head=head, store=store)
    scores = [zero_shot(lm, task, batch=batch) for task in read]
    if names:
        from lmlab.integrations.lm_eval import harness

        folder = None if include is None else Path(include)
        scores += harness(lm, names, include=folder, limit=limit, batch=batch)
    return Evaluation(lm.name, lm.order, lm.head, tuple(scores))


def evaluate_suite(
    model: AnyModel,
    data: str | Path,
    *,
    out: str | Path,
    fast: bool = False,
    objective: Objective = "auto",
    batch: int | None = None,
    device: Device = "auto",
) -> SuiteScore:
    """All tasks of BabyLM that a folder has: zero-shot, reading times, ages of acquisition; of a
    run over its checkpoints too. Writes predictions.json in `out`.

    Args:
        data: BabyLM's evaluation_data, or any folder with files of its forms.
        out: where measured scores are kept, so that the same call goes on.
        fast: the fast data where there is such, and at most 100 items of each set.
        objective, batch, device: as of `evaluate`.

    Raises `UserError` for a folder without tasks, or a file of a known form that has something
    wrong.

    >>> pair = {"sentence_good": "one two three", "sentence_bad": "three one two"}
    >>> pathlib.Path("suite").mkdir()
    >>> _ = pathlib.Path("suite/order.jsonl").write_text(json.dumps(pair))
    >>> result = lmlab.evaluate_suite(lm, "suite", out="suite-scores")
    >>> [task.task for task in result.tasks]
    ['supplement']
    """
    from lmlab.lm.language_model import LanguageModel
    from lmlab.topics.babylm.model_score import suite_score

    path = model.path if isinstance(model, Run) else model
    return suite_score(
        path if isinstance(path, LanguageModel) else str(path),
        Path(data),
        Path(out),
        fast=fast,
        objective=objective,
        batch=batch,
        device=device,
    )


def finetune(
    models: AnyModel | Sequence[AnyModel], tasks: str | Sequence[str], **options: Any
) -> Finetuning:
    """Fine-tunes models on labelled texts, over several seeds, and compares them with the first.

    Args:
        tasks: KIND=SOURCE each: polarity=FOLDER, glue=NAME, xnli=LANGUAGE, babylm=FOLDER, tsv=FILE,
            jsonl=FILE.
        **options: fields of `FinetuneConfig`, such as `seeds=5`, `epochs=3`, `learning_rate=3e-4`,
            `lab="lab"`.

    Interrupted, the same call goes on. Raises `UserError` for a model or task that cannot be read.

    >>> rows = [{"text": f"{label} {n}", "label": label} for n in range(30) for label in "ab"]
    >>> _ = pathlib.Path("letters.jsonl").write_text("\\n".join(map(json.dumps, rows)))
    >>> result = lmlab.finetune(run, "jsonl=letters.jsonl", seeds=1, epochs=1, length=8)
    >>> [task.task for task in result.tasks]
    ['letters']
    """
    names = _names(models)
    return cast("Finetuning", _run("finetune", {"models": names, "tasks": tasks, **options}))


def study(name: str, **options: Any) -> Result:
    """Runs a study, or what is missing of it, and returns its result.

    Args:
        name: arrow, headless, towers, decomposition or encoding.
        **options: fields of its configuration, such as `text="novels/"`, `size="micro"`,
            `seeds=3`, and one of `tokens`, `steps` and `epochs`; `lab` is where stores, runs and
            results are kept (default "lab").

    Interrupted, the same call goes on. Raises `UserError` for another name, or options that do not
    go together.

    >>> small = dict(size="nano", context=16, batch_tokens=64, windows=4, dynamics=False)
    >>> result = lmlab.study(
    ...     "encoding", text="novels", vocabulary=300, arms="ce-untied", factors=2.0, shares=0.5,
    ...     steps=2, lab="other", **small,
    ... )
    >>> len(result.parts[0].models)
    1
    """
    return _run(name, options)


def _run(name: str, options: Mapping[str, Any]) -> Result:
    """The result of a study, which is run where it is not there."""
    from lmlab.studies.corpora import in_tokens
    from lmlab.topics.registry import STUDIES, find

    if name not in STUDIES:
        raise UserError(f"study {name!r}: the studies are {', '.join(STUDIES)}")
    config = from_keywords(find(STUDIES[name].options), options, where=f"study {name}")
    return find(STUDIES[name].function)(in_tokens(config))


def geometry(
    model: AnyModel,
    store: AnyStore,
    *,
    split: str = "validation",
    context: int | None = None,
    windows: int | None = 256,
    device: Device = "auto",
) -> Geometry:
    """How a model's embeddings and hidden states fill their space, and its loss by frequency.

    Arguments and errors as for `score`.

    >>> lmlab.geometry(lm, store).tables()[0].columns[0]
    'vectors'
    """
    from lmlab.topics.geometry.geometry import geometry as measure

    return measure(
        load(model, device=device), _store(store), split=split, context=context,
        max_windows=windows,
    )  # fmt: skip


def bottleneck(
    models: AnyModel | Sequence[AnyModel],
    store: AnyStore,
    *,
    split: str = "train",
    context: int | None = None,
    windows: int | None = 64,
    batch_tokens: int = 2048,
    device: Device = "auto",
) -> Bottleneck:
    """How much of the gradient of the logits passes the head of each model to its body.

    Args:
        models: one or several, all of the store's tokenizer; they read the same windows.
        batch_tokens: tokens whose gradient makes one step.

    Other arguments and errors as for `score`; `UserError` too for a model without an output
    embedding.

    >>> lmlab.bottleneck(lm, store, windows=4).gradients[0].loss
    'cross-entropy'
    """
    from lmlab.topics.bottleneck.bottleneck import bottleneck as measure

    return measure(
        [load(model, device=device) for model in _several(models)], _store(store), split=split,
        context=context, max_windows=windows, batch_tokens=batch_tokens,
    )  # fmt: skip


def route(
    first: AnyModel,
    second: AnyModel,
    store: AnyStore,
    *,
    single: AnyModel | None = None,
    fit_split: str = "validation",
    fit_tokens: int = 50_000,
    split: str = "test",
    context: int | None = None,
    windows: int | None = None,
    device: Device = "auto",
) -> Routing:
    """A gate between two finished models, fitted on their frozen states, and what it gains.

    Args:
        single: a model to compare with, such as one of the size of both together.
        fit_split: of the text that the gate is fitted on, at most `fit_tokens` of it.
        split: of the text that the gain is measured on.

    Other arguments and errors as for `score`; `UserError` too for models that are not causal in one
    order, or whose states cannot be read.

    >>> other = lmlab.train(store, seed=1, out="lab/other", **tiny)
    >>> routing = lmlab.route(lm, other, store)
    >>> [alternative.name for alternative in routing.alternatives][:2]
    ['better model', 'mean of both']
    """
    from lmlab.topics.routing.routing import route as measure

    return measure(
        load(first, device=device), load(second, device=device), _store(store),
        single=None if single is None else load(single, device=device), fit_split=fit_split,
        fit_tokens=fit_tokens, split=split, context=context, max_windows=windows,
    )  # fmt: skip


def rerank(
    forward: AnyModel,
    backward: AnyModel,
    store: AnyStore,
    *,
    judge: AnyModel,
    second: AnyModel | None = None,
    split: str = "test",
    prompts: int = 200,
    prompt_tokens: int = 32,
    tokens: int = 32,
    count: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
    rules: Sequence[str] = ("backward", "mmi", "forward+backward", "forward+mmi"),
    weight: float = 0.5,
    seed: int = 0,
    device: Device = "auto",
) -> Reranking:
    """Continuations that a forward model draws, chosen by a backward model, judged by a third.

    Args:
        judge: a forward model of any tokenizer; of another one the unit is bits per byte.
        second: another forward model, as a control: a second model of any kind may help.
        prompts: at most; each is the first `prompt_tokens` of a window of the split.
        tokens: of each of the `count` continuations of a prompt, drawn as `sample` does.
        rules: what chooses beside the forward model itself: "backward" is the likeliest text of
            prompt and continuation, "mmi" the likeliest prompt given the continuation,
            "forward+..." the sum with the forward model's nats, the other one's by `weight`.

    Raises `UserError` for models of the wrong order, for different tokenizers of all but the judge,
    and where prompt and continuation do not fit.

    >>> small = {"prompts": 5, "prompt_tokens": 8, "tokens": 4, "count": 3}
    >>> reranking = lmlab.rerank(lm, backward, store, judge=other, **small)
    >>> list(reranking.choice("mmi").differences)
    ['random', 'forward']
    """
    from lmlab.topics.reranking.reranking import rerank as measure

    return measure(
        load(forward, device=device), load(backward, device=device), _store(store),
        judge=load(judge, device=device),
        second=None if second is None else load(second, device=device), split=split,
        prompts=prompts, prompt_tokens=prompt_tokens, tokens=tokens, count=count,
        temperature=temperature, top_k=top_k, rules=rules, weight=weight, seed=seed,
    )  # fmt: skip


def arrow(
    forward: AnyModel,
    backward: AnyModel,
    store: AnyStore,
    *,
    split: str = "test",
    context: int | None = None,
    windows: int | None = None,
    device: Device = "auto",
) -> ModelsArrow:
    """The arrow of time between a forward and a backward model, paired on the same windows.

    Arguments as for `score`. Raises `UserError` too where the two do not read in opposite orders.

    >>> lmlab.arrow(lm, backward, store).arrow.seeds
    1
    """
    from lmlab.topics.arrow.between_models import arrow_of_models

    return arrow_of_models(
        load(forward, device=device), load(backward, device=device), _store(store),
        split=split, context=context, max_windows=windows,
    )  # fmt: skip


def prefer(
    model: AnyModel,
    store: AnyStore,
    *,
    split: str = "validation",
    context: int | None = None,
    windows: int | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> ModelPreference:
    """Which types of token each of two towers predicts better.

    Arguments as for `score`; `seed` decides the random halves of the types. Raises `UserError` too
    for a model without towers.

    >>> towers = lmlab.train(
    ...     store, objective="towers", fusion="product", layers=1, heads=1, width=16, context=16,
    ...     steps=4, out="lab/towers",
    ... )
    >>> lmlab.prefer(towers, store, split="train").overall.cluster_unit
    'document'
    """
    from lmlab.topics.towers.of_model import prefer as measure

    return measure(
        load(model, device=device), _store(store), split=split, context=context,
        max_windows=windows, held_out=_other_split(split), seed=seed,
    )  # fmt: skip


def decompose(
    target: AnyModel,
    basis: Sequence[AnyModel],
    store: AnyStore,
    **options: Any,
) -> ModelsDecomposition:
    """How much of one model is a linear combination of others (Zhang, EMNLP 2022).

    Args:
        target, basis: models; they are opened by their names.
        store: its text is what all of them read; fitted on its training split, scored on its test
            split.
        **options: fields of `DecomposeConfig`, such as `pieces=2000`, `length=64`,
            `shapley=True`; `lab` is where rows are kept (default "lab").

    Raises `UserError` for a store without a test split, or models whose rows do not vary.

    >>> result = lmlab.decompose(lm, [backward], store, pieces=60, length=8)
    >>> len(result.targets)
    1
    """
    from lmlab.topics.decomposition.of_models import decompose_models
    from lmlab.topics.decomposition.options import DecomposeConfig
    from lmlab.training.hardware import resolve_device

    asked = {
        "target": _name(target),
        "basis": [_name(each) for each in basis],
        "store": _store(store).path,
        **options,
    }
    config = from_keywords(DecomposeConfig, asked, where="decompose")
    result, _ = decompose_models(config, device=resolve_device(config.device))
    return result


def embed(models: AnyModel | Sequence[AnyModel], store: AnyStore, **options: Any) -> Embeddings:
    """Rows of hidden states of any models for one text, kept on disk.

    Args:
        models: they are opened by their names.
        store: its text is what the models read; its tokenizer only cuts it into pieces.
        **options: fields of `EmbedConfig`, such as `split="test"`, `pieces=2000`, `length=64`.

    >>> lmlab.embed([run, backward], store, pieces=8, length=8).pieces
    8
    """
    from lmlab.topics.decomposition.of_models import embeddings
    from lmlab.topics.decomposition.options import EmbedConfig
    from lmlab.training.hardware import resolve_device

    names = _names(models)
    asked = {"models": names, "store": _store(store).path, **options}
    config = from_keywords(EmbedConfig, asked, where="embed")
    return embeddings(config, device=resolve_device(config.device))


def lineage(models: Sequence[AnyModel], store: AnyStore, **options: Any) -> Lineage:
    """The tree of at least four models by what they make of the same text, of three similarities;
    and, where their true lineage is known, how much of it each tree recovers.

    Args:
        models: they are opened by their names.
        store: its text is what all of them read; its training and validation splits fit linear
            maps, its test split is what all is measured on.
        **options: fields of `LineageConfig`, such as `truth="((a,b),(c,d))"`, `pieces=2000`,
            `length=64`, `layer=1`; `lab` is where rows are kept (default "lab").

    Raises `UserError` for fewer than four models, a true tree over other names or one that resolves
    nothing, and too little test text.

    >>> many = lmlab.prepare("novels", "lab/halves", vocabulary=300, test=0.4)
    >>> few = dict(pieces=60, held_out_pieces=60, length=8, permutations=19, halves=20)
    >>> family = [run, backward, longer, "lab/other"]
    >>> tree = lmlab.lineage(family, many, truth="((forward,forward-6),backward,other)", **few)
    >>> [measure.measure for measure in tree.measures]
    ['debiased CKA', 'mutual neighbours', 'LMD R²']
    """
    from lmlab.topics.lineage.lineage import lineage as measure
    from lmlab.topics.lineage.options import LineageConfig
    from lmlab.training.hardware import resolve_device

    asked = {"models": _names(models), "store": _store(store).path, **options}
    config = from_keywords(LineageConfig, asked, where="lineage")
    return measure(config, device=resolve_device(config.device))


def encoding(
    model: AnyModel,
    store: AnyStore,
    *,
    split: str = "validation",
    context: int | None = None,
    windows: int | None = 256,
    ridge: float = 0.0,
    rotations: int = 5,
    head: Literal["own", "raw"] = "own",
    device: Device = "auto",
) -> EncodingResult:
    """How the output embedding holds the mean probability of tokens (Cho et al. 2025).

    Arguments as for `score`. `ridge` is added to the diagonal of the embedding's covariance;
    `rotations` random bases are what sparsity is compared with.

    >>> encoding = lmlab.encoding(lm, store, windows=8)
    """
    from lmlab.topics.encoding.of_model import encode

    return encode(
        load(model, head=head, device=device), _store(store), split=split, context=context,
        max_windows=windows, ridge=ridge, rotations=rotations,
    )  # fmt: skip


def steer(
    model: AnyModel,
    factors: Mapping[str, float] | Sequence[str],
    store: AnyStore,
    *,
    other: AnyStore | None = None,
    windows: int | None = 256,
    out: str | Path | None = None,
    **options: Any,
) -> SteeringResult:
    """Scales the mean probability of tokens by editing their output embeddings, and measures it.

    Args:
        factors: a factor for each token's text, such as `{" the": 0.5}` or `[" the=0.5"]`.
        store: its validation split is where the factors are to hold.
        other: a store of other text, for side effects out of domain.
        out: a folder for the steered model, which `load` opens.
        **options: `method`, `exact`, `ridge`, `untie`, `context`, as of
            `topics.encoding.steering_effects.steering_effects`.

    Raises `UserError` for a text that is not one token, or a tied head without `untie=True`.

    >>> result = lmlab.steer(lm, {"e": 0.9}, store, windows=4, out="steered")
    >>> [token.text for token in result.effects[0].tokens]
    ['e']
    >>> lmlab.load("steered").record["steered_from"] == lm.name
    True
    """
    from lmlab.topics.encoding.steering_effects import (
        parse_factors,
        steering_effects,
        write_steered,
    )

    opened = load(model)
    if isinstance(factors, Mapping):
        factors = [f"{text}={factor}" for text, factor in factors.items()]
    result = steering_effects(
        opened, _store(store), parse_factors(opened, factors), max_windows=windows,
        other=None if other is None else _store(other), **options,
    )  # fmt: skip
    if out is not None:
        write_steered(opened, result, Path(out))
    return result


def prune(
    model: AnyModel,
    store: AnyStore,
    *,
    share: float | None = None,
    shares: Sequence[float] = PruneConfig.shares,
    other: AnyStore | None = None,
    windows: int | None = 64,
    out: str | Path | None = None,
    **options: Any,
) -> PruneResult:
    """What removing dimensions of the output embedding does to the model's distribution.

    Args:
        share: the share of the dimensions that the smaller model in `out` lacks.
        out: a folder for that model, which `load` opens.
        shares: those of the curves.
        other: a store of other text, for effects out of domain.
        **options: `way`, `untie`, `replacement`, `margin`, `context`, `prompts`, as of
            `topics.encoding.pruning_curves.prune`.

    >>> pruned = lmlab.prune(
    ...     lm, store, shares=[0.5], share=0.25, windows=4, prompts=0, out="pruned"
    ... )
    >>> pruned.width, lmlab.load("pruned").head
    (16, 'untied, 12 of 16 dimensions')
    """
    from lmlab.topics.encoding.pruning_curves import prune as measure
    from lmlab.topics.encoding.pruning_curves import write_pruned

    if out is not None and share is None:
        raise UserError("prune: `out` is for the smaller model; say its `share` too")
    opened = load(model)
    result = measure(
        opened, _store(store), shares=shares, share=share, max_windows=windows,
        other=None if other is None else _store(other), **options,
    )  # fmt: skip
    return result if out is None else write_pruned(opened, result, Path(out))


def dynamics(
    checkpoints: Run | str | Path | Sequence[str | Path],
    store: AnyStore,
    *,
    context: int | None = None,
    windows: int = 32,
) -> Dynamics:
    """When in training the output embedding comes to hold token probability.

    Args:
        checkpoints: a run, or checkpoints (folders, Hub names) in the order of training.

    >>> [snapshot.step for snapshot in lmlab.dynamics(run, store, windows=4).snapshots]
    [2, 4]
    """
    from lmlab.topics.encoding.dynamics import Watch, watch_run

    watch = Watch(_store(store), context=context, max_windows=windows)
    if isinstance(checkpoints, Run | str | Path):
        path = checkpoints.path if isinstance(checkpoints, Run) else Path(checkpoints)
        for _ in watch_run(path, watch):
            pass
        return watch.result(str(path))
    for each in checkpoints:
        watch.look(each)
    return watch.result(str(checkpoints[0]))


def sample(
    model: AnyModel,
    prompt: str = "",
    *,
    tokens: int = 100,
    count: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> Samples:
    """Texts that a causal model goes on with after `prompt`, in its own order; print them, or take
    `.texts`.

    Raises `UserError` for a model that is not causal, or numbers that mean nothing.

    >>> len(lmlab.sample(lm, "a", tokens=3, count=2).texts)
    2
    """
    from lmlab.lm.sampling import sample as draw

    return draw(
        load(model), prompt, tokens=tokens, count=count, temperature=temperature, top_k=top_k,
        seed=seed,
    )  # fmt: skip


def export(
    model: AnyModel,
    out: str | Path,
    *,
    head: Head = "own",
    store: AnyStore | None = None,
    scores: Sequence[str | Path] = (),
) -> Path:
    """Writes a model as a standard transformers folder, its output bias included; returns it.

    Its tokenizer adds the special tokens that the model was trained with, so that plain
    transformers scores what lmlab scores. The model card (README.md) says what the model is, with
    the tables of `scores`, results of this model (folders of results.json).

    `head` and `store` as for `load`. Raises `UserError` where `out` exists, or for scores that are
    another model's.

    >>> (lmlab.export(run, "exported") / "model.safetensors").is_file()
    True
    """
    from lmlab.lm.export import export_model

    lm = load(model, head=head, store=store)
    return export_model(lm, Path(out), scores=[_scores_of(lm.name, Path(path)) for path in scores])


def publish(
    run: Run | str | Path,
    repo: str,
    out: str | Path,
    *,
    scores: Sequence[str | Path] = (),
    upload: bool = False,
) -> Publication:
    """Writes a finished run as the revisions of a repository of the Hub, below the folder `out`:
    its checkpoints by words seen under the names of BabyLM (`chck_1M`), and the last as `main`.

    Args:
        repo: USER/NAME.
        scores: results of the run for the model card of `main`, as for `export`.
        upload: hands them to huggingface_hub, which creates the repository if it is not there.

    Raises `UserError` for a name that the Hub does not take, a run that is not finished, a store
    whose words are not known, and what the Hub answers.

    >>> publication = lmlab.publish(run, "me/tiny", "published")
    >>> [revision.revision for revision in publication.revisions]
    ['main']
    """
    from lmlab.lm import publish as publishing

    path = run.path if isinstance(run, Run) else Path(run)
    publication = publishing.write_revisions(
        path, repo, Path(out), scores=[_scores_of(str(path), Path(each)) for each in scores]
    )
    return publishing.upload(publication) if upload else publication


def runs(
    folder: str | Path = "lab", *, where: str | Sequence[str] = (), sort: str = "run"
) -> pd.DataFrame:
    """The training runs below a folder, a row each: what they are, how far, their last losses.

    Args:
        where: NAME=VALUE (or NAME!=VALUE), one or several: a column, or an option of `train`.
        sort: a column, or an option of `train`.

    >>> sorted(set(lmlab.runs("lab").order))
    ['backward', 'forward']
    >>> len(lmlab.runs("lab", where=["order=backward", "learning_rate!=1"]))
    1
    """
    import pandas as pd

    from lmlab.topics.runs.listing import COLUMNS, list_runs

    tests = [where] if isinstance(where, str) else where
    rows = [run.row for run in list_runs(Path(folder), where=tests, sort=sort)]
    return pd.DataFrame([{name: getattr(row, name) for name in COLUMNS} for row in rows])


def read(path: str | Path) -> Result:
    """The result stored in a results.json, or in the folder of one: its values, figures and page.

    Raises `UserError` where there is none, or none that this lmlab reads.

    >>> lmlab.read(encoding.save("results")) == encoding
    True
    """
    from lmlab.topics.registry import read_result

    return read_result(path)


def _scores_of(name: str, path: Path) -> Scores:
    """A stored result for the card of the model `name`. `UserError` where it is of another one."""
    from lmlab.lm.card import Scores
    from lmlab.run_folders.checkpoint import usable_checkpoint

    result = read(path)
    of = getattr(result, "model", None)
    places = [usable_checkpoint(Path(each)).resolve() for each in (name, of) if each is not None]
    if len(set(places)) > 1 or of is None:
        raise UserError(
            f"{path}: these are no scores of {name}"
            + (f", but of {of}" if of else f", but a result of kind {result.kind}")
        )
    return Scores(result.kind, result.tables())


def _name(model: AnyModel) -> str:
    """What a model is opened by."""
    if isinstance(model, str | Path):
        return str(model)
    return str(model.path) if isinstance(model, Run) else model.name


def _other_split(split: str) -> str:
    """The held-out split that calibration may see where `split` is scored."""
    return "test" if split == "validation" else "validation"


def _several(models: AnyModel | Sequence[AnyModel]) -> list[AnyModel]:
    return (
        list(models) if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    )


def _names(models: AnyModel | Sequence[AnyModel]) -> list[str]:
    return [_name(each) for each in _several(models)]


def _store(store: AnyStore) -> TokenStore:
    from lmlab.data.store import TokenStore

    if isinstance(store, TokenStore):
        return store
    if not isinstance(store, str | Path) or not os.path.isdir(store):  # a text may be too long
        raise UserError(
            f"{str(store)[:60]!r} is no folder of a token store: lmlab.prepare(TEXT, OUT) makes "
            "one of files with text"
        )
    return TokenStore(Path(store))
