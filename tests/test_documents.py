"""Documents: every format and compression, and what cannot be read names file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmlab.data.documents import (
    CorpusConfig,
    Document,
    Reading,
    _separated,
    read_corpus,
    reading_notes,
)
from lmlab.errors import UserError

TEXTS = ["first line\nsecond line", "naïve 東京 \U0001f600", "  spaces stay  ", "x" * 300_000]


def read(*sources, reading=None, **settings):
    return list(read_corpus(CorpusConfig(text=tuple(map(str, sources)), **settings), reading))


def compress(data: bytes, kind: str) -> bytes:
    if kind == ".gz":
        return gzip.compress(data)
    if kind == ".zst":
        return zstandard.ZstdCompressor(write_checksum=True).compress(data)  # as the tool does
    return data


def jsonl(texts, key="text") -> bytes:
    return "".join(json.dumps({key: t, "n": 1}) + "\n" for t in texts).encode()


def parquet(texts, key="text") -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({key: texts, "n": [1] * len(texts)}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
@pytest.mark.parametrize("make", [jsonl, parquet])
def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path, make, kind):
    """What is read then is neither of the two texts."""
    path = tmp_path / f"a.{make.__name__}{kind}"
    content = compress(make(["one", "two"]), kind)
    path.write_bytes(content)
    documents = read_corpus(CorpusConfig(text=(str(path),)))
    assert next(documents).text == "one"
    with path.open("ab") as file:
        file.write(content)
    with pytest.raises(UserError, match=r"a\..* changed while it was being read; run the command"):
        list(documents)


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
@pytest.mark.parametrize("make", [jsonl, parquet])
def test_a_document_a_line_or_row(tmp_path, make, kind):
    path = tmp_path / f"texts.{make.__name__}{kind}"
    path.write_bytes(compress(make(TEXTS), kind))
    documents = read(path)
    assert [d.text for d in documents] == TEXTS
    assert len({d.name for d in documents}) == len(TEXTS)
    assert all(d.name.startswith(path.name + "#") for d in documents)
    path.write_bytes(compress(make(TEXTS, "body"), kind))
    assert [d.text for d in read(path, text_column="body")] == TEXTS


def plain(texts) -> bytes:
    return "\n".join(texts).encode()


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
@pytest.mark.parametrize("make", [plain, jsonl, parquet])
@pytest.mark.parametrize("most", [None, 1])
def test_files_are_hashed_while_they_are_read(tmp_path, make, kind, most, monkeypatch):
    """The source was read three times: hashed, read, and hashed again."""
    random = np.random.default_rng(0).integers(97, 123, (9, 200_000), dtype=np.uint8)
    ending = "txt" if make is plain else make.__name__
    path = tmp_path / f"a.{ending}{kind}"  # longer than what is read ahead of the first document
    path.write_bytes(compress(make([row.tobytes().decode() for row in random]), kind))
    opened = []

    def counted(path, *how, **more):
        opened.append(path)
        return open(path, *how, **more)

    monkeypatch.setattr("lmlab.data.documents.open", counted, raising=False)
    reading = Reading()
    read(path, reading=reading, max_documents=most)
    assert reading.sha256 == {path: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert reading.files == {0: [(path.name, path)]}
    assert opened == ([] if path.suffix == ".parquet" else [path])


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_file_is_one_document_taken_as_it_is(tmp_path, text, kind):
    path = tmp_path / f"a.txt{kind}"
    path.write_bytes(compress(text.encode(), kind))
    assert read(path) == [Document(f"a.txt{kind}", text)]


def test_separator_cuts_text_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n\n\nthree\n\n")
    assert [d.text for d in read(path, separator="\n\n")] == ["one\ntwo", "three"]
    assert len({d.name for d in read(path, separator="\n\n")}) == 2
    with pytest.raises(UserError, match=r"separator"):
        read(path, separator="")


def test_folders_are_read_in_sorted_order_without_hidden_and_other_files(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/c.jsonl", ".hidden.txt", ".git/x.txt", "picture.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jsonl([name]) if name.endswith("jsonl") else name.encode())
    assert [d.name for d in read(tmp_path)] == ["a/c.jsonl#1", "a/z.txt", "b.txt"]


def test_patterns_take_what_matches_and_nothing_else(tmp_path, monkeypatch):
    for name in ("b.txt", "a.txt", "SOURCE.txt", ".hidden.txt", "deep/a2.txt", "deep/.x/a3.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert [d.name for d in read(tmp_path / "[ab]*.txt")] == ["a.txt", "b.txt"]
    assert [d.name for d in read(tmp_path / "**" / "a*.txt")] == ["a.txt", "deep/a2.txt"]
    monkeypatch.chdir(tmp_path)
    assert [d.text for d in read("?.txt")] == ["a.txt", "b.txt"]
    (tmp_path / "x[1].txt").write_text("a file of that very name")
    assert [d.name for d in read("x[1].txt")] == ["x[1].txt"]
    with pytest.raises(UserError, match="no file matches"):
        read("c*.txt")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match=r"unknown format '\.pdf'"):
        read("a.*")


def test_several_sources_keep_their_names_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    documents = read(tmp_path / "two", tmp_path / "one", tmp_path / "one" / "a.txt")
    assert [(d.name, d.text) for d in documents] == [
        ("0/a.txt", "two"),
        ("1/a.txt", "one"),
        ("2/a.txt", "one"),
    ]


def test_max_documents_stops_early(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(["a", "b", "c"]) + b"this line is never parsed\n")
    assert [d.text for d in read(tmp_path, max_documents=2)] == ["a", "b"]
    with pytest.raises(UserError, match="max_documents` 0"):
        CorpusConfig(max_documents=0)


def test_hub_data_sets_are_streamed(monkeypatch):
    asked = []

    def load_dataset(name, config, *, split, streaming):
        asked.append((name, config, split, streaming))
        return iter([{"text": "a"}, {"text": "b"}, {"other": "c"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert [d.text for d in read("hf:org/set", max_documents=2)] == ["a", "b"]
    names = [d.name for d in read("hf:org/set:en:test", max_documents=2)]
    assert names == ["hf:org/set:en:test#0", "hf:org/set:en:test#1"]
    assert asked == [("org/set", None, "train", True), ("org/set", "en", "test", True)]
    with pytest.raises(UserError, match=r"row 2: no key 'text'"):
        read("hf:org/set")


def test_a_hub_data_set_that_cannot_be_read_names_itself(monkeypatch):
    def load_dataset(*arguments, **settings):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"hf:org/set: .*no network"):
        read("hf:org/set")


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
def test_not_utf8_names_file_line_and_remedy(tmp_path, kind):
    path = tmp_path / f"latin.txt{kind}"
    path.write_bytes(compress("good\nstill good\ncaf\xe9\n".encode("latin1"), kind))
    with pytest.raises(UserError, match=r"latin\.txt.*, line 3: not UTF-8 .*0xe9.*iconv"):
        read(path)
    lines = tmp_path / f"lines.jsonl{kind}"
    lines.write_bytes(compress(b'{"text": "a"}\n{"text": "\xff"}\n', kind))
    with pytest.raises(UserError, match=r"lines\.jsonl.*, line 2: not UTF-8"):
        read(lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json}", "not JSON"),
        (b'{"txt": "a"}', r"no key 'text' \(found: txt\).*`corpus.text_column`"),
        (b'["text"]', "a list, where lmlab reads one object a line"),
        (b'"text"', r"no key 'text' \(found: str\)"),
        (b'{"text": null}', "'text' is null.*`corpus.skip_empty`"),
        (
            b'{"text": {"en": "a"}}',
            r"'text' holds keys \(en\).*text_column`, as in text.en",
        ),
        (b'{"text": ["a"]}', "'text' holds list; it has to be text"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": " \\n"}', "empty.*skip_empty"),
    ],
)
def test_a_bad_line_names_file_and_line(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"bad\.jsonl(, line |#)3: .*{message}"):
        read(path)


def test_json_surrogate_pairs_are_characters(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\\ud83d\\ude00"}')
    assert read(tmp_path)[0].text == "\U0001f600"


def test_bad_parquet_names_file_row_and_column(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(["a", None, "c"]))
    with pytest.raises(UserError, match=r"a\.parquet, row 1: 'text' is null"):
        read(path)
    with pytest.raises(UserError, match=r"a\.parquet: no column 'body' \(found: text, n\)"):
        read(path, text_column="body")
    path.write_bytes(parquet(["a"])[:-3])
    with pytest.raises(UserError, match=r"a\.parquet: not a parquet file"):
        read(path)


def test_empty_files_and_documents(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"empty\.txt: the file is empty.*`corpus\.skip_empty`"):
        read(tmp_path)
    (tmp_path / "blank.txt").write_text(" \n")
    assert [d.name for d in read(tmp_path, skip_empty=True)] == ["a.txt"]
    with pytest.raises(UserError, match=r"blank\.txt: the document is empty.*skip_empty"):
        read(tmp_path)


def test_an_empty_corpus_names_its_source(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: no \.txt, \.train, .*, \.parquet file"):
        read(tmp_path)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(UserError, match=rf"no document with text in {tmp_path}"):
        read(tmp_path, skip_empty=True)
    with pytest.raises(UserError, match=r"nowhere: no such file.*hf:NAME"):
        read(tmp_path / "nowhere")
    (tmp_path / "a.pdf").write_bytes(b"%PDF\xff")
    with pytest.raises(UserError, match=r"a\.pdf, line 1: not UTF-8 .*Of another ending than"):
        read(tmp_path / "a.pdf")


@pytest.mark.parametrize("kind", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flip", "start", "header"])
def test_damaged_compression_names_the_file(tmp_path, kind, damage):
    data = bytearray(compress(jsonl([os.urandom(1000).hex() for _ in range(400)]), kind))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    elif damage == "start":
        data[10:14] = b"\xff" * 4
    else:
        data[:4] = b"oops"
    path = tmp_path / f"a.jsonl{kind}"
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"a\.jsonl{kind}(: damaged|, line)"):
        read(path)


def test_zst_of_several_frames_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.txt.zst"
    one = zstandard.ZstdCompressor()
    path.write_bytes(one.compress(b"one ") + one.compress(b"") + one.compress(b"two"))
    assert read(path)[0].text == "one two"
    path.write_bytes(one.compress(b"one ") + one.compress(b"two" * 9)[:-3])
    with pytest.raises(UserError, match=r"a\.txt\.zst: damaged"):
        read(path)
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    path.write_bytes(stream.compress(b"abc" * 500_000) + stream.flush())
    assert read(path)[0].text == "abc" * 500_000


def test_a_file_that_may_not_be_read_names_itself(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")

    def refuse(path, reading):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("lmlab.data.documents._open", refuse)
    with pytest.raises(UserError, match=r"a\.txt: cannot be read: Permission denied"):
        read(tmp_path)


def marked(text: str, encoding: str) -> bytes:
    return ("\ufeff" + text).encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", ["", ".gz"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(tmp_path, encoding, kind):
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS[:3])
    (tmp_path / f"a.txt{kind}").write_bytes(compress(marked("naïve\nfilé", encoding), kind))
    (tmp_path / f"b.jsonl{kind}").write_bytes(compress(marked(lines, encoding), kind))
    reading = Reading()
    assert [d.text for d in read(tmp_path, reading=reading)] == ["naïve\nfilé", *TEXTS[:3]]
    assert reading.to_json() == {"byte_order_marks": {encoding: 2}}
    assert any(encoding.upper() in note for note in reading_notes(reading.to_json()))


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Ein Büro – “gut”".encode("cp1252"))
    with pytest.raises(UserError, match=r"0xfc at byte offset 5.*`corpus\.encoding` cp1252"):
        read(path)
    assert read(path, encoding="cp1252")[0].text == "Ein Büro – “gut”"
    (tmp_path / "b.jsonl").write_bytes('{"text": "Büro"}\n\n{"text": "für"}'.encode("utf-16-le"))
    with pytest.raises(UserError, match=r"b\.jsonl, line 1: .*NUL.*utf-16-le"):
        read(tmp_path / "b.jsonl")
    assert [d.text for d in read(tmp_path / "b.jsonl", encoding="utf-16-le")] == ["Büro", "für"]
    path.write_bytes("plain ASCII".encode("utf-16-be"))  # without a mark: valid UTF-8
    with pytest.raises(UserError, match=r"a\.txt, line 1: every tenth byte or more is NUL"):
        read(path)
    path.write_bytes(marked("a mark wins", "utf-8"))
    assert read(path, encoding="utf-16-le")[0].text == "a mark wins"
    for unknown in ("latin-99", "rot13", "base64"):
        with pytest.raises(UserError, match=f"`corpus.encoding` {unknown}: no encoding"):
            CorpusConfig(encoding=unknown)


def test_line_ends_of_windows_are_those_of_the_file_not_of_the_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\r\n\r\nthree\r\n")
    for separator in ("\n\n", "\r\n\r\n"):
        reading = Reading()
        assert [d.text for d in read(path, separator=separator, reading=reading)] == [
            "one\ntwo", "three\n"
        ]  # fmt: skip
        assert reading.windows_line_ends == 1
    path.write_bytes(b"one\rtwo")  # of no system that is in use
    assert read(path)[0].text == "one\rtwo"
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "as\\r\\nsaid"}\r\n')
    assert read(tmp_path / "b.jsonl")[0].text == "as\r\nsaid"


def test_a_separator_that_no_file_has_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo")
    with pytest.raises(UserError, match=r"is in none of the 1 text files.*separator` \$'\\n\\n'"):
        read(path, separator=r"\n\n")
    with pytest.raises(UserError, match=r"'###' is in none.*leave the option out"):
        read(path, separator="###")
    (tmp_path / "b.txt").write_text("a file that is one document")
    assert len(read(tmp_path, separator="\n\n")) == 3


@pytest.mark.parametrize("make", [jsonl, parquet])
def test_null_rows_are_left_out_and_counted(tmp_path, make):
    path = tmp_path / f"a.{make.__name__}"
    path.write_bytes(make(["a", None, " ", None, "b"]))
    reading = Reading()
    assert [d.text for d in read(path, skip_empty=True, reading=reading)] == ["a", "b"]
    assert reading.to_json() == {"empty": 1, "null": 2}
    with pytest.raises(UserError, match=r"'text' is null.*`corpus\.skip_empty`"):
        read(path)


@pytest.mark.parametrize("make", [jsonl, parquet])
def test_text_of_nested_rows_is_named_with_dots(tmp_path, make):
    path = tmp_path / f"a.{make.__name__}"
    path.write_bytes(make([{"de": "b", "en": "a"}, {"de": None, "en": "c"}], key="both"))
    assert [d.text for d in read(path, text_column="both.en")] == ["a", "c"]
    assert [d.text for d in read(path, text_column="both.de", skip_empty=True)] == ["b"]
    with pytest.raises(UserError, match=r"'both' holds keys \(de, en\).*as in both\.de"):
        read(path, text_column="both")
    with pytest.raises(UserError, match=r"no key 'both\.fr' \(found: de, en\)"):
        read(path, text_column="both.fr")
    path.write_bytes(make(["a", "b"], key="both.en"))  # a key of that very name
    assert [d.text for d in read(path, text_column="both.en")] == ["a", "b"]


def test_linked_folders_are_read_once_and_circles_end(tmp_path):
    real, corpus = tmp_path / "real", tmp_path / "corpus"
    for folder in (real / "deep", corpus / "own"):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(folder.name)
    (corpus / "again").symlink_to(corpus / "own")
    (corpus / "circle").symlink_to(corpus)
    (corpus / "more").symlink_to(real)
    (corpus / "nowhere.txt").symlink_to(tmp_path / "nothing")
    (corpus / "file.txt").symlink_to(real / "deep" / "a.txt")
    reading = Reading()
    names = [d.name for d in read(corpus, reading=reading)]
    assert names == ["file.txt", "more/deep/a.txt", "own/a.txt"]
    assert reading.left_out == {
        "linked folder that was read already": 2,
        "link that leads nowhere, or no file": 1,
    }
    assert [d.name for d in read(corpus / "**" / "a.txt")] == ["more/deep/a.txt", "own/a.txt"]


def test_endings_in_capitals_are_read_and_others_are_counted(tmp_path):
    for name in ("a.txt", "b.TXT", "c.Txt", ".d.txt", "notes.md", "more.md", "LICENSE"):
        (tmp_path / name).write_text(name)
    (tmp_path / "e.JSONL.GZ").write_bytes(compress(jsonl(["e"]), ".gz"))
    (tmp_path / "f.PARQUET").write_bytes(parquet(["f"]))
    reading = Reading()
    assert [d.text for d in read(tmp_path, reading=reading)] == [
        "a.txt", "b.TXT", "c.Txt", "e", "f"
    ]  # fmt: skip
    assert reading.left_out == {".md": 2, "hidden": 1, "without an ending": 1}
    (note,) = reading_notes(reading.to_json())
    assert "2 .md" in note


def test_files_of_other_endings_are_text_where_that_is_said(tmp_path):
    for name in ("a.tex", "b.md", "c.TEX"):
        (tmp_path / name).write_text(f"{name}\n\nline")
    with pytest.raises(UserError, match=r"left out: \.md, \.tex\).*`corpus\.text_suffixes`"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"unknown format.*`corpus\.text_suffixes` \.tex"):
        read(tmp_path / "*.tex")
    names = [d.name for d in read(tmp_path, text_suffixes=(".tex",))]
    assert names == ["a.tex", "c.TEX"]
    for wrong in ("tex", ".txt", ".train"):
        with pytest.raises(UserError, match=f"`corpus.text_suffixes` {wrong}"):
            CorpusConfig(text_suffixes=(wrong,))


@pytest.mark.parametrize("name", ["notes.md", "README", "a.json", "b.md.gz"])
def test_a_file_that_is_named_is_text_whatever_its_ending(tmp_path, name):
    path = tmp_path / name
    kind = ".gz" if name.endswith(".gz") else ""
    path.write_bytes(compress(b"one\n\ntwo", kind))
    reading = Reading()
    assert [d.text for d in read(path, reading=reading)] == ["one\n\ntwo"]
    (note,) = reading_notes(reading.to_json())
    assert "since they were named: 1 " in note
    path.write_bytes(compress(b"%PDF\xff\xfe", kind))
    with pytest.raises(UserError, match=r"line 1: not UTF-8 .*Of another ending than \.txt, .*"):
        read(path)


@pytest.mark.parametrize("kind", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["childes.train", "a.dev", "B.TEST"])
def test_blank_lines_stand_between_the_documents_of_train_dev_and_test(tmp_path, name, kind):
    text = "\none\ntwo \n \t\n\nthree\r\nfour\n\r\nfive"
    (tmp_path / f"{name}{kind}").write_bytes(compress(text.encode(), kind))
    for source in (tmp_path, tmp_path / f"{name}{kind}", tmp_path / "*"):
        reading = Reading()
        documents = read(source, reading=reading)
        assert reading.to_json() == {"windows_line_ends": 1}
        assert [d.text for d in documents] == ["one\ntwo ", "three\nfour", "five"]
        assert [d.name.rpartition("#")[2] for d in documents] == ["2", "6", "9"]
    assert [d.text for d in read(tmp_path, separator="three")] == [
        "\none\ntwo \n \t\n\n", "\nfour\n\nfive",
    ]  # fmt: skip
    assert [d.text for d in read(tmp_path, lines="documents")] == [
        "one", "two ", "three", "four", "five",
    ]  # fmt: skip
    (tmp_path / "blank.dev").write_text(" \n\n")
    with pytest.raises(UserError, match=r"blank\.dev: the document is empty"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"`corpus.separator` and `corpus.lines`"):
        CorpusConfig(lines="joined", separator="x")


@given(
    st.text("a \n\t\u2028", max_size=40), st.integers(4, 9), st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-16"]),
)  # fmt: skip
def test_lines_are_cut_as_a_pattern_says(tmp_path_factory, text, block, line_end, encoding):
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(f"é\n{text}".replace("\n", line_end).encode(encoding))
    text = f"é\n{text}"
    sections = [m.group().removesuffix("\n") for m in re.finditer(
        r"(?m)(?:^[^\n]*[^\s][^\n]*(?:\n|\Z))+", text
    )]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmlab.data.documents._BLOCK", block)
        joined, documents = read(path, lines="joined"), read(path, lines="documents")
    assert [d.text for d in joined] == sections
    assert [d.text for d in documents] == [x for x in text.split("\n") if x.strip()]
    lines = text.split("\n")
    for document in documents:
        assert lines[int(document.name.rpartition("#")[2]) - 1] == document.text
    for document in joined:
        start = int(document.name.rpartition("#")[2]) - 1
        assert "\n".join(lines[start:]).startswith(document.text)
    assert [d.text for d in read(path)] == [text]  # .txt as ever


@given(st.text("ab \n", max_size=60), st.text("ab\n", min_size=1, max_size=3), st.integers(1, 9))
def test_a_file_that_is_read_in_blocks_is_cut_where_the_whole_text_is(text, separator, block):
    read = Reading()
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    assert list(_separated(blocks, separator, read)) == text.split(separator)
    assert read.separated == (separator in text)


def test_a_large_text_file_is_read_as_a_small_one(tmp_path, monkeypatch):
    path, text = tmp_path / "a.txt", "one\r\ntwo 東京\r\n\r\nthree\n\n \n\nfour" * 9
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    whole, blocks = Reading(), Reading()
    expected = read(path, reading=whole, separator="\n\n")
    monkeypatch.setattr("lmlab.data.documents._BLOCK", 8)
    assert read(path, reading=blocks, separator="\n\n") == expected
    assert len(expected) == 19
    assert blocks == whole
    path.write_bytes(text.encode() + b"\n\xff")
    with pytest.raises(
        UserError, match=rf"line 65: .*0xff at byte offset {len(text.encode()) + 1}\)"
    ):
        read(path, separator="\n\n")
