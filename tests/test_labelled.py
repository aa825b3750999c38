"""Readers of labelled tasks: forms, the Hub, how sets are made, and what is wrong where."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.data import labelled
from lmlab.data.labelled import Example, read_labelled, read_labelled_tasks
from lmlab.data.labelled_sources import Source
from lmlab.errors import UserError
from lmlab.numerics.classification import metric

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("train", "selection", "reported")


def tsv(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), "utf-8")
    return path


def jsonl(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def sentences(labels, name="text"):
    return [("text", "label"), *((f"{name} {n}", label) for n, label in enumerate(labels))]


def texts(examples):
    return {(e.text, e.other) for e in examples}


def test_one_file_becomes_three_sets_by_class(tmp_path):
    labels = [*"a" * 30, *"b" * 100, *"c" * 3]
    path = tsv(tmp_path / "mine.tsv", *sentences(labels))
    task = read_labelled(f"tsv={path}")
    assert (task.name, task.source, task.labels) == ("mine", str(path), ("a", "b", "c"))
    assert task.metrics == ("accuracy", "f1", "matthews")
    assert not task.regression
    counts = [Counter(e.label for e in getattr(task, name)) for name in SETS]
    # a tenth of 133 is 13: 2.9, 9.8 and 0.3 of them, rounded down but at least one
    assert counts == [{0: 26, 1: 82, 2: 1}, {0: 2, 1: 9, 2: 1}, {0: 2, 1: 9, 2: 1}]
    assert len(set().union(*(texts(getattr(task, name)) for name in SETS))) == 133
    assert read_labelled(f"tsv={path}") == task
    assert task.train[0].where == f"{path}, line {2 + int(task.train[0].text.split()[1])}"
    held = [int(e.text.split()[1]) for e in task.reported if e.label == 1]
    assert held == sorted(held)  # in the order of the file, and from all over it
    assert max(held) - min(held) > 40
    assert task.notes == (
        "one set only: a tenth held out for selection, a tenth reported, by a key",
    )


def made(labels, *, pairs=False, name="x"):
    return [
        Example(f"{name} {n}", f"{name} {text}", str(text % 2) if pairs else None, label)
        for n, (text, label) in enumerate(labels)
    ]


many = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), min_size=1, max_size=120)


@given(labels=many, reported=many, pairs=st.booleans(), parts=st.integers(1, 2))
def test_equal_texts_stay_on_one_side_and_nothing_is_lost(labels, reported, pairs, parts):
    """Whatever the repetitions and the classes; sets are made or refused."""
    examples = made(labels, pairs=pairs)
    closed = texts(made(reported, pairs=pairs)) if parts == 1 else set()
    source = Source("n", "s", ("a", "b", "c"), ("accuracy",), examples)
    try:
        dealt = labelled._deal(examples, source, parts=parts, closed=closed)
    except UserError as error:
        assert "distinct text" in str(error)  # noqa: PT017 - hypothesis needs both ways
        of_class = Counter()
        for text, first in {(e.text, e.other): e for e in reversed(examples)}.items():
            of_class[first.label] += text not in closed
        assert min(c for c in of_class.values()) < 3
        return
    assert sorted(e.where for part in dealt for e in part) == sorted(e.where for e in examples)
    sides = [texts(part) for part in dealt]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert all(sides)
    assert not closed & set().union(*sides[1:])


def test_the_selection_set_is_a_tenth_of_training_at_most_2000(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    tsv(folder / "train.tsv", *sentences("ab" * 100))
    tsv(folder / "test.tsv", *sentences("ab" * 4, "test"))
    task = read_labelled(f"tsv={folder}")
    assert task.name == "mine"
    assert [len(getattr(task, name)) for name in SETS] == [180, 20, 8]
    assert [e.text for e in task.reported] == [f"test {n}" for n in range(8)]
    assert Counter(e.label for e in task.selection) == {0: 10, 1: 10}
    places = [{int(e.text.split()[1]) // 2 for e in task.selection if e.label == c} for c in (0, 1)]
    assert places[0] != places[1]  # each class has a key of its own
    assert task.notes == ("selection set: 20 examples held out from training, by a key",)
    assert labelled._MOST_SELECTION == 2000
    monkeypatch.setattr(labelled, "_MOST_SELECTION", 6)
    assert len(read_labelled(f"tsv={folder}").selection) == 6


def test_shared_texts_are_told_and_never_selected(tmp_path):
    """Half of the training texts are in the test set: they train, they do not select."""
    rows = sentences("ab" * 40)
    tsv(tmp_path / "train.tsv", *rows)
    tsv(tmp_path / "test.tsv", *rows[:41])
    task = read_labelled(f"tsv={tmp_path}")
    assert not texts(task.selection) & texts(task.reported)
    assert len(task.train) + len(task.selection) == 80
    assert task.notes[1:] == ("40 of 40 reported examples have a text of the training set",)
    tsv(tmp_path / "dev.tsv", *rows[:5])
    task = read_labelled(f"tsv={tmp_path}")
    assert [len(getattr(task, name)) for name in SETS] == [80, 4, 40]
    assert task.notes == (
        "4 of 40 reported examples have a text of the selection set",
        "40 of 40 reported examples have a text of the training set",
        "4 of 4 selection examples have a text of the training set",
    )


def test_without_a_test_file_the_validation_file_is_reported(tmp_path):
    tsv(tmp_path / "train.tsv", *sentences("ab" * 20))
    tsv(tmp_path / "validation.tsv", *sentences("aaa", "other"))
    task = read_labelled(f"tsv={tmp_path}")
    assert [len(getattr(task, name)) for name in SETS] == [36, 4, 3]
    assert task.notes[0] == "reported on validation.tsv: there is no test file"
    assert "one class only" in task.notes[-1]


def test_a_limit_is_a_fixed_sample_of_training(tmp_path):
    path = tsv(tmp_path / "a.tsv", *sentences("ab" * 50))
    whole, task = read_labelled(f"tsv={path}"), read_labelled(f"tsv={path}", limit=20)
    assert set(task.train) < set(whole.train)
    assert (len(task.train), task.selection, task.reported) == (
        20, whole.selection, whole.reported
    )  # fmt: skip
    assert [e.where for e in task.train] != [e.where for e in whole.train[:20]]
    assert task.notes[-1] == f"trained on a sample of 20 of {len(whole.train)} examples"
    assert read_labelled(f"tsv={path}", limit=20) == task
    assert read_labelled(f"tsv={path}", limit=1000) == whole
    with pytest.raises(UserError, match=r"sample of `limit` 1 \(take more\) has no example"):
        read_labelled(f"tsv={path}", limit=1)
    with pytest.raises(UserError, match="`limit` 0 must be at least 1"):
        read_labelled(f"tsv={path}", limit=0)


def test_labels_are_names_whole_numbers_or_values(tmp_path):
    def read(*labels):
        return read_labelled(f"tsv={tsv(tmp_path / 'a.tsv', *sentences(labels * 10))}")

    def all_labels(task):
        return {(e.text, e.label) for name in SETS for e in getattr(task, name)}

    assert read("no", " yes ", "maybe").labels == ("maybe", "no", "yes")
    assert read("10", "9", "-1").labels == ("-1", "9", "10")
    assert read("0.0", "1.0").labels == ("0", "1")
    assert read("1", "2", "n/a").labels == ("1", "2", "n/a")
    assert read("nan", "inf").labels == ("inf", "nan")
    assert ("text 1", 1) in all_labels(read("9", "10"))
    task = read("0.5", "1e0", "-.25")
    assert (task.regression, task.labels, task.metrics) == (True, (), ("pearson", "spearman"))
    assert {("text 0", 0.5), ("text 1", 1.0), ("text 2", -0.25)} < all_labels(task)


def test_json_pairs_and_values(tmp_path):
    records = [{"text": f"a {n}", "other": f"b {n}", "label": n / 4} for n in range(30)]
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    task = read_labelled(f"jsonl={path}")
    assert (task.name, task.regression) == ("pairs", True)
    assert [len(getattr(task, name)) for name in SETS] == [24, 3, 3]
    first = task.train[0]
    number = int(first.text[2:])
    assert first == Example(f"{path}, line {number + 1}", f"a {number}", f"b {number}", number / 4)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("train", "selection", "test"):
        jsonl(folder / f"{name}.jsonl", *({"text": f"{name} {n}", "other": None, "label": n % 3}
                                         for n in range(9)))  # fmt: skip
    task = read_labelled(f"jsonl={folder}")
    assert (task.labels, task.notes) == (("0", "1", "2"), ())
    assert task.selection[4] == Example(
        f"{folder / 'selection.jsonl'}, line 5", "selection 4", None, 1
    )


def test_a_tsv_as_it_is(tmp_path):
    """Columns in any order, quotes as characters, a byte order mark, DOS line ends, no last one."""
    path = tmp_path / "a.tsv"
    rows = [f'{n}\t"a\tt "{n}" \to{n}' for n in range(10)] + [f"x\tb\tt{n}\to" for n in range(10)]
    path.write_bytes(("\ufeffid\tlabel\ttext\tother\r\n" + "\r\n\r\n".join(rows)).encode())
    task = read_labelled(f"tsv={path}")
    assert task.labels == ('"a', "b")
    examples = [e for name in SETS for e in getattr(task, name)]
    assert len(examples) == 20
    assert Example(f"{path}, line 8", 't "3" ', "o3", 0) in examples
    assert Example(f"{path}, line 40", "t9", "o", 1) in examples


BAD_TSV = [
    (b"text\tlable\na\t1\n", r"line 1: no column 'label' \(found: text, lable\)"),
    (b"label\n1\n", r"line 1: no column 'text'"),
    (b"text\tlabel\na\n", r"line 2: 1 fields, but 2 columns"),
    (b"text\tlabel\na\tb\tc\n", r"line 2: 3 fields, but 2 columns"),
    (b"text\tlabel\na\t\n", r"line 2: 'label' is empty"),
    (b"text\tlabel\n\n \t1\n", r"line 3: 'text' is empty"),
    (b"text\tother\tlabel\na\t\t1\n", r"line 2: 'other' is empty"),
    (b"text\tlabel\na\t1\ncaf\xe9\t2\n", r"line 3: not UTF-8"),
    (b"text\tlabel\na\tx\nb\t1.5\n", r"line 2: 'label' is 'x', elsewhere a number such as 1.5"),
    (b"text\tlabel\n", "no example in it"),
    (b"", "no example in it"),
    (b"text\tlabel\na\tx\nb\tx\n", r"one label only \('x'\)"),
    (b"text\tlabel\na\t1.5\nb\t1.5\n", r"one label only \('1.5'\)"),
    (b"text\tlabel\na\t1.5\nb\t2\n", r"the file has 2 distinct text\(s\); at least 3"),
    (b"text\tlabel\na\tx\nb\ty\nc\ty\nd\ty\n", r"class 'x' has 1 distinct text\(s\); at least 3"),
]


@pytest.mark.parametrize(("content", "message"), BAD_TSV)
def test_what_is_wrong_with_a_tsv(tmp_path, content, message):
    path = tmp_path / "a.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_labelled(f"tsv={path}")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "a \ud800"}, "line 2: 'text' holds half a surrogate pair"),
        ({"other": "\udfff"}, "line 2: 'other' holds half a surrogate pair"),
        ({"label": "\ud800"}, "line 2: 'label' holds half a surrogate pair"),
        ({"other": None}, r"line 2: no 'other', but .*line 1 has one"),
        ({"other": 3}, "line 2: 'other' holds int"),
        ({"label": None}, "line 2: 'label' is None; it has to be the name of a class or a number"),
        ({"label": True}, "line 2: 'label' is True"),
        ({"label": float("nan")}, "line 2: 'label' is nan"),
        ({"label": " "}, "line 2: 'label' is empty"),
    ],
)
def test_what_is_wrong_with_a_record(tmp_path, change, message):
    good = {"text": "a", "other": "b", "label": "x"}
    path = jsonl(tmp_path / "a.jsonl", good, {**good, **change})
    with pytest.raises(UserError, match=message):
        read_labelled(f"jsonl={path}")
    jsonl(path, good, {"text": "a", "other": "b"})
    with pytest.raises(UserError, match=r"line 2: no key 'label' \(found: text, other\)"):
        read_labelled(f"jsonl={path}")


def test_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"no train\.tsv in this folder"):
        read_labelled(f"tsv={tmp_path}")
    with pytest.raises(UserError, match="nothing: no such file or folder"):
        read_labelled(f"tsv={tmp_path / 'nothing'}")
    tsv(tmp_path / "train.tsv", *sentences("ab" * 9))
    tsv(tmp_path / "test.tsv", *sentences("abc"))
    message = r"test\.tsv, line 4: label 'c' does not occur in the training file \(there: a, b\)"
    with pytest.raises(UserError, match=message):
        read_labelled(f"tsv={tmp_path}")
    tsv(tmp_path / "dev.tsv", *sentences("ab"))
    tsv(tmp_path / "validation.tsv", *sentences("ab"))
    with pytest.raises(UserError, match=r"validation\.tsv and dev\.tsv; keep one of both"):
        read_labelled(f"tsv={tmp_path}")
    whole = tsv(tmp_path / "whole" / "train.tsv", *sentences("ab"))
    tsv(whole.parent / "test.tsv", *sentences("ab"))
    with pytest.raises(UserError, match="none can be held out for selection"):
        read_labelled(f"tsv={whole.parent}")


def test_what_no_task_is_named():
    for wrong in ("rte", "glue", "glue=", "lambada=x"):
        with pytest.raises(UserError, match="name it KIND=SOURCE, KIND one of polarity, glue, xn"):
            read_labelled(wrong)
    for wrong in ("ax", "mnli_matched", "rte:"):
        with pytest.raises(UserError, match=f"glue={wrong}: name one of cola, sst2"):
            read_labelled(f"glue={wrong}")
    with pytest.raises(UserError, match="xnli=it: name one language of ar, bg"):
        read_labelled("xnli=it")


@pytest.fixture
def hub(monkeypatch):
    """A Hub of small sets: rows by split, and which were asked for."""

    class Hub(dict):
        asked: list

    made = Hub()
    made.asked = []

    def load_dataset(name, config, *, split, streaming):
        assert streaming
        made.asked.append((name, config, split))
        return iter(made[split])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return made


def rows(n, columns, labels, name):
    return [
        {**{column: f"{column} {name} {i}" for column in columns}, "label": i % labels, "idx": i}
        for i in range(n)
    ]


GLUE = [
    ("cola", ("sentence",), "unacceptable acceptable", "matthews"),
    ("sst2", ("sentence",), "negative positive", "accuracy"),
    ("mrpc", ("sentence1", "sentence2"), "not_equivalent equivalent", "accuracy f1"),
    ("qqp", ("question1", "question2"), "not_duplicate duplicate", "accuracy f1"),
    ("stsb", ("sentence1", "sentence2"), "", "pearson spearman"),
    ("mnli", ("premise", "hypothesis"), "entailment neutral contradiction", "accuracy"),
    ("mnli-mm", ("premise", "hypothesis"), "entailment neutral contradiction", "accuracy"),
    ("qnli", ("question", "sentence"), "entailment not_entailment", "accuracy"),
    ("rte", ("sentence1", "sentence2"), "entailment not_entailment", "accuracy"),
    ("wnli", ("sentence1", "sentence2"), "not_entailment entailment", "accuracy"),
]


@pytest.mark.parametrize(("name", "columns", "labels", "metrics"), GLUE)
def test_glue_of_the_hub(hub, name, columns, labels, metrics):
    split = {"mnli": "validation_matched", "mnli-mm": "validation_mismatched"}.get(
        name, "validation"
    )
    many = len(labels.split()) or 6
    hub["train"], hub[split] = (rows(n, columns, many, s) for n, s in ((60, "train"), (6, "dev")))
    task = read_labelled(f"glue={name}")
    config = name.removesuffix("-mm")
    assert hub.asked == [("nyu-mll/glue", config, "train"), ("nyu-mll/glue", config, split)]
    assert (task.name, task.source) == (name, f"hf:nyu-mll/glue:{config}")
    assert (task.labels, task.metrics) == (tuple(labels.split()), tuple(metrics.split()))
    assert task.regression == (name == "stsb")
    assert [len(getattr(task, each)) for each in SETS] == [54, 6, 6]
    fourth = task.reported[4]
    assert fourth.where == f"hf:nyu-mll/glue:{config}:{split}, row 4"
    assert fourth.text == f"{columns[0]} dev 4"
    assert fourth.other == (f"{columns[1]} dev 4" if len(columns) == 2 else None)
    assert fourth.label == 4 % many
    assert isinstance(fourth.label, float if name == "stsb" else int)
    assert task.notes[0] == "reported on GLUE's validation split: its test labels are hidden"
    for each in task.metrics:  # a name that the metrics know
        assert metric(each, np.array([0, 1, 1]), np.array([0, 1, 1])) == pytest.approx(1)


def test_xnli_of_the_hub(hub):
    for split, n in (("train", 30), ("validation", 9), ("test", 12)):
        hub[split] = rows(n, ("premise", "hypothesis"), 3, split)
    task = read_labelled("xnli=sw")
    assert hub.asked == [("facebook/xnli", "sw", s) for s in ("train", "validation", "test")]
    assert (task.name, task.metrics, task.notes) == ("xnli-sw", ("accuracy",), ())
    assert task.labels == ("entailment", "neutral", "contradiction")
    assert [len(getattr(task, name)) for name in SETS] == [30, 9, 12]
    assert task.reported[1].other == "hypothesis test 1"


def test_hidden_unknown_and_missing_labels_of_the_hub(hub):
    hub["train"] = rows(30, ("sentence1", "sentence2"), 2, "train")
    dev = rows(4, ("sentence1", "sentence2"), 2, "dev")
    for change, message in (
        ({"label": -1}, "validation, row 1: label -1: the labels of this split are hidden"),
        ({"label": 2}, r"row 1: 'label' is 2; it has to be 0 to 1 \(entailment, not_entailment\)"),
        ({"label": None}, "row 1: 'label' is None"),
        ({"label": True}, "row 1: 'label' is True"),
        ({"sentence1": " ", "sentence2": ""}, "row 1: 'sentence1' is empty"),
        ({"sentence1": "\ud800"}, "row 1: 'sentence1' holds half a surrogate pair"),
        ({"sentence2": None}, "row 1: 'sentence2' holds NoneType"),
    ):
        hub["validation"] = [dev[0], {**dev[1], **change}, *dev[2:]]
        with pytest.raises(UserError, match=message):
            read_labelled("glue=rte")
    hub["validation"] = dev
    hub["train"] = [row for row in hub["train"] if row["label"] == 1]
    with pytest.raises(UserError, match="training set has no example of class 'entailment'"):
        read_labelled("glue=rte")
    hub["validation"] = [{"sentence": "a", "label": 0}]
    hub["train"] = rows(30, ("question1", "question2"), 2, "train")
    with pytest.raises(UserError, match="row 0: no key 'question1'"):
        read_labelled("glue=qqp")


def test_a_pair_with_one_empty_text_stays_as_published(hub):
    hub["train"] = rows(30, ("question1", "question2"), 2, "train")
    hub["validation"] = rows(4, ("question1", "question2"), 2, "dev")
    hub["train"][7]["question2"] = ""
    task = read_labelled("glue=qqp")
    (found,) = [e for e in (*task.train, *task.selection) if e.other == ""]
    assert found.text == "question1 train 7"
    assert task.notes[1] == (
        "pairs with one empty text, kept as published: 1 (first: hf:nyu-mll/glue:qqp:train, row 7)"
    )


def glue_folder(folder, header, row):
    """train.tsv and dev.tsv of which `row` makes the fields of a line."""
    for name, many in (("train", 60), ("dev", 4), ("dev_matched", 4), ("dev_mismatched", 6)):
        made = [row(f"{name} {i}", i) for i in range(many)]
        tsv(folder / f"{name}.tsv", *([header] if header else []), *made)
    return folder


LOCAL = [
    ("cola", None, lambda t, i: ("gj04", i % 2, "*", t)),
    ("sst2", ("sentence", "label"), lambda t, i: (t, i % 2)),
    (
        "mrpc",
        ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        lambda t, i: (i % 2, 1, 2, t, f'"{t}'),
    ),
    (
        "mnli",
        ("index", "sentence1", "sentence2", "label1", "gold_label"),
        lambda t, i: (i, t, f'"{t}', "neutral", ("entailment", "contradiction", "neutral")[i % 3]),
    ),
    (
        "stsb",
        ("index", "old_index", "source1", "source2", "sentence1", "sentence2", "score"),
        lambda t, i: (i, "none", "s", "s", t, f'"{t}', f"{i % 5}.250"),
    ),
    (
        "rte",
        ("index", "sentence1", "sentence2", "label"),
        lambda t, i: (i, t, f'"{t}', ("entailment", "not_entailment")[i % 2]),
    ),
]


@pytest.mark.parametrize(("name", "header", "row"), LOCAL)
def test_glue_from_its_files(tmp_path, name, header, row):
    folder = glue_folder(tmp_path / "of:glue", header, row)
    task = read_labelled(f"glue={name}:{folder}")
    assert (task.name, task.source) == (name, str(folder))
    assert [len(getattr(task, each)) for each in SETS] == [54, 6, 4]
    dev = "dev_matched" if name == "mnli" else "dev"
    assert task.reported[1] == Example(
        f"{folder / dev}.tsv, line {3 if header else 2}", f"{dev} 1",
        None if name in ("cola", "sst2") else f'"{dev} 1', {"mnli": 2, "stsb": 1.25}.get(name, 1),
    )  # fmt: skip
    if name == "mnli":
        task = read_labelled(f"glue=mnli-mm:{folder}")
        assert [e.text for e in task.reported] == [f"dev_mismatched {i}" for i in range(6)]
        with pytest.raises(UserError, match=r"train\.tsv, line 1: no column 'label' \(found: ind"):
            read_labelled(f"glue=rte:{folder}")


def test_broken_lines_of_qqp_are_left_out_and_told(tmp_path):
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    folder = glue_folder(tmp_path, header, lambda t, i: (i, 1, 2, t, f"and {t}", i % 2))
    path = folder / "train.tsv"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    lines[3:3] = ['"\tWas it?\t0\n', "97931\t1\n"]
    path.write_text("".join(lines), "utf-8")
    task = read_labelled(f"glue=qqp:{folder}")
    assert len(task.train) + len(task.selection) == 60
    assert f"{path}: 2 broken lines left out (first: line 4)" in task.notes
    path.write_text("".join(lines[:1]), "utf-8")
    with pytest.raises(UserError, match=r"train\.tsv: no example in it"):
        read_labelled(f"glue=qqp:{folder}")
    path.unlink()
    with pytest.raises(UserError, match=r"train\.tsv: no such file"):
        read_labelled(f"glue=qqp:{folder}")


QUESTION = {"question": "is it so", "passage": "It is."}
MULTIRC = {"question": "Who?", "answer": "He {0}", "paragraph": "He did."}
WSC = {"span1_text": "the cup", "span2_text": "it", "text": "Take the cup; it is hot."}
PAIR = {"sentence1": "one", "sentence2": "other"}
BABYLM = {
    "boolq": (QUESTION, "is it so", "It is.", ("accuracy", "f1")),
    "multirc": (MULTIRC, "Question: Who? Answer: He {0}", "He did.", ("accuracy", "f1")),
    "rte": (PAIR, "one", "other", ("accuracy",)),
    "wsc": (WSC, 'Does "it" refer to "the cup" in this passage?', WSC["text"], ("accuracy", "f1")),
    "mrpc": (PAIR, "one", "other", ("f1", "accuracy")),
    "qqp": ({"question1": "a?", "question2": "b?"}, "a?", "b?", ("f1", "accuracy")),
    "mnli": ({"premise": "p", "hypothesis": "h"}, "p", "h", ("accuracy",)),
}  # fmt: skip


def babylm_folder(folder, names=tuple(BABYLM), examples=60):
    folder.mkdir()
    for name in names:
        fields, last = BABYLM[name][0], list(BABYLM[name][0])[-1]
        for part, number in (("train", examples), ("valid", 6)):
            jsonl(folder / f"{name}.{part}.jsonl", *(
                {**fields, last: f"{fields[last]} {part} {n}", "label": n % (2 + (name == "mnli"))}
                for n in range(number)
            ))  # fmt: skip
    return folder


def test_babylms_fine_tuning_set(tmp_path):
    """The pairs and metrics of the facts of its evaluation, by task."""
    folder = babylm_folder(tmp_path / "glue_filtered")
    tasks = read_labelled_tasks([str(folder)])
    assert [task.name for task in tasks] == sorted(BABYLM)
    for task in tasks:
        _, text, other, metrics = BABYLM[task.name]
        number = {len(getattr(task, name)) for name in ("train", "selection")}
        assert (task.metrics, number, len(task.reported)) == (metrics, {54, 6}, 6)
        assert (task.reported[0].text.removesuffix(" valid 0"),
                str(task.reported[0].other).removesuffix(" valid 0")) == (text, other)  # fmt: skip
        assert [e.label for e in task.reported] == [n % len(task.labels) for n in range(6)]
        assert any("chosen on examples held out from training" in note for note in task.notes)
        assert not texts(task.selection) & texts(task.reported)
    assert read_labelled_tasks([f"babylm={folder / 'rte.train.jsonl'}"]) == [
        task for task in tasks if task.name == "rte"
    ]


def test_what_is_wrong_with_babylms_files(tmp_path):
    folder = babylm_folder(tmp_path / "g", names=("mnli", "wsc"), examples=10_040)
    (mnli,) = read_labelled_tasks([f"babylm={folder / 'mnli.train.jsonl'}"])
    assert len(mnli.train) + len(mnli.selection) == 10_000
    assert any("a sample of 10,000 of 10,040" in note for note in mnli.notes)
    jsonl(folder / "wsc.valid.jsonl", {**WSC, "label": 1}, {"text": "a", "label": 0})
    with pytest.raises(UserError, match=r"wsc\.valid\.jsonl, line 2: no key 'span2_text'"):
        read_labelled_tasks([str(folder / "wsc.train.jsonl")])
    jsonl(folder / "wsc.valid.jsonl", {**WSC, "label": 2})
    with pytest.raises(UserError, match=r"line 1: 'label' is 2; it has to be 0 to 1 \(other, same"):
        read_labelled_tasks([f"babylm={folder / 'wsc.train.jsonl'}"])
    with pytest.raises(
        UserError, match=r"wsc\.valid\.jsonl: name TASK\.train\.jsonl or its folder"
    ):
        read_labelled_tasks([f"babylm={folder / 'wsc.valid.jsonl'}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no train\.jsonl of boolq, .*rte\.train\.jsonl"):
        read_labelled_tasks([f"babylm={tmp_path / 'empty'}"])


def polarity_folder(folder, encoding):
    for name in ("neg", "pos"):
        text = "".join(f" {name} caf\xe9 \x85 {n} . \n" for n in range(20))
        (folder / f"rt-polarity.{name}").write_bytes(text.encode(encoding))
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_polarity(tmp_path, encoding):
    """The authors' encoding and NLTK's; a control character that Python calls a line end."""
    task = read_labelled(f"polarity={polarity_folder(tmp_path, encoding)}")
    assert (task.labels, task.metrics) == (("negative", "positive"), ("accuracy",))
    assert [Counter(e.label for e in getattr(task, name)) for name in SETS] == [
        {0: 16, 1: 16}, {0: 2, 1: 2}, {0: 2, 1: 2}
    ]  # fmt: skip
    for example in task.reported:
        name = ("neg", "pos")[int(example.label)]
        number = int(example.where.rpartition(" ")[2])
        assert example.text == f"{name} caf\xe9 \x85 {number - 1} ."
        assert f"rt-polarity.{name}, line {number}" in example.where
    (tmp_path / "rt-polarity.pos").unlink()
    with pytest.raises(UserError, match=r"rt-polarity\.pos: no such file; name the folder"):
        read_labelled(f"polarity={tmp_path}")


@pytest.mark.skipif(
    not (SHARED / "nltk_sentence_polarity").is_dir(), reason="polarity is not on this machine"
)
def test_the_real_polarity():
    task = read_labelled(f"polarity={SHARED / 'nltk_sentence_polarity'}")
    assert [Counter(e.label for e in getattr(task, name)) for name in SETS] == [
        {0: 4265, 1: 4265}, {0: 533, 1: 533}, {0: 533, 1: 533}
    ]  # fmt: skip
    assert len(set().union(*(texts(getattr(task, name)) for name in SETS))) == 10662
    assert any("cliché" in e.text for e in task.train)
    assert all(e.text == e.text.strip() and "\n" not in e.text for e in task.train)
