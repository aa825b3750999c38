"""Where labelled examples come from: sentence polarity, GLUE, XNLI, BabyLM, one's own tsv, jsonl.

A source gives examples in the sets it was published in; `lmlab.data.labelled` makes a training, a
selection and a reported set of them. docs/evaluation.md has the forms of the files.

Notable:
- A tsv has no quoting: a quotation mark is a character, as in the files of GLUE.
- What is published is taken as it is. Two pairs of QQP have an empty second question, and QQP's
  tsv has lines that break off: the first are kept, the second left out, both are counted in the
  notes. In one's own files either is an error.
- Sentence polarity is read as UTF-8 (NLTK's copy) or else as ISO-8859-1 (the authors'), so both
  give the same characters, but for NLTK's spaces in place of the control character NEL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from lmlab.data.documents import COMPRESSIONS, read_text_lines, valid_text
from lmlab.data.records import Record, read_records
from lmlab.data.tasks import sample
from lmlab.errors import UserError
from lmlab.progress import track

_CLASSIFICATION = ("accuracy", "f1", "matthews")
_REGRESSION = ("pearson", "spearman")
_NLI = ("entailment", "neutral", "contradiction")
_LANGUAGES = "ar, bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, vi, zh"
_SETS = {"train": ("train",), "selection": ("selection", "validation", "dev"), "test": ("test",)}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Example:
    """A text or a pair of texts, its class number or value, and where it stands."""

    where: str
    text: str
    other: str | None
    label: int | float


@dataclass(frozen=True)
class Source:
    """Examples in the sets they were published in; None for a set that there is not."""

    name: str
    source: str
    labels: tuple[str, ...]
    """Names of the classes in their order; empty for regression."""
    metrics: tuple[str, ...]
    train: list[Example]
    selection: list[Example] | None = None
    reported: list[Example] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Published:
    """How a task of GLUE is published: on the Hub, and as `train.tsv` and `dev.tsv`."""

    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    file_columns: tuple[str, ...]
    file_label: str = "label"
    header: tuple[str, ...] | None = None
    """Columns of the tsv where it does not name them itself."""
    part: str = ""
    """What the names of the evaluation set end in."""


_PAIR = ("sentence1", "sentence2")
_QUESTIONS = ("question1", "question2")
_MNLI = _Published(
    _NLI, ("accuracy",), ("premise", "hypothesis"), _PAIR, "gold_label", part="_matched"
)
_ACCEPTABLE, _ENTAILED = ("unacceptable", "acceptable"), ("entailment", "not_entailment")
_GLUE = {
    "cola": _Published(
        _ACCEPTABLE, ("matthews",), ("sentence",), ("sentence",),
        header=("source", "label", "mark", "sentence"),
    ),
    "sst2": _Published(("negative", "positive"), ("accuracy",), ("sentence",), ("sentence",)),
    "mrpc": _Published(
        ("not_equivalent", "equivalent"), ("accuracy", "f1"), _PAIR, ("#1 String", "#2 String"),
        "Quality",
    ),
    "qqp": _Published(
        ("not_duplicate", "duplicate"), ("accuracy", "f1"), _QUESTIONS, _QUESTIONS, "is_duplicate"
    ),
    "stsb": _Published((), _REGRESSION, _PAIR, _PAIR, "score"),
    "mnli": _MNLI,
    "mnli-mm": _Published(
        _NLI, _MNLI.metrics, _MNLI.columns, _PAIR, "gold_label", part="_mismatched"
    ),
    "qnli": _Published(
        _ENTAILED, ("accuracy",), ("question", "sentence"), ("question", "sentence")
    ),
    "rte": _Published(_ENTAILED, ("accuracy",), _PAIR, _PAIR),
    "wnli": _Published(("not_entailment", "entailment"), ("accuracy",), _PAIR, _PAIR),
}  # fmt: skip


def polarity(source: str) -> Source:
    """The sentence polarity data of Pang and Lee (2005): `rt-polarity.neg`, `rt-polarity.pos`."""
    examples: list[Example] = []
    for label, suffix in enumerate(("neg", "pos")):
        path = Path(source) / f"rt-polarity.{suffix}"
        if not path.is_file():
            raise UserError(f"{path}: no such file; name the folder of rt-polarity.neg and .pos")
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("iso-8859-1")
        # not splitlines(): NEL (0x85) is within sentences
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                examples.append(Example(f"{path}, line {number}", line.strip(), None, label))
    return Source("polarity", source, ("negative", "positive"), ("accuracy",), examples)


def glue(source: str) -> Source:
    """A task of GLUE (Wang et al. 2019), from the Hub or from `TASK:FOLDER`, with its metrics."""
    name, colon, folder = source.partition(":")
    if name not in _GLUE or (colon and not folder):
        raise UserError(
            f"glue={source}: name one of {', '.join(_GLUE)}, or TASK:FOLDER with its train.tsv"
        )
    task, notes = _GLUE[name], ["reported on GLUE's validation split: its test labels are hidden"]
    if colon:
        files = (Path(folder) / "train.tsv", Path(folder) / f"dev{task.part}.tsv")
        train, reported = (_glue_file(path, task, notes) for path in files)
        return Source(name, folder, task.labels, task.metrics, train, None, reported, tuple(notes))
    hub = f"hf:nyu-mll/glue:{name.removesuffix('-mm')}"
    train, reported = (
        _hub_set(f"{hub}:{split}", task.columns, task.labels, notes)
        for split in ("train", f"validation{task.part}")
    )
    return Source(name, hub, task.labels, task.metrics, train, None, reported, tuple(notes))


def xnli(source: str) -> Source:
    """XNLI (Conneau et al. 2018) in one language: trained in that language, test set reported."""
    if source not in _LANGUAGES.split(", "):
        raise UserError(f"xnli={source}: name one language of {_LANGUAGES}")
    hub, notes = f"hf:facebook/xnli:{source}", []
    sets = [
        _hub_set(f"{hub}:{split}", ("premise", "hypothesis"), _NLI, notes)
        for split in ("train", "validation", "test")
    ]
    return Source(f"xnli-{source}", hub, _NLI, ("accuracy",), *sets, notes=tuple(notes))


@dataclass(frozen=True)
class _OfBabylm:
    """How a task of BabyLM's fine-tuning set is published: a text made of fields, and another."""

    labels: tuple[str, ...]
    text: str
    other: str
    metrics: tuple[str, ...] = ("accuracy", "f1")
    most: int | None = None
    """Training examples at most; the official files hold a sample of so many."""
    notes: tuple[str, ...] = ()


_BABYLM = {
    "boolq": _OfBabylm(("no", "yes"), "{question}", "{passage}"),
    "multirc": _OfBabylm(
        ("wrong", "right"),
        "Question: {question} Answer: {answer}",
        "{paragraph}",
        notes=("several questions share a paragraph, and the intervals do not know it",),
    ),
    "rte": _OfBabylm(_ENTAILED, "{sentence1}", "{sentence2}", ("accuracy",)),
    "wsc": _OfBabylm(
        ("other", "same"), 'Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}"
    ),
    "mrpc": _OfBabylm(_GLUE["mrpc"].labels, "{sentence1}", "{sentence2}", ("f1", "accuracy")),
    "qqp": _OfBabylm(_GLUE["qqp"].labels, "{question1}", "{question2}", ("f1", "accuracy"), 10_000),
    "mnli": _OfBabylm(_NLI, "{premise}", "{hypothesis}", ("accuracy",), 10_000),
}
_TRAINING_FILE = ".train.jsonl"


def babylm_files(source: str) -> list[Path]:
    """The training files of BabyLM's fine-tuning set below a folder; or the one file named.

    Raises `UserError` where there is none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    files = sorted(
        file for task in _BABYLM for file in path.rglob(f"{task}{_TRAINING_FILE}*")
    )  # fmt: skip
    if not files:
        raise UserError(
            f"{source}: no {_TRAINING_FILE.removeprefix('.')} of {', '.join(_BABYLM)} in it, such "
            f"as rte{_TRAINING_FILE}"
        )
    return files


def babylm(source: str) -> Source:
    """A task of BabyLM's fine-tuning set: `TASK.train.jsonl`, reported on `TASK.valid.jsonl`."""
    path = Path(source)
    name, middle, suffix = path.name.partition(_TRAINING_FILE)
    if not path.is_file() or name not in _BABYLM or not middle:
        raise UserError(
            f"{source}: name TASK{_TRAINING_FILE} or its folder, TASK one of {', '.join(_BABYLM)}"
        )
    task = _BABYLM[name]
    notes = list(task.notes)
    valid = path.with_name(f"{name}.valid.jsonl{suffix}")
    if valid.is_file():
        notes.append(
            f"reported on {valid.name}; the best epoch is chosen on examples held out from "
            "training. BabyLM's own script chooses it on the set that it reports, so its figures "
            "tend to be higher and are not to be compared with these"
        )
    train, reported = (
        _babylm_set(file, task, notes) if file.is_file() else None for file in (path, valid)
    )
    assert train is not None
    if task.most is not None and len(train) > task.most:
        notes.append(f"training: a sample of {task.most:,} of {len(train):,} examples")
        train = sample(train, task.most)
    return Source(name, source, task.labels, task.metrics, train, None, reported, tuple(notes))


def _babylm_set(path: Path, task: _OfBabylm, notes: list[str]) -> list[Example]:
    examples = [
        _example_of(record, [_filled(record, text) for text in (task.text, task.other)],
                    "label", task.labels)
        for record in _json_records(path)
    ]  # fmt: skip
    notes += _halves_note(examples)
    return examples


def _filled(record: Record, template: str) -> str:
    fields = {name: _half(record, name) for _, name, *_ in Formatter().parse(template) if name}
    return template.format_map(fields)


def own_files(source: str, kind: str) -> Source:
    """One's own `.tsv` or `.jsonl`: a file, or a folder of train, selection and test files."""
    path = Path(source)
    files = {"train": path} if path.is_file() else _set_files(path, kind)
    read = _tsv_records if kind == "tsv" else _json_records
    records = {name: list(read(file)) for name, file in files.items()}
    for name, of_set in records.items():
        if not of_set:
            raise UserError(f"{files[name]}: no example in it")
    labels, sets = _classes(records)
    _check_pairs(sets)
    test, selection, notes = sets.get("test"), sets.get("selection"), ()
    if test is None and selection is not None:
        test, selection = selection, None
        notes = (f"reported on {files['selection'].name}: there is no test file",)
    name = path.name.partition(".")[0] or source
    metrics = _CLASSIFICATION if labels else _REGRESSION
    return Source(name, source, labels, metrics, sets["train"], selection, test, notes)


def _hub_set(
    source: str, columns: Sequence[str], labels: Sequence[str], notes: list[str]
) -> list[Example]:
    examples: list[Example] = []
    with track(f"reading {source.removeprefix('hf:')}", None, "examples") as bar:
        for record in read_records(source, hub_split="train"):
            examples.append(_published(record, columns, "label", labels))
            bar.advance()
    notes += _halves_note(examples)
    return examples


def _glue_file(path: Path, task: _Published, notes: list[str]) -> list[Example]:
    rows = _fields(path)
    header = task.header or tuple(next(rows, (0, []))[1])
    wanted = (*task.file_columns, task.file_label)
    if missing := [column for column in wanted if column not in header]:
        raise UserError(
            f"{path}, line 1: no column '{missing[0]}' (found: {', '.join(header)}); is this the "
            "task that was named?"
        )
    needed = 1 + max(map(header.index, wanted))
    examples: list[Example] = []
    short: list[int] = []
    for number, fields in rows:
        if len(fields) < needed:
            short.append(number)
            continue
        record = Record(f"{path}, line {number}", dict(zip(header, fields, strict=False)))
        examples.append(_published(record, task.file_columns, task.file_label, task.labels))
    if not examples:
        raise UserError(f"{path}: no example in it")
    if short:
        notes.append(f"{path}: {len(short)} broken lines left out (first: line {short[0]})")
    notes += _halves_note(examples)
    return examples


def _published(
    record: Record, columns: Sequence[str], label_column: str, labels: Sequence[str]
) -> Example:
    texts = [_half(record, column) for column in columns]
    if not any(texts):
        record.text(columns[0])  # an error: an example has to say something
    return _example_of(record, texts, label_column, labels)


def _example_of(
    record: Record, texts: Sequence[str], label_column: str, labels: Sequence[str]
) -> Example:
    raw = record.values.get(label_column)
    if isinstance(raw, str) and raw in labels:
        raw = labels.index(raw)
    number = _number(raw)
    if number == -1:
        raise UserError(
            f"{record.where}: label -1: the labels of this split are hidden; it serves neither to "
            "train nor to evaluate"
        )
    if number is None or (labels and number not in range(len(labels))):
        known = f"0 to {len(labels) - 1} ({', '.join(labels)})" if labels else "a number"
        raise UserError(f"{record.where}: '{label_column}' is {raw!r}; it has to be {known}")
    label = int(number) if labels else float(number)
    return Example(record.where, texts[0], texts[1] if len(texts) == 2 else None, label)


def _half(record: Record, column: str) -> str:
    value = record.values.get(column)
    return "" if isinstance(value, str) and not value.strip() else record.text(column)


def _halves_note(examples: Sequence[Example]) -> Iterator[str]:
    halves = [e for e in examples if e.other is not None and not (e.text and e.other)]
    if halves:
        yield (
            f"pairs with one empty text, kept as published: {len(halves)} (first: "
            f"{halves[0].where})"
        )


def _set_files(folder: Path, kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder")
    files: dict[str, Path] = {}
    for name, stems in _SETS.items():
        existing = [
            path
            for stem in stems
            for suffix in ("", *COMPRESSIONS)
            if (path := folder / f"{stem}.{kind}{suffix}").is_file()
        ]
        if len(existing) > 1:
            raise UserError(
                f"{folder}: {existing[0].name} and {existing[1].name}; keep one of both"
            )
        if existing:
            files[name] = existing[0]
    if "train" not in files:
        raise UserError(
            f"{folder}: no train.{kind} in this folder (beside it, test.{kind}, and one of "
            f"selection.{kind}, validation.{kind}, dev.{kind}, are read where they exist)"
        )
    return files


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    for number, line in read_text_lines(path):
        yield number, line.removeprefix("\ufeff").rstrip("\r\n").split("\t")


def _tsv_records(path: Path) -> Iterator[Record]:
    header: list[str] = []
    for number, fields in _fields(path):
        where = f"{path}, line {number}"
        if not header:
            header = fields
            if missing := {"text", "label"} - set(header):
                raise UserError(
                    f"{where}: no column '{max(missing)}' (found: {', '.join(header)}); the first "
                    "line names the columns: text, label, and for pairs other"
                )
            continue
        if len(fields) != len(header):
            raise UserError(
                f"{where}: {len(fields)} fields, but {len(header)} columns; fields are separated "
                "by tabs, and there is no quoting"
            )
        yield Record(where, dict(zip(header, fields, strict=True)))


def _json_records(path: Path) -> Iterator[Record]:
    return read_records(str(path), hub_split="train")


def _classes(records: dict[str, list[Record]]) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """Names of the classes (none for regression) and the examples of each set.

    All labels whole numbers: classes in numerical order. All numbers, some not whole: regression.
    No number that is not whole: classes in the order of their names.
    """
    raw = {name: [_label(r) for r in of_set] for name, of_set in records.items()}
    numbers = {name: [_number(label) for label in of_set] for name, of_set in raw.items()}
    flat = [n for of_set in numbers.values() for n in of_set]
    broken = next((n for n in flat if n is not None and n != int(n)), None)
    if broken is not None:
        for name, of_set in numbers.items():
            if None in of_set:
                at = of_set.index(None)
                raise UserError(
                    f"{records[name][at].where}: 'label' is {raw[name][at]!r}, elsewhere a number "
                    f"such as {broken}; values to predict are all numbers, names of classes are not"
                )
        return (), {n: list(map(_example, records[n], values)) for n, values in numbers.items()}
    if None in flat:
        named = {name: [str(label) for label in of_set] for name, of_set in raw.items()}
        labels = tuple(sorted(set(named["train"])))
    else:
        named = {n: [str(int(v)) for v in values if v is not None] for n, values in numbers.items()}
        labels = tuple(sorted(set(named["train"]), key=int))
    index = {label: number for number, label in enumerate(labels)}
    for name, of_set in named.items():
        for record, label in zip(records[name], of_set, strict=True):
            if label not in index:
                raise UserError(
                    f"{record.where}: label '{label}' does not occur in the training file (there: "
                    f"{', '.join(labels[:9])}); a label that stands for a hidden one cannot be used"
                )
    return labels, {n: list(map(_example, records[n], map(index.get, of_set)))
                    for n, of_set in named.items()}  # fmt: skip


def _label(record: Record) -> Any:
    if "label" not in record.values:
        record.text("label")  # an error that names the keys there are
    label = record.values["label"]
    if isinstance(label, str):
        return valid_text(label, f"{record.where}: 'label'").strip() or record.text("label")
    if _number(label) is None:
        raise UserError(
            f"{record.where}: 'label' is {label!r}; it has to be the name of a class or a number"
        )
    return label


def _number(label: Any) -> int | float | None:
    """The finite number that a label is or spells, None where it is none."""
    if isinstance(label, str):
        if not _NUMBER.fullmatch(label.strip()):
            return None
        label = float(label)
    if isinstance(label, bool) or not isinstance(label, int | float):
        return None
    return label if abs(label) < 1e300 else None


def _example(record: Record, label: Any) -> Example:
    return Example(record.where, record.text("text"), record.optional_text("other"), label)


def _check_pairs(sets: dict[str, list[Example]]) -> None:
    first = sets["train"][0]
    for example in (e for of_set in sets.values() for e in of_set):
        if (example.other is None) != (first.other is None):
            having, without = sorted((example, first), key=lambda e: e.other is None)
            raise UserError(
                f"{without.where}: no 'other', but {having.where} has one; examples are all "
                "single texts or all pairs"
            )
