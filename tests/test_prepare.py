"""Prepare: from text to store; reused on the same inputs, refused on others, nothing harmed."""

from __future__ import annotations

import json
import re
import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helpers import mixed_store, sentences, split_names, symbols_tokenizer, tree
from lmlab.cli import main
from lmlab.data import prepare as prepare_module
from lmlab.data.documents import CorpusConfig, Document, source_names
from lmlab.data.prepare import PrepareConfig, describe_request, prepare
from lmlab.data.splits import SplitConfig, few_test_documents
from lmlab.data.store import EncodedDocument, TokenStore, write_store
from lmlab.data.tokenizers import TextLoss, TokenizerConfig
from lmlab.errors import UserError

TEXTS = sentences(60, seed=1)


@pytest.fixture
def config(text_folder, tmp_path):
    """What made `text_store`, towards another folder."""
    return PrepareConfig(
        out=tmp_path / "out" / "store",
        corpus=CorpusConfig(text=(str(text_folder),)),
        tokenizer=TokenizerConfig(vocabulary=300),
        split=SplitConfig(validation=0.2, test=0.1),
    )


def test_every_document_is_in_one_split_and_reads_as_it_was(text_store):
    found = {}
    for name in ("train", "validation", "test"):
        split = text_store.split(name)
        sizes = split.documents_M3[:, 2]
        assert split.text_bytes == sizes.sum()
        for document, (start, tokens, size) in zip(split.names, split.documents_M3, strict=True):
            text = text_store.tokenizer.decode(split.read(start, start + tokens))
            assert size == len(text.encode())
            assert document not in found
            found[document] = text
            after = split.read(start + tokens, start + tokens + 1)
            assert after.tolist() == [text_store.tokenizer.end_of_text_id]
    assert found == {f"{i:03d}.txt": text for i, text in enumerate(TEXTS)}
    share = text_store.split("validation").text_bytes / sum(len(t.encode()) for t in TEXTS)
    assert 0.2 <= share < 0.25
    text_store.verify()


def test_the_tokenizer_is_learnt_from_the_training_split_alone(config, monkeypatch):
    seen = []
    build = prepare_module.build_tokenizer

    def listen(tokenizer, texts):
        seen.extend(texts)
        return build(tokenizer, seen)

    monkeypatch.setattr(prepare_module, "build_tokenizer", listen)
    store = prepare(config)
    names = [f"{TEXTS.index(text):03d}.txt" for text in seen]
    assert names == store.split("train").names


def test_the_same_inputs_make_the_same_store_and_reuse_it(config, text_store, monkeypatch, capsys):
    made = prepare(config)
    assert made.fingerprint == text_store.fingerprint
    assert tree(made.path) == tree(text_store.path)
    assert [p.name for p in config.out.parent.iterdir()] == ["store"]  # no spool stays

    def never(*arguments, **settings):
        raise AssertionError("read again")

    monkeypatch.setattr(prepare_module, "read_corpus", never)
    assert prepare(config).fingerprint == made.fingerprint
    assert "reusing" in capsys.readouterr().err


def test_a_moved_folder_is_the_same_input(config, text_folder, tmp_path):
    prepare(config)
    moved = shutil.copytree(text_folder, tmp_path / "moved")
    prepare(replace(config, corpus=CorpusConfig(text=(str(moved),))))
    (moved / "003.txt").write_text("changed, with the same name")
    with pytest.raises(UserError, match="different: sources"):
        prepare(replace(config, corpus=CorpusConfig(text=(str(moved),))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokenizer": TokenizerConfig(vocabulary=310)}, "tokenizer"),
        ({"split": SplitConfig(validation=0.2, test=0.1, seed=1)}, "split"),
        ({"corpus": "separator"}, "corpus"),
        ({"corpus": "more"}, "sources"),
    ],
)
def test_other_inputs_are_refused_and_nothing_is_harmed(config, text_folder, change, named):
    if change.get("corpus") == "separator":
        change = {"corpus": replace(config.corpus, separator="\n")}
    elif change.get("corpus") == "more":
        change = {"corpus": CorpusConfig(text=(str(text_folder), str(text_folder / "000.txt")))}
    store = prepare(config)
    before = tree(store.path)
    with pytest.raises(UserError, match=rf"other inputs \(different: {named}\).*another `out`"):
        prepare(replace(config, **change))
    assert tree(store.path) == before


def test_a_folder_that_holds_something_else(config):
    config.out.mkdir(parents=True)
    (config.out / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not a token store"):
        prepare(config)
    assert (config.out / "thesis.tex").read_text() == "precious"


def test_a_place_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file" / "store", tmp_path / "file" / "a" / "store"):
        with pytest.raises(UserError, match=r"cannot write .*store.*`out`"):
            prepare(replace(config, out=out))
    assert (tmp_path / "file").read_text() == "precious"


def test_bad_text_leaves_nothing_behind(config, tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"good")
    (folder / "b.txt").write_bytes(b"bad \xff")
    with pytest.raises(UserError, match=r"b\.txt, line 1: not UTF-8"):
        prepare(replace(config, corpus=CorpusConfig(text=(str(folder),))))
    assert list(config.out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "tokenizer",
    [TokenizerConfig(kind="bytes"), TokenizerConfig(vocabulary=300, reversed_text=True)],
)
def test_other_tokenizers(config, tokenizer):
    store = prepare(replace(config, tokenizer=tokenizer))
    split = store.split("validation")
    start, tokens, _ = split.documents_M3[0]
    text = TEXTS[int(split.names[0][:3])]
    assert store.tokenizer.decode(split.read(start, start + tokens)) == text
    assert store.tokenizer.reversed_text == tokenizer.reversed_text


def test_a_pretrained_tokenizer_is_recognised_by_content(config, text_store, tmp_path):
    folder = shutil.copytree(text_store.path / "tokenizer", tmp_path / "tokenizer")
    wanted = replace(config, tokenizer=TokenizerConfig(kind="pretrained", name=str(folder)))
    assert prepare(wanted).fingerprint == text_store.fingerprint
    prepare(wanted)
    other = prepare(replace(config, out=tmp_path / "o", tokenizer=TokenizerConfig(kind="bytes")))
    for name, data in other.tokenizer.files().items():
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match="different: tokenizer"):
        prepare(wanted)


def test_a_hub_data_set_is_recognised_by_revision_and_offline_by_name(config, monkeypatch):
    revision: list[str | None] = ["abc"]
    documents = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
    monkeypatch.setattr(prepare_module, "read_corpus", lambda *_, **__: iter(documents))
    monkeypatch.setattr(prepare_module, "_hub_revision", lambda source: revision[0])
    hub = replace(config, corpus=CorpusConfig(text=("hf:org/set",)))
    made = prepare(hub)
    monkeypatch.setattr(prepare_module, "read_corpus", None)
    assert prepare(hub).fingerprint == made.fingerprint
    revision[0] = None  # offline
    assert prepare(hub).fingerprint == made.fingerprint
    with pytest.raises(UserError, match="different: sources"):
        prepare(replace(config, corpus=CorpusConfig(text=("hf:org/other",))))
    revision[0] = "def"
    with pytest.raises(UserError, match="different: sources"):
        prepare(hub)


def test_several_sources_are_recorded(config, text_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("lmlab.data.tokenizers._GROUP", 500)
    folders = [tmp_path / name for name in ("few", "many.txt", "other")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for i, text in enumerate(TEXTS):
            if (i % 7 > 1) == (number == 1):  # the first and the last hold the same texts
                (folder / f"{i:03d}.txt").write_text(text)
    three = CorpusConfig(text=(str(folders[0]), str(folders[1] / "*.txt"), str(folders[2])))
    store = prepare(replace(config, corpus=three))
    documents = 0
    for name in ("train", "validation", "test"):
        split = store.split(name)
        assert [part.name for part in split.sources] == ["few", "many.txt", "other"]
        numbers = [int(document.split("/")[0]) for document in split.names]
        assert numbers == sorted(numbers)
        at = 0
        for number, part in enumerate(split.sources):
            assert (part.first_document, part.documents) == (at, numbers.count(number))
            at += part.documents
            if part.documents:
                assert split.documents_M3[part.first_document, 0] == part.first_token
                start, tokens, _ = split.documents_M3[at - 1]
                assert part.first_token + part.tokens == start + tokens + 1
        assert at == len(split.names)
        documents += at
    assert documents == len(TEXTS) + sum(i % 7 <= 1 for i in range(len(TEXTS)))
    # one source says nothing of sources, so the manifests of such stores are what they were
    one = prepare(replace(config, out=tmp_path / "one"))
    assert one.split("train").sources == ()
    assert "sources" not in one.manifest["splits"]["train"]


def test_sources_do_not_change_the_fingerprint(tmp_path):
    train = {"a": [[1, 2, 3]], "b": [[4], [5]]}
    several = mixed_store(tmp_path / "several", {"train": train}, symbols=9)
    plain = write_store(
        tmp_path / "plain",
        several.tokenizer,
        {
            "train": [
                EncodedDocument(name, np.asarray(ids), 3 * len(ids))
                for name, ids in zip(
                    several.split("train").names, [[1, 2, 3], [4], [5]], strict=True
                )
            ]
        },
        request={},
    )
    assert several.fingerprint == plain.fingerprint
    assert several.manifest != plain.manifest


def test_mixed_up_sources_are_refused(tmp_path):
    documents = [EncodedDocument(str(s), np.array([1]), 3, s) for s in (0, 1, 0)]
    with pytest.raises(AssertionError, match="contiguous"):
        write_store(
            tmp_path / "s",
            symbols_tokenizer(9),
            {"train": documents},
            request={},
            sources=["a", "b"],
        )
    assert not (tmp_path / "s").exists()


def test_names_of_sources(tmp_path):
    for name in ("en", "fr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wiki.txt").write_text("text")
    en, fr = str(tmp_path / "en"), str(tmp_path / "fr")
    assert source_names([en, f"{fr}/*.txt", "hf:org/set:de"]) == ["en", "fr", "hf:org/set:de"]
    both = [f"{en}/wiki.txt", f"{fr}/wiki.txt"]
    assert source_names([*both, "docstrings"]) == [*both, "docstrings"]


def test_encoding_in_batches_changes_nothing(config, text_store, monkeypatch):
    monkeypatch.setattr("lmlab.data.tokenizers._GROUP", 500)
    assert prepare(config).fingerprint == text_store.fingerprint


def test_copies_of_a_document_share_a_split(config, tmp_path):
    folder = tmp_path / "copies"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.txt").write_text(text)
        (folder / f"copy-{i}.txt").write_text(text)
    store = prepare(replace(config, corpus=CorpusConfig(text=(str(folder),))))
    for name in ("train", "validation", "test"):
        names = store.split(name).names
        numbers = [n.removeprefix("copy-") for n in names]
        assert all(numbers.count(n) == 2 for n in numbers)
    assert (
        np.sum([store.split(n).documents_M3.shape[0] for n in ("train", "validation", "test")])
        == 120
    )


def test_a_file_that_changes_after_it_was_read_is_known_by_what_was_read(
    config, text_folder, text_store, tmp_path, monkeypatch
):
    folder = shutil.copytree(text_folder, tmp_path / "moving")
    changing = replace(config, corpus=CorpusConfig(text=(str(folder),)))
    real = prepare_module.read_corpus

    def read(*corpus, **also):
        yield from real(*corpus, **also)
        (folder / "000.txt").write_text("written by someone else meanwhile")

    monkeypatch.setattr(prepare_module, "read_corpus", read)
    store = prepare(changing)
    assert store.fingerprint == text_store.fingerprint
    assert store.manifest["request"] == text_store.manifest["request"]
    with pytest.raises(UserError, match="different: sources"):
        prepare(changing)


@pytest.mark.parametrize(
    ("corpus", "advice", "not_said"),
    [
        ({}, "`corpus.separator`", "max-documents"),
        ({"separator": "||"}, "another `corpus.separator` than '||'", "blank line"),
        ({"max_documents": 1}, "Raise `corpus.max_documents` 1", "separator"),
        ({"max_documents": 9}, "`corpus.separator`", "max-documents"),
    ],
)
def test_what_was_done_already_is_not_advised(tmp_path, corpus, advice, not_said):
    """A user who had given --corpus.separator was told to give --corpus.separator."""
    (tmp_path / "one.txt").write_text("All of it is one document.||")
    source = CorpusConfig(text=(str(tmp_path / "one.txt"),), **corpus)
    with pytest.raises(UserError, match="too few to hold out") as refused:
        prepare(PrepareConfig(tmp_path / "store", source))
    assert advice in str(refused.value)
    assert not_said not in str(refused.value)


def test_no_separator_is_advised_for_rows(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "a row"}\n')
    source = CorpusConfig(text=(str(tmp_path / "one.jsonl"),))
    with pytest.raises(UserError, match="too few to hold out") as refused:
        prepare(PrepareConfig(tmp_path / "store", source))
    assert "separator" not in str(refused.value)


def lossy_config(folder, documents):
    """Words of a tokenizer from elsewhere that knows three."""
    backend = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<unk>", "</s>", "the", "cat", "sat"])},
                         unk_token="<unk>")
    )  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder / "tokenizer")
    lines = [json.dumps({"text": text}) for text in documents]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return PrepareConfig(
        out=folder / "store",
        corpus=CorpusConfig(text=(str(folder / "a.jsonl"),), skip_empty=True),
        tokenizer=TokenizerConfig("pretrained", name=str(folder / "tokenizer")),
        split=SplitConfig(validation=0.3, test=0.2),
    )


def test_bits_per_byte_of_a_lossy_tokenizer_are_of_another_text(tmp_path, capsys):
    documents = [f"the cat sat the mat{n}" for n in range(30)]
    config = lossy_config(tmp_path, [*documents, None])
    store = prepare(config)
    said = capsys.readouterr().err
    assert "left out: 1 row whose text is null" in said
    assert "the tokenizer loses text: 30 of 30 documents" in said
    assert store.manifest["reading"] == {"null": 1}
    for name in ("train", "validation", "test"):
        split = store.split(name)
        assert split.loss is not None
        assert (split.loss.documents, split.loss.unknown) == (split.documents,) * 2
        # at least the letters of the unknown word; blanks go too, as the words are joined by blanks
        gone = sum(
            len(documents[int(n.split("#")[1]) - 1].removeprefix("the cat sat the "))
            for n in split.names
        )
        assert gone <= split.loss.bytes <= gone + 4 * split.documents
        assert f"{split.loss.unknown} tokens are <unk>" in (split.loss_note or "")
        assert (split.loss_note or "none") in split.text_note
        assert "documents do not come back" in (split.copied_note or "")
        assert "bits per byte" not in (split.copied_note or "")
        assert "Windows begin with </s> (id 1)." in split.text_note
    assert prepare(config).fingerprint == store.fingerprint
    assert "the tokenizer loses text" in capsys.readouterr().err


def test_own_tokenizers_have_no_note(text_store):
    split = text_store.split("train")
    assert (split.loss, split.loss_note, split.copied_note) == (TextLoss(), None, None)
    assert split.text_note == "Windows begin with <|bos|> (id 0)."


def test_two_processes_prepare_one_store_once(config, monkeypatch, capsys):
    """One makes it, the other waits and uses it."""
    read, made = prepare_module.read_corpus, []

    def slowly(*corpus, **also):
        made.append(corpus)
        time.sleep(0.3)
        yield from read(*corpus, **also)

    monkeypatch.setattr(prepare_module, "read_corpus", slowly)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(prepare, [config, config])
    assert one.fingerprint == other.fingerprint
    assert len(made) == 1
    said = capsys.readouterr().err
    assert "waiting: " in said
    assert "reusing it" in said
    assert [path.name for path in config.out.parent.iterdir()] == ["store"]


def test_intervals_over_text_from_one_novel_are_foretold():
    """12 novels leave one for the test split; the advice is followed here and gives enough."""
    sizes = np.random.default_rng(0).integers(250_000, 400_000, 12).tolist()
    texts = [str(i) for i in range(12)]

    def documents(**settings):
        splits = split_names(texts, sizes, **settings)
        return {name: splits.count(name) for name in dict.fromkeys(splits)}

    assert documents()["test"] == 1
    note = few_test_documents(documents())
    assert note is not None
    least = re.search(r"`split.test_documents` (\d+) holds out", note)
    assert least is not None
    asked = documents(test_documents=int(least[1]))
    assert asked == {"train": 6, "validation": 1, "test": 5}
    assert "never cut" in note
    before = documents()["train"]
    assert f"takes 4 of the {before} training documents, about {4 / before:.0%} of" in note
    assert before - asked["train"] == 4
    assert few_test_documents(asked) is None
    few = few_test_documents({"train": 2, "validation": 1, "test": 1})
    assert few is not None
    assert "give more documents" in few


def test_few_test_documents_are_said_whoever_prepares(tmp_path, capsys):
    """The command printed the note; from Python there was none."""
    (tmp_path / "a.txt").write_text("\n\n".join(f"This is text {n}." for n in range(12)))
    config = PrepareConfig(
        tmp_path / "store", CorpusConfig((str(tmp_path / "a.txt"),), separator="\n\n"),
        TokenizerConfig("bytes"), SplitConfig(test=0.1),
    )  # fmt: skip
    for _ in ("made", "reused"):
        prepare(config)
        assert capsys.readouterr().err.count("note: the test split has 1 document: ") == 1


def test_a_store_from_before_numbers_of_documents_is_reused(config, capsys):
    """Its request has no such option; only one that changes the splits makes another store."""
    store = prepare(config)
    assert store.manifest["request"]["split"] == {"validation": 0.2, "test": 0.1, "seed": 0}
    assert prepare(config).fingerprint == store.fingerprint
    more = replace(config, split=replace(config.split, test_documents=5))
    with pytest.raises(UserError, match="different: split"):
        prepare(more)
    made = prepare(replace(more, out=config.out.with_name("more")))
    assert made.split("test").documents >= 5


def test_ten_times_the_documents_take_little_more_memory(tmp_path, monkeypatch):
    """Was: names, keys, sizes and more of each stayed in memory."""
    monkeypatch.setattr("lmlab.data.tokenizers._GROUP", 20_000)
    monkeypatch.setattr("lmlab.data.tokenizers._KNOWN", 20_000)
    peaks = []
    for count in (6000, 24_000):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(f'{{"text": "{number} is a text"}}\n' for number in range(count)))
        tracemalloc.start()
        prepare(
            PrepareConfig(
                out=tmp_path / str(count),
                corpus=CorpusConfig(text=(str(path),)),
                tokenizer=TokenizerConfig(kind="bytes"),
            )
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 18_000 < 100


def novels(folder, sizes):
    """Files of paragraphs, each with so many."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        lines = sentences(size, seed=number)
        (folder / f"{number}.txt").write_text("\n\n".join(lines))
    return str(folder)


def prepared(tmp_path, text, split, **corpus):
    return prepare(
        PrepareConfig(
            tmp_path / "store", CorpusConfig((text,), **corpus), TokenizerConfig("bytes"), split
        )
    )


def texts_of(store, name):
    split = store.split(name)
    return {
        document: store.tokenizer.decode(split.read(start, start + tokens))
        for document, (start, tokens, _) in zip(split.names, split.documents_M3, strict=True)
    }


def test_three_novels_say_how_far_their_shares_are(tmp_path, capsys):
    """Validation had 60 % of the text, and nothing was said."""
    text = novels(tmp_path / "novels", (300, 40, 40))
    store = prepared(tmp_path, text, SplitConfig())
    said = capsys.readouterr().err
    assert "3 files, 3 documents" in said
    whole = sum(split.text_bytes for split in store.splits.values())
    for name in ("validation", "test"):
        share = store.split(name).text_bytes / whole
        assert share > 0.1
        assert f"the {name} split has {share:.0%} of the text, and 5% was asked for" in said
    prepared(tmp_path, text, SplitConfig())  # reused
    assert capsys.readouterr().err.count("was asked for") == 2
    even = novels(tmp_path / "more", [8] * 60)
    prepared(tmp_path / "even", even, SplitConfig(0.1, 0.1))
    assert "was asked for" not in capsys.readouterr().err


def test_prepare_shows_shares_beside_those_asked_for(tmp_path, capsys):
    text = novels(tmp_path / "novels", [8] * 60)
    command = ["prepare", text, "--kind", "bytes", "--out", str(tmp_path / "s")]
    assert main([*command, "--validation", "0.2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    shares = {row[0]: row[-3:] for row in rows if row[0] in ("train", "validation", "test")}
    assert [row[-1] for row in shares.values()] == ["–", "20.0%", "5.0%"]
    assert 0.17 < float(shares["validation"][1].rstrip("%")) / 100 < 0.23


def test_long_documents_are_cut_where_it_is_asked(tmp_path, capsys):
    text = novels(tmp_path / "novels", (400, 200, 300, 1))
    store = prepared(tmp_path, text, SplitConfig(0.1, 0.2, within_documents=True))
    said = capsys.readouterr().err
    assert "was asked for" not in said
    assert "10 stretches of documents" in said
    assert "the test split has 3 documents" in said
    assert "never cut" not in said
    of_splits = {name: texts_of(store, name) for name in store.splits}
    whole = sum(split.text_bytes for split in store.splits.values())
    assert abs(store.split("validation").text_bytes / whole - 0.1) < 0.02
    assert abs(store.split("test").text_bytes / whole - 0.2) < 0.02
    for number in range(3):
        name = f"{number}.txt"
        pieces = [of_splits[each][f"{name} ({each})"] for each in ("train", "validation", "test")]
        assert "".join(pieces) == (tmp_path / "novels" / name).read_text()
        assert all(piece.endswith("\n\n") for piece in pieces[:2])
    assert of_splits["train"]["3.txt"] == (tmp_path / "novels" / "3.txt").read_text()
    assert store.split("test").documents == 3  # a document each: the unit of intervals
    with pytest.raises(UserError, match="different: split"):
        prepared(tmp_path, text, SplitConfig(0.1, 0.2))
    short = novels(tmp_path / "short", (1, 1, 1))
    with pytest.raises(UserError, match="none is long enough to be cut"):
        prepared(tmp_path / "x", short, SplitConfig(within_documents=True))


def test_splits_given_as_files(tmp_path, capsys):
    text = novels(tmp_path / "novels", [8] * 40)
    held = novels(tmp_path / "held", (9, 10))
    test = novels(tmp_path / "tested", (11, 12, 13))
    command = ["prepare", text, "--kind", "bytes", "--out", str(tmp_path / "s")]
    command += ["--test", f"{test}/0.txt", f"{test}/2.txt", "--validation", held]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert [row.split()[-1] for row in out.splitlines()[1:4]] == ["–", "given", "given"]
    store = TokenStore(tmp_path / "s")
    assert store.split("train").documents == 40
    assert texts_of(store, "validation") == {
        f"1/{n}.txt": (tmp_path / "held" / f"{n}.txt").read_text() for n in (0, 1)
    }
    assert set(texts_of(store, "test")) == {"2/0.txt", "3/2.txt"}
    assert not store.split("train").sources
    assert main(command) == 0  # the same inputs
    (tmp_path / "held" / "0.txt").write_text("other text")
    assert main(command) == 2
    assert "different: sources" in capsys.readouterr().err
    # a share of the text beside a file
    both = prepared(tmp_path / "b", text, SplitConfig(0.2, (f"{test}/1.txt",)))
    assert both.split("test").documents == 1
    assert both.split("train").documents + both.split("validation").documents == 40
    # of several sources the files are sources, too
    corpus, split = CorpusConfig((text, test)), SplitConfig((held,), 0.0)
    several = prepare(PrepareConfig(tmp_path / "c", corpus, TokenizerConfig("bytes"), split))
    parts = [
        [part.documents for part in several.split(name).sources] for name in ("train", "validation")
    ]
    assert parts == [[40, 3, 0], [0, 0, 2]]


def babylm(folder, **changes):
    """Five sections in .train, two in .dev and two in .test; `changes` are other sections."""
    folder.mkdir()
    sections = {"a.train": 3, "b.train": 2, "a.dev": 2, "a.test": 2}
    for name, count in sections.items():
        texts = changes.get(name.replace(".", "_"), [f"{name} {i}\nline {i}" for i in range(count)])
        if texts:
            (folder / name).write_text("\n\n".join(texts))
    return str(folder)


def sizes_of(store):
    return {name: record.documents for name, record in store.splits.items()}


def test_endings_name_splits(tmp_path, capsys):
    text = babylm(tmp_path / "all")
    store = prepared(tmp_path, text, SplitConfig())
    assert sizes_of(store) == {"train": 5, "validation": 2, "test": 2}
    assert texts_of(store, "validation") == {
        "a.dev#1": "a.dev 0\nline 0", "a.dev#4": "a.dev 1\nline 1",
    }  # fmt: skip
    assert "splits by the endings of files: .train is train, .dev is validation, .test is test" in (
        capsys.readouterr().err
    )
    assert sizes_of(prepared(tmp_path / "pattern", f"{text}/*", SplitConfig())) == sizes_of(store)
    assert prepared(tmp_path, text, SplitConfig()).path == store.path  # the same inputs
    with pytest.raises(UserError, match="different: split"):
        prepared(tmp_path, text, SplitConfig(validation=0.05))
    with pytest.raises(UserError, match="different: corpus"):
        prepared(tmp_path, text, SplitConfig(), lines="documents")
    # all of .train is for training, whatever is not there beside it
    without = prepared(tmp_path / "t", babylm(tmp_path / "no test", a_test=()), SplitConfig())
    assert sizes_of(without) == {"train": 5, "validation": 2}
    assert "no .test file, so no test split" in capsys.readouterr().err
    without = prepared(tmp_path / "d", babylm(tmp_path / "no dev", a_dev=()), SplitConfig())
    assert sizes_of(without) == {"train": 4, "validation": 1, "test": 2}
    # another source beside it has nothing to hold out
    (tmp_path / "more.txt").write_text("more")
    corpus = CorpusConfig((text, str(tmp_path / "more.txt")))
    several = prepare(PrepareConfig(tmp_path / "m", corpus, TokenizerConfig("bytes")))
    assert {
        name: [part.documents for part in several.split(name).sources] for name in several.splits
    } == {"train": [5, 1], "validation": [2, 0], "test": [2, 0]}


def test_options_say_what_splits_are_where_endings_could(tmp_path, capsys):
    text = babylm(tmp_path / "all")

    def sizes(name, *sources, corpus=None, **split):
        config = CorpusConfig(sources or (text,), **corpus or {})
        options = SplitConfig(**split)
        return sizes_of(
            prepare(PrepareConfig(tmp_path / name, config, TokenizerConfig("bytes"), options))
        )

    pooled = sizes("both", validation=0.1, test=0.1)
    assert sum(pooled.values()) == 9
    assert ".dev and .test files are text like .train: options say" in capsys.readouterr().err
    # each option for itself
    assert sizes("test", test=0.2)["validation"] == 2
    assert sum(sizes("none", test=0.0).values()) == 9
    with pytest.raises(UserError, match="none is long enough to be cut"):
        sizes("within", within_documents=True)
    held = f"{text}/a.dev"
    assert sizes("given", f"{text}/*.train", validation=(held,), test=0.0) == {
        "train": 5, "validation": 2,
    }  # fmt: skip
    # files that are named, and folders without .train, are text
    assert sum(sizes("named", *(f"{text}/a.{e}" for e in ("train", "dev", "test"))).values()) == 7
    with pytest.raises(UserError, match=r"`split.validation_documents` is of a split by shares"):
        sizes("least", validation_documents=3)
    with pytest.raises(UserError, match=r"no document for the train split: `corpus.max_documents`"):
        sizes("few", corpus={"max_documents": 2})  # those of a.dev, the first file
    shared = babylm(tmp_path / "shared", a_dev=["a.train 0\nline 0", "new"])
    with pytest.raises(UserError, match="are the same text, in two splits"):
        sizes("two", shared)
    capsys.readouterr()
    assert sizes("lines", shared, corpus={"lines": "documents"})["validation"] == 3
    assert "note: 2 of the 3 lines of validation and 2 of the 4 lines of test are lines" in (
        capsys.readouterr().err
    )


def test_requests_of_stores_from_before_there_were_lines_and_endings(text_folder, tmp_path):
    request = describe_request(PrepareConfig(tmp_path, CorpusConfig((str(text_folder),))))
    assert request["split"] == {"validation": 0.05, "test": 0.05, "seed": 0}
    assert request["corpus"] == {"text_column": "text", "skip_empty": False}


def test_contradictory_splits_are_refused(tmp_path):
    text = novels(tmp_path / "novels", [8] * 9)
    with pytest.raises(UserError, match="are the same text, in two splits"):
        prepared(tmp_path, text, SplitConfig((f"{text}/3.txt",)))
    wrong: Any
    for wrong, message in (
        ({"validation": ()}, "names no files"),
        ({"validation": ("a",), "within_documents": True}, "stretches of each document"),
        ({"test": ("a",), "test_documents": 5}, "`split.test_documents` is of a split by shares"),
        ({"within_documents": True, "validation_documents": 2}, "by shares of whole documents"),
        ({"validation": 0, "test": ("a",)}, "must be above 0"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            SplitConfig(**wrong)
    with pytest.raises(UserError, match="no such file"):
        prepared(tmp_path, text, SplitConfig(("nowhere.txt",)))
