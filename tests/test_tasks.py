"""Readers of evaluation tasks: forms, archives, the Hub, limits, and what is wrong where."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lmlab.data.tasks import LastWord, MinimalPair, MultipleChoice, read_task, read_tasks
from lmlab.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(path)


def read(kind, source, **settings) -> Any:
    """A task whose items tests look into."""
    return read_task(kind, source, **settings)


def pair(uid, number, field="syntax"):
    return {
        "sentence_good": f"{uid} {number} good",
        "sentence_bad": f"{uid} {number} bad",
        "UID": uid,
        "field": field,
        "linguistics_term": "islands",
    }


def test_lambada_is_split_before_its_last_word(tmp_path):
    path = lines(
        tmp_path / "l.jsonl", {"text": "one two  three"}, {"text": "four,\n\nfive\n", "more": 1}
    )
    task = read("lambada", path)
    assert (task.kind, task.source, task.available) == ("lambada", path, 2)
    assert task.items == [
        LastWord(f"{path}, line 1", "one two", " three"),
        LastWord(f"{path}, line 2", "four,", " five"),
    ]


def test_blimp_from_a_file_a_folder_and_an_archive(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    one = lines(folder / "b.jsonl", pair("b", 0), pair("b", 1))
    lines(folder / "a.jsonl", pair("a", 0, "syntax_semantics"), pair("a", 1, "syntax/semantics"))
    (folder / ".DS_Store").write_bytes(b"\x00")
    (folder / "._a.jsonl").write_bytes(b"\x00\xff")
    archive = tmp_path / "BLiMP.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for file in folder.iterdir():
            made.write(file, f"data/{file.name}")
        made.writestr("__MACOSX/data/c.jsonl", b"\x00\xff")
    assert read("blimp", one).items[1] == MinimalPair(
        f"{one}, line 2", "b 1 good", "b 1 bad", "b", "syntax", "islands"
    )
    for source, first in ((folder, folder / "a.jsonl"), (archive, archive / "data/a.jsonl")):
        task = read("blimp", str(source))
        assert [(i.uid, i.good[2:3], i.field) for i in task.items] == [
            ("a", "0", "syntax/semantics"),
            ("a", "1", "syntax/semantics"),
            ("b", "0", "syntax"),
            ("b", "1", "syntax"),
        ]
        assert task.items[0].where == f"{first}, line 1"


def test_choices(tmp_path):
    path = tmp_path / "c.jsonl.gz"
    records = [
        {"context": "A:", "choices": [" b", " c", " d"], "answer": 2, "group": "g"},
        {"context": "", "choices": ["x", "y"], "answer": 0, "group": None},
    ]
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, records)).encode()))
    assert read("choices", str(path)).items == [
        MultipleChoice(f"{path}, line 1", "A:", (" b", " c", " d"), 2, "g"),
        MultipleChoice(f"{path}, line 3", "", ("x", "y"), 0, None),
    ]


def test_a_limit_is_a_fixed_sample_of_each_set(tmp_path):
    path = lines(tmp_path / "b.jsonl", *(pair(uid, n) for n in range(40) for uid in "ab"))
    whole, task = read("blimp", path), read("blimp", path, limit=7)
    assert (task.available, len(task.items)) == (80, 14)
    assert Counter(i.uid for i in task.items) == {"a": 7, "b": 7}
    assert len(set(task.items)) == 14
    assert set(task.items) < set(whole.items)
    assert [i.where for i in task.items] != [i.where for i in whole.items][:14]
    assert read("blimp", path, limit=7) == task
    assert read("blimp", path, limit=99) == whole
    words = lines(tmp_path / "l.jsonl", *({"text": f"word {n}"} for n in range(40)))
    numbers = [int(i.target) for i in read("lambada", words, limit=9).items]
    assert len(set(numbers)) == 9
    assert numbers == sorted(numbers) != list(range(9))


GOOD = {"context": "A:", "choices": [" b", " c"], "answer": 1}
BAD = [
    ("lambada", b'{"text": "a b"}\n{"text": \n', r"line 2: not JSON"),
    ("lambada", b'\n{"text": "a b"}\n\n{"other": 1}\n', r"line 4: no key 'text' \(found: other\)"),
    ("lambada", b'{"text": "a b"}\n{"text": "caf\xe9 b"}\n', r"line 2: not UTF-8"),
    ("lambada", b'{"text": "word"}\n', r"line 1: 'text' is a single word"),
    ("lambada", b'{"text": " "}\n', r"line 1: 'text' is empty"),
    ("lambada", b'{"text": 3}\n', r"line 1: 'text' holds int"),
    ("lambada", b'{"text": "a \\ud800"}\n', r"line 1: 'text' holds half a surrogate pair"),
    ("lambada", b'["a b"]\n', r"line 1: holds list, not an object"),
    ("lambada", b"\n", r"no item in it"),
    ("blimp", b'{"sentence_good": "a", "sentence_bad": "b"}\n', r"line 1: no key 'UID'"),
]
BAD += [
    ("choices", json.dumps({**GOOD, **change}).encode(), message)
    for change, message in (
        ({"context": None}, r"line 1: no 'context'"),
        ({"context": " "}, r"line 1: 'context' is empty"),
        ({"choices": [" b"]}, r"line 1: 'choices' has to be a list of at least two"),
        ({"choices": " b"}, r"line 1: 'choices' has to be a list"),
        ({"choices": [" b", " "]}, r"line 1: choice 1 is empty"),
        ({"choices": [" b", 2]}, r"line 1: choice 1 holds int"),
        ({"answer": 2}, r"line 1: 'answer' has to be .* 0 to 1; it is 2"),
        ({"answer": -1}, r"it is -1"),
        ({"answer": True}, r"it is True"),
        ({"answer": "b"}, r"it is 'b'"),
        ({"group": 7}, r"line 1: 'group' holds int"),
    )
]


@pytest.mark.parametrize(("kind", "content", "message"), BAD)
def test_what_is_wrong_is_named_with_its_line(tmp_path, kind, content, message):
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(kind, str(path))
    assert str(path) in str(caught.value)


def test_a_set_of_two_fields(tmp_path):
    path = lines(tmp_path / "b.jsonl", pair("a", 0), pair("a", 1, "semantics"))
    with pytest.raises(UserError, match=r"line 2: set 'a' has field 'semantics' here"):
        read("blimp", path)


def test_bad_sources(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read("lambada", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"no \.jsonl file in this folder"):
        read("blimp", str(tmp_path))
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("readme.txt", "nothing")
    with pytest.raises(UserError, match=r"no \.jsonl file in this archive"):
        read("blimp", str(archive))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.jsonl", json.dumps(pair("a", 0)) * 50)
    with pytest.raises(UserError, match=r"a\.zip/a\.jsonl, line 1: not JSON"):
        read("blimp", str(archive))
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip: damaged archive"):
        read("blimp", str(archive))
    archive.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"a\.zip: damaged archive"):
        read("blimp", str(archive))
    (tmp_path / "l.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a b"}\n' * 9)[:-9])
    with pytest.raises(UserError, match=r"l\.jsonl\.gz: damaged file"):
        read("lambada", str(tmp_path / "l.jsonl.gz"))


def test_tasks_are_named_kind_and_source(tmp_path):
    path = lines(tmp_path / "a=b.jsonl", {"text": "one two"})
    (task,) = read_tasks([f"lambada={path}"])
    assert task == read("lambada", path)
    with pytest.raises(UserError, match=r"a=b.jsonl: has the form of no task"):
        read_tasks([path])  # any text has the form of LAMBADA
    for wrong in ("lambada", "lambada=", f"arc={path}"):
        with pytest.raises(UserError, match="name it KIND=SOURCE, KIND one of lambada, blimp, sup"):
            read_tasks([wrong])
    with pytest.raises(UserError, match="at least one task"):
        read_tasks([])
    with pytest.raises(UserError, match="`limit` 0"):
        read_tasks([f"lambada={path}"], limit=0)


def test_the_hubs_data_sets(monkeypatch):
    asked = []

    def load_dataset(name, config, *, split, streaming):
        asked.append((name, config, split, streaming))
        return iter([pair(config, 0)] if config else [{"text": "one two"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda name: [name + "1", name + "2"])
    (word,) = read("lambada", "hf:org/words").items
    assert word == LastWord("hf:org/words, row 0", "one", " two")
    assert [i.uid for i in read("blimp", "hf:b").items] == ["b1", "b2"]
    assert read("supplement", "hf:org/extra:hypernym").sets == ("hypernym",)
    assert [i.uid for i in read("blimp", "hf:b:one:dev").items] == ["one"]
    assert asked == [
        ("org/words", None, "test", True),
        ("b", "b1", "train", True),
        ("b", "b2", "train", True),
        ("org/extra", "hypernym", "test", True),
        ("b", "one", "dev", True),
    ]

    def no_network(name):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.get_dataset_config_names", no_network)
    with pytest.raises(UserError, match=r"hf:b: .*no network"):
        read("blimp", "hf:b")


@pytest.mark.skipif(not (SHARED / "lambada").is_dir(), reason="LAMBADA is not on this machine")
def test_the_real_lambada():
    task = read("lambada", str(SHARED / "lambada" / "lambada_test.jsonl"))
    assert len(task.items) == 5153
    assert task.items[0].target == " signs"
    assert task.items[0].context.endswith("I don't care about")


@pytest.mark.skipif(not (SHARED / "blimp").is_dir(), reason="BLiMP is not on this machine")
def test_the_real_blimp():
    task = read("blimp", str(SHARED / "blimp" / "BLiMP.zip"))
    sets = Counter(i.uid for i in task.items)
    assert (len(sets), set(sets.values())) == (67, {1000})
    assert {i.field for i in task.items} == {
        "morphology", "semantics", "syntax", "syntax/semantics"
    }  # fmt: skip
    assert len({i.term for i in task.items}) == 13
    assert sum(i.good == i.bad for i in task.items) == 7
