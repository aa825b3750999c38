"""The forms in which evaluation tasks are published, each known by its fields.

| kind | a file | the set |
|---|---|---|
| `lambada` | `{"text": ...}` | |
| `blimp` | `{"sentence_good", "sentence_bad", "UID", "field", "linguistics_term"}` | UID |
| `supplement` | `{"sentence_good", "sentence_bad"}` | the file's name |
| `ewok` | `{"Context1", "Context2", "Target1", "Target2", "Domain", ...}` | Domain |
| `comps` | `{"prefix_acceptable", "prefix_unacceptable", "property_phrase"}` | the file's name |
| `entity_tracking` | `{"input_prefix", "options", "numops"}`, first option right | file, numops |
| `wug_adj`, `wug_past` | `{"sentences", "ratio"}`, forms separated by tabs | |
| `zorro` | `.txt`: unacceptable and acceptable sentence, a line each | the file's name |
| `clams` | `.txt`: `True<TAB>sentence` and `False<TAB>sentence`, a line each | the file's name |
| `choices` | `{"context", "choices", "answer"}`, lmlab's own | group, if it has one |

Notable:
- LAMBADA's form is that of any text, so it is never guessed.
- The two WUG tasks have the same fields: the name of the file or its folder tells the past tense.
- Zorro's files are told by their sentences, which end in a blank and a mark. Its unacceptable
  sentence is the first of both in all 23 paradigms (docs/experiments.md).
- Clusters (`lmlab.data.task_items`): of COMPS the phrase, of EWoK the contexts, of entity tracking
  what the boxes hold at first, which is the prefix up to its first full stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from lmlab.data.records import Record, SourceFile, checked_text
from lmlab.data.task_items import (
    ContextChoice,
    LastWord,
    MinimalPair,
    MultipleChoice,
    TaskKind,
    WordForms,
)
from lmlab.errors import UserError

Item: TypeAlias = LastWord | MinimalPair | MultipleChoice | ContextChoice | WordForms
Line: TypeAlias = tuple[str, str]
"""Where a line stands, and its text without the line's end."""

_SPELLINGS = {"syntax_semantics": "syntax/semantics"}  # BLiMP's files spell this one in two ways


@dataclass(frozen=True)
class RecordFormat:
    """Files of JSON lines: an item a line."""

    fields: tuple[str, ...]
    """By which it is known; a format stands before those that have a part of its fields."""
    item: Callable[[Record], Item]


@dataclass(frozen=True)
class TextFormat:
    """Files of text: an item every two lines."""

    begins: Callable[[str], bool]
    """Whether a file whose first line this is has this form."""
    item: Callable[[str, Line, Line], Item]
    """Of the file's name and two lines."""


def kind_of(file: SourceFile) -> TaskKind | None:
    """The kind of task whose form a file has, by its first line; None for none of them.

    Raises `UserError`, naming the line, for a damaged file.
    """
    if file.suffix == ".txt":
        try:
            first = next(iter(file.lines()), (0, ""))[1].rstrip("\r\n")
        except UserError:  # text in another encoding: none of these
            return None
        return next((kind for kind, form in TEXT_FORMATS.items() if form.begins(first)), None)
    if file.suffix != ".jsonl":
        return None
    first = next(iter(file.records()), None)
    return None if first is None else _kind_of_record(file, first)


def _kind_of_record(file: SourceFile, record: Record) -> TaskKind | None:
    for kind, form in RECORD_FORMATS.items():
        if kind != "lambada" and all(field in record.values for field in form.fields):
            wug = kind in ("wug_adj", "wug_past")
            return kind if not wug else "wug_past" if _is_past(file) else "wug_adj"
    return None


def _is_past(file: SourceFile) -> bool:
    return "past" in file.name or "past" in Path(file.member or file.path).parent.name


def items_of_file(kind: TaskKind, file: SourceFile) -> Iterator[Item]:
    """The items of a file of this kind. Raises `UserError`, naming file and line, for one that is
    none, and for a file of text with an odd number of lines."""
    if kind in RECORD_FORMATS:
        yield from items_of_records(kind, file.records())
        return
    form = TEXT_FORMATS[kind]
    lines = ((f"{file.where}, line {n}", text.rstrip("\r\n")) for n, text in file.lines())
    while pair := tuple(islice(lines, 2)):
        if len(pair) == 1:
            raise UserError(f"{pair[0][0]}: a sentence without its pair; every two lines are one")
        yield form.item(file.name, *pair)


def items_of_records(kind: TaskKind, records: Iterable[Record]) -> Iterator[Item]:
    """The items of JSON objects. Raises `UserError`, naming where, for one that is none."""
    return map(RECORD_FORMATS[kind].item, records)


def _last_word(record: Record) -> LastWord:
    words = record.text("text").rsplit(maxsplit=1)
    if len(words) < 2:
        raise UserError(
            f"{record.where}: 'text' is a single word; it has to be a passage whose last word is "
            "predicted from the others"
        )
    return LastWord(record.where, words[0], " " + words[1])


def _blimp(record: Record) -> MinimalPair:
    good, bad = record.text("sentence_good"), record.text("sentence_bad")
    uid, field, term = (record.text(name) for name in ("UID", "field", "linguistics_term"))
    return MinimalPair(record.where, good, bad, uid, _SPELLINGS.get(field, field), term)


def _supplement(record: Record) -> MinimalPair:
    good, bad = record.text("sentence_good"), record.text("sentence_bad")
    return MinimalPair(record.where, good, bad, record.file, "supplement", "supplement")


def _ewok(record: Record) -> MultipleChoice:
    first, second, right, wrong, domain = map(
        record.text, ("Context1", "Context2", "Target1", "Target2", "Domain")
    )
    return MultipleChoice(
        record.where,
        first,
        (" " + right, " " + wrong),
        0,
        group=domain,
        cluster=" / ".join(sorted((first, second))),
    )


def _comps(record: Record) -> ContextChoice:
    contexts = record.text("prefix_acceptable"), record.text("prefix_unacceptable")
    phrase = record.text("property_phrase")
    name = record.file.removeprefix("comps_").replace("-", "_")
    return ContextChoice(record.where, contexts, " " + phrase, name, phrase)


def _entity_tracking(record: Record) -> MultipleChoice:
    prefix, moves = record.text("input_prefix"), record.value("numops")
    if not isinstance(moves, int) or isinstance(moves, bool) or moves < 0:
        raise UserError(f"{record.where}: 'numops' is {moves!r}; it has to be a number of moves")
    return MultipleChoice(
        record.where,
        prefix,
        _texts(record, "options", "option"),
        0,
        group=f"{record.file}_{moves}_ops",
        part=record.file,
        cluster=prefix.partition(". ")[0],
    )


def _texts(record: Record, key: str, one: str) -> tuple[str, ...]:
    """The list of at least two texts at a key."""
    texts = record.values.get(key)
    if not isinstance(texts, list) or len(texts) < 2:
        raise UserError(f"{record.where}: '{key}' has to be a list of at least two texts")
    return tuple(checked_text(t, f"{record.where}: {one} {i}") for i, t in enumerate(texts))


def _wug(record: Record) -> WordForms:
    sentences = record.text("sentences").split("\t")
    if len(sentences) < 2:
        raise UserError(
            f"{record.where}: 'sentences' has one sentence only; they are separated by tabs"
        )
    for number, sentence in enumerate(sentences):
        checked_text(sentence, f"{record.where}: sentence {number}")
    try:
        share = float(record.value("ratio"))
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(
            f"{record.where}: 'ratio' is {record.values['ratio']!r}; it has to be the share of "
            "people who say the first form, 0 to 1"
        )
    return WordForms(record.where, tuple(sentences), share)


def _choices(record: Record) -> MultipleChoice:
    values, where = record.values, record.where
    context, answer = values.get("context"), values.get("answer")
    if context is None:
        raise UserError(f"{where}: no 'context'; a minimal pair has the context \"\"")
    if context != "":
        context = checked_text(context, f"{where}: 'context'")
    texts = _texts(record, "choices", "choice")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(texts):
        raise UserError(
            f"{where}: 'answer' has to be the number of the right choice, 0 to {len(texts) - 1}; "
            f"it is {answer!r}"
        )
    return MultipleChoice(where, context, texts, answer, record.optional_text("group"))


def _zorro(name: str, bad: Line, good: Line) -> MinimalPair:
    for where, text in (bad, good):
        if not _ends_with_a_mark(text):
            raise UserError(
                f"{where}: a sentence of Zorro ends in a blank and a mark, such as ' .' or ' ?'"
            )
    phenomenon = name.rpartition("-")[0] or name
    return MinimalPair(bad[0], good[1], bad[1], name, phenomenon, phenomenon)


def _ends_with_a_mark(text: str) -> bool:
    return text.rstrip()[-2:] in (" .", " ?", " !")


def _clams(name: str, good: Line, bad: Line) -> MinimalPair:
    texts: list[str] = []
    for (where, line), mark in ((good, "True"), (bad, "False")):
        label, _, text = line.partition("\t")
        if label != mark or not text.strip():
            raise UserError(
                f"{where}: {line[:40]!r}; CLAMS has a line True<TAB>sentence, then one "
                "False<TAB>sentence"
            )
        texts.append(text)
    return MinimalPair(good[0], texts[0], texts[1], name, name.partition("_")[0], "agreement")


_WUG = RecordFormat(("sentences", "ratio"), _wug)
RECORD_FORMATS: dict[TaskKind, RecordFormat] = {
    "blimp": RecordFormat(("sentence_good", "sentence_bad", "UID"), _blimp),
    "supplement": RecordFormat(("sentence_good", "sentence_bad"), _supplement),
    "ewok": RecordFormat(("Context1", "Context2", "Target1", "Target2", "Domain"), _ewok),
    "comps": RecordFormat(("prefix_acceptable", "prefix_unacceptable", "property_phrase"), _comps),
    "entity_tracking": RecordFormat(("input_prefix", "options", "numops"), _entity_tracking),
    "wug_adj": _WUG,
    "wug_past": _WUG,
    "choices": RecordFormat(("context", "choices", "answer"), _choices),
    "lambada": RecordFormat(("text",), _last_word),
}
TEXT_FORMATS: dict[TaskKind, TextFormat] = {
    "clams": TextFormat(lambda line: line.startswith(("True\t", "False\t")), _clams),
    "zorro": TextFormat(_ends_with_a_mark, _zorro),
}
