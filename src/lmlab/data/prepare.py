"""From a corpus to a token store.

One pass over the source writes the text to a spool beside the store and hashes the files as they
are read (so that streamed and slow sources are read once, and nothing can change in between); then
splits, tokenizer, and one pass that encodes all splits.

Notable:
- The same inputs reuse an existing store. Inputs are compared by content (sha256 of every file,
  versions of the packages behind `docstrings`, revision of a Hub data set), so a changed file is
  noticed whatever its time stamp.
- Text, names and ids go to the disk as they come: of each document 17 bytes stay in memory, and
  about 2 more while splits are drawn, a block of documents at a time (`data.splits`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.config import to_mapping
from lmlab.config.numbers import Options
from lmlab.data.documents import (
    DOCSTRINGS,
    SPLIT_ENDINGS,
    CorpusConfig,
    Document,
    Reading,
    corpus_files,
    file_suffix,
    has_splits,
    is_local,
    lines_of,
    read_corpus,
    reading_notes,
    source_names,
)
from lmlab.data.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    SplitConfig,
    assign_splits,
    cut,
    few_test_documents,
    text_rank,
    uneven_shares,
)
from lmlab.data.store import EncodedDocument, TokenStore, write_splits
from lmlab.data.tokenizers import (
    TextLoss,
    TextTokenizer,
    TokenizerConfig,
    build_tokenizer,
    groups,
    loss_note,
    pretrained_tokenizer,
)
from lmlab.data.words import word_counts
from lmlab.durable import disk_errors, file_sha256, make_folder
from lmlab.errors import UserError
from lmlab.locks import alone
from lmlab.progress import say, track

_FREE = 255  # no split yet


@dataclass(frozen=True)
class PrepareConfig(Options):
    """Turn text into a token store: documents, splits, tokenizer, ids."""

    out: Path
    """Folder of the store. The same inputs reuse it; other inputs need another folder."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    split: SplitConfig = field(default_factory=SplitConfig)


def prepare(config: PrepareConfig) -> TokenStore:
    """The token store of `config` at `config.out`, made if it is not there yet.

    Where several processes ask for one store, one makes it and the others wait for it.

    Raises `UserError` for unreadable text, too few documents, a full disk, or a folder that holds
    something else; what was there before stays as it was.
    """
    if config.out.exists():
        TokenStore(config.out)  # what is no store is refused before any text is read
        return _reuse(config.out, describe_request(config))
    config, endings = _decided(config)
    for note in _split_notes(config, endings):
        say(note)
    settings = _settings(config, endings)
    lock = config.out.with_name(f".{config.out.name}.lock")
    with alone(lock.parent, f"preparing {config.out.name}", name=lock.name):
        try:
            if config.out.exists():  # the process that this one waited for made it
                return _reuse(config.out, describe_request(config))
            return _prepare(config, endings, settings)
        finally:
            with suppress(PermissionError):  # Windows removes no file that is open
                lock.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Endings:
    """What the endings .train, .dev and .test of a corpus's files decide."""

    of_folders: frozenset[str]
    """Those in folders and patterns that have .train files."""
    splits: Mapping[str, str]
    """The split that each of them names."""
    joined: bool
    """Whether lines of such files go on, unasked."""


def _decided(config: PrepareConfig) -> tuple[PrepareConfig, _Endings]:
    """The configuration with its splits decided, and what endings of files decide.

    A .dev or .test file is a split where no option says what that split is. Where .dev files are
    the validation split, .train is all for training: without .test files there is no test split.
    `UserError` for a source that is not there.
    """
    corpus, split = config.corpus, config.split
    there: set[str] = set()
    joined = False
    for number, source in enumerate(_sources(config)):
        if is_local(source):
            files = corpus_files(source, corpus.text_suffixes or ())
            endings = {file_suffix(path) for _, path in files} & SPLIT_ENDINGS.keys()
            joined |= any(lines_of(path, corpus) and not corpus.lines for _, path in files)
            if number < len(corpus.text) and has_splits(source, files):
                there |= endings
    open_splits = {
        name
        for name in (VALIDATION, TEST)
        if getattr(split, name) is None and not split.within_documents
    }
    splits = {ending: SPLIT_ENDINGS[ending] for ending in sorted(there)}
    splits = {ending: name for ending, name in splits.items() if name in open_splits}
    for name in splits.values():
        if getattr(split, least := f"{name}_documents") != 1:
            raise UserError(
                f"`split.{least}` is of a split by shares of whole documents, and the {name} split "
                "is that of the files with its ending; leave it out"
            )
    if ".dev" in splits and TEST in open_splits - {*splits.values()}:
        config = replace(config, split=replace(split, test=0.0))
    return config, _Endings(frozenset(there), splits, joined)


def _split_notes(config: PrepareConfig, endings: _Endings) -> Iterator[str]:
    """What endings of files decided, in words."""
    if endings.splits:
        named = ", ".join(f"{ending} is {name}" for ending, name in endings.splits.items())
        without = ".test" not in endings.of_folders and TEST not in config.split.names
        missing = "; there is no .test file, so no test split" if without else ""
        yield f"splits by the endings of files: .train is {TRAIN}, {named}{missing}"
    if pooled := endings.of_folders - {".train", *endings.splits}:
        yield (
            f"{' and '.join(sorted(pooled))} files are text like .train: options say what the "
            "splits are"
        )


def _prepare(config: PrepareConfig, endings: _Endings, settings: dict[str, Any]) -> TokenStore:
    with disk_errors(config.out):
        make_folder(config.out.parent)
        spool_folder = Path(
            tempfile.mkdtemp(prefix=f".{config.out.name}.spool-", dir=config.out.parent)
        )
    try:
        reading = Reading()
        read = _sources(config)
        versions = [None if is_local(s) else _version(s) for s in read]
        spool = Spool(spool_folder, _documents(config, endings, reading), config.split.seed)
        for note in reading_notes(reading.to_json()):
            say(note)
        split_M = _splits(config, endings, spool)
        size, files = sum(spool.sizes), len(reading.sha256)
        what = "stretches of documents" if config.split.within_documents else "documents"
        of_files = f"{files:,} file{'' if files == 1 else 's'}, " if files else ""
        say(f"{of_files}{len(split_M):,} {what}, {size:,} bytes of text; building the tokenizer")
        training = spool.texts(split_M == SPLITS.index(TRAIN))
        tokenizer = build_tokenizer(config.tokenizer, training)
        sources = [
            version or _files(config, number, reading) for number, version in enumerate(versions)
        ]
        learnt_elsewhere = config.tokenizer.kind == "pretrained"
        with track("encoding", size / 1e6, "MB") as bar:

            def encoded() -> Iterator[tuple[str, EncodedDocument]]:
                documents = encode(spool, tokenizer, losses=learnt_elsewhere)
                for split, document in zip(split_M.data, documents, strict=True):
                    bar.advance(document.bytes / 1e6)
                    yield SPLITS[split], document

            store = write_splits(
                config.out,
                tokenizer,
                config.split.names,
                encoded(),
                request={"sources": sources, **settings},
                # files for the other splits of one text are no sources to tell apart
                sources=source_names(read if len(config.corpus.text) > 1 else config.corpus.text),
                reading=reading.to_json(),
            )
        _say_notes(store)
        return store
    finally:
        shutil.rmtree(spool_folder, ignore_errors=True)


def _sources(config: PrepareConfig) -> list[str]:
    """All sources that are read: the text's, then those of splits that are files."""
    return [*config.corpus.text, *(source for source, _ in config.split.given)]


def _documents(config: PrepareConfig, endings: _Endings, reading: Reading) -> Iterator[Document]:
    """All documents, each with its split where that is given."""
    given, texts = config.split.given, len(config.corpus.text)
    also = [source for source, _ in given]
    for document in read_corpus(config.corpus, reading, also=also, endings=endings.splits):
        if document.source >= texts:
            split = given[document.source - texts][1]
            # a text of one source has none to tell apart
            yield replace(document, split=split, source=document.source if texts > 1 else 0)
        elif config.split.within_documents:
            yield from cut(document, config.split)
        else:
            yield document


def _splits(config: PrepareConfig, endings: _Endings, spool: Spool) -> np.ndarray:
    """The split of each document, (M,) uint8. `UserError` for a text that is in two of them; where
    documents are lines, which are often the same, how many are is said."""
    split_M = np.array(spool.splits, dtype=np.uint8)
    ranks_M, free_M = np.asarray(spool.ranks), split_M == _FREE  # no copy
    if free_M.any():
        advice = _more_documents(config.corpus, int(free_M.sum()))
        sizes_M = np.asarray(spool.sizes)
        named = {*endings.splits.values()}
        if any(share for name, share in config.split.shares.items() if name not in named):
            chosen = slice(None) if free_M.all() else free_M  # all of them are no copy
            split_M[chosen] = assign_splits(
                ranks_M[chosen], sizes_M[chosen], config.split, given=named, advice=advice
            )
        else:
            split_M[free_M] = SPLITS.index(TRAIN)
    for name in config.split.names:
        if not (split_M == SPLITS.index(name)).any():
            why = "its files hold none that was read. Give it others"
            if config.split.within_documents:
                why = (
                    "none is long enough to be cut. Leave `split.within_documents` out, or give "
                    "longer documents"
                )
            elif config.corpus.max_documents is not None:
                why = "`corpus.max_documents` was reached before. Raise it, or leave it out"
            raise UserError(f"no document for the {name} split: {why}")
    if config.split.given or endings.splits:
        if config.corpus.lines == "documents":
            if note := _lines_trained_on(split_M, ranks_M):
                say(note)
        elif twice := _in_two_splits(split_M, ranks_M):
            first, second = (d.name for n, d in enumerate(spool) if n in twice)
            raise UserError(
                f"{first} and {second} are the same text, in two splits: what was trained on "
                "measures nothing. Take it out of one of them"
            )
    return split_M


def _in_two_splits(split_M: np.ndarray, ranks_M: np.ndarray) -> set[int]:
    """Two documents of one text (8 bytes of its hash) in different splits; empty without any."""
    order = np.lexsort((split_M, ranks_M))
    twice = (np.diff(ranks_M[order]) == 0) & (np.diff(split_M[order].astype(int)) != 0)
    return {int(m) for at in np.flatnonzero(twice)[:1] for m in order[at : at + 2]}


def _lines_trained_on(split_M: np.ndarray, ranks_M: np.ndarray) -> str | None:
    """How many documents of each other split are in training too, in words."""
    train = split_M == SPLITS.index(TRAIN)
    parts = []
    for number, name in enumerate(SPLITS):
        of_split = ranks_M[split_M == number]
        shared = int(np.isin(of_split, ranks_M[train]).sum())
        if name != TRAIN and shared:
            parts.append(f"{shared:,} of the {len(of_split):,} lines of {name}")
    return f"note: {' and '.join(parts)} are lines of {TRAIN} too" if parts else None


def _more_documents(corpus: CorpusConfig, count: int) -> str:
    """How to have more documents than the `count` that were read, by what is not done yet."""
    if corpus.max_documents == count:
        return f"Raise `corpus.max_documents` {corpus.max_documents}, or leave it out"
    if corpus.separator is not None:
        return f"Give more files, or another `corpus.separator` than {corpus.separator!r}"
    named = ("hf:", "docstrings", "code")
    if all(s.startswith(named) or ".jsonl" in s or ".parquet" in s for s in corpus.text):
        return "Give more documents"
    return (
        "Give more files, or say where documents in a text file end, for a blank line: "
        "`corpus.separator` $'\\n\\n'"
    )


def _say_notes(store: TokenStore) -> None:
    """What the tokenizer lost, and what so few test documents cannot say."""
    splits = [store.split(name) for name in store.splits]
    loss = sum((split.loss or TextLoss() for split in splits), TextLoss())
    if loss:
        documents, text_bytes = (
            sum(getattr(split, what) for split in splits) for what in ("documents", "text_bytes")
        )
        meaning = "bits per byte are those of another text"
        say(loss_note(loss, documents=documents, text_bytes=text_bytes, meaning=meaning))
    text_bytes = {split.name: split.text_bytes for split in splits}
    asked = store.manifest["request"].get("split", {})
    notes = uneven_shares(text_bytes, shares_asked(store))
    few = few_test_documents(
        {split.name: split.documents for split in splits}, within="within_documents" in asked
    )
    for note in [*notes, *([few] if few else [])]:
        say(f"note: {note}")


def shares_asked(store: TokenStore) -> dict[str, float]:
    """The shares of the text that the splits of a store were to have; not of those given."""
    asked = store.manifest["request"].get("split", {})
    return {name: asked[name] for name in store.splits if isinstance(asked.get(name), float)}


def _reuse(path: Path, request: dict[str, Any]) -> TokenStore:
    store = TokenStore(path)
    have = store.manifest["request"]
    if not _same(have, request):
        changed = sorted(k for k in {*have, *request} if have.get(k) != request.get(k))
        raise UserError(
            f"{path} holds a store made from other inputs (different: {', '.join(changed)}). Give "
            "another `out`, or remove that folder first."
        )
    say(f"{path}: the same inputs were prepared before; reusing it")
    for note in reading_notes(store.manifest.get("reading", {})):
        say(note)
    _say_notes(store)
    return store


def _same(have: Any, wanted: Any) -> bool:
    """Whether two requests agree; a Hub revision unknown on one side (offline) fits any."""
    if isinstance(have, list) and isinstance(wanted, list):
        return len(have) == len(wanted) and all(map(_same, have, wanted))
    if isinstance(have, dict) and isinstance(wanted, dict):
        if "hub" in have and "hub" in wanted and None in (have["revision"], wanted["revision"]):
            return have["hub"] == wanted["hub"]
        return have.keys() == wanted.keys() and all(_same(have[k], wanted[k]) for k in have)
    return have == wanted


def describe_request(config: PrepareConfig) -> dict[str, Any]:
    """All that decides a store's content, as plain values; equal means the store can be reused."""
    config, endings = _decided(config)
    return {
        "sources": [
            _files(config, number, Reading()) if is_local(source) else _version(source)
            for number, source in enumerate(_sources(config))
        ],
        **_settings(config, endings),
    }


def _settings(config: PrepareConfig, endings: _Endings) -> dict[str, Any]:
    """What `describe_request` says beside the sources."""
    corpus = to_mapping(config.corpus)
    corpus.pop("text")
    if endings.joined:
        corpus["lines"] = "joined"
    split = {**config.split.shares, **to_mapping(config.split)}
    split |= {name: {"ending": ending} for ending, name in endings.splits.items()}
    for name in ("test_documents", "validation_documents"):
        if split[name] == 1:  # as in stores from before there was this option
            split.pop(name)
    if not split["within_documents"]:
        split.pop("within_documents")
    for name in (VALIDATION, TEST):
        if isinstance(split[name], list):  # what the files hold is among the sources
            split[name] = {"sources": len(split[name])}
    settings = {"corpus": corpus, "tokenizer": to_mapping(config.tokenizer), "split": split}
    if config.tokenizer.kind == "pretrained":
        assert config.tokenizer.name is not None
        settings["tokenizer"]["fingerprint"] = pretrained_tokenizer(
            config.tokenizer.name
        ).fingerprint
    return settings


def _version(source: str) -> dict[str, Any]:
    """What decides the content of a source that is no file here."""
    if not source.startswith("hf:"):
        from lmlab.data.docstrings import docstrings_version

        return {source: docstrings_version(packages=DOCSTRINGS.get(source, False))}
    return {"hub": source, "revision": _hub_revision(source)}


def _files(config: PrepareConfig, number: int, reading: Reading) -> list[dict[str, str]]:
    """The files of a source with their sha256: as they were read, or hashed now."""
    files = reading.files.get(number)
    if files is None:
        files = corpus_files(_sources(config)[number], config.corpus.text_suffixes or ())
    return [
        {"file": name, "sha256": reading.sha256.get(path) or file_sha256(path)}
        for name, path in files
    ]


def _hub_revision(source: str) -> str | None:
    """The data set's current commit on the Hub; None (compare by name only) when offline."""
    from huggingface_hub import HfApi

    name = source.removeprefix("hf:").partition(":")[0]
    try:
        return HfApi().dataset_info(name, timeout=10).sha
    except Exception:
        say(f"{source}: the Hub does not answer; the data set is recognised by name only")
        return None


class Spool:
    """Documents written to a folder, to be iterated any number of times.

    Attributes: `ranks` (`text_rank` with `seed`), `sizes` (UTF-8 bytes) and `splits` (numbers in
    `SPLITS`, or `_FREE`), one a document.
    """

    def __init__(self, folder: Path, documents: Iterable[Document], seed: int) -> None:
        self._texts, self._names = folder / "texts", folder / "names.jsonl"
        self.ranks, self.sizes, self.splits = array("Q"), array("q"), array("B")
        self._sources: Counter[int] = Counter()  # documents of each, in their order
        with (
            disk_errors(folder),
            open(self._texts, "wb") as texts,
            open(self._names, "w", encoding="ascii") as names,
            track("reading", None, "documents") as bar,
        ):
            for document in documents:
                text = document.text.encode("utf-8")
                texts.write(text)
                names.write(json.dumps(document.name) + "\n")
                self.ranks.append(text_rank(text, seed))
                self.sizes.append(len(text))
                self.splits.append(SPLITS.index(document.split) if document.split else _FREE)
                self._sources[document.source] += 1
                bar.advance()

    def texts(self, wanted_M: np.ndarray) -> Iterator[str]:
        """The texts of the documents that are wanted."""
        with open(self._texts, "rb") as file:
            for size, wanted in zip(self.sizes, wanted_M.data, strict=True):
                if wanted:
                    yield file.read(size).decode("utf-8")
                else:
                    file.seek(size, os.SEEK_CUR)

    def __iter__(self) -> Iterator[Document]:
        texts = self.texts(np.ones(len(self.sizes), dtype=bool))
        with open(self._names, encoding="ascii") as names:
            for name, text, source in zip(names, texts, self._sources.elements(), strict=True):
                yield Document(json.loads(name), text, source)


def encode(
    documents: Iterable[Document], tokenizer: TextTokenizer, *, losses: bool = False
) -> Iterator[EncodedDocument]:
    """Ids and words of documents, in order, encoded in batches over all cores; with `losses`,
    decoded again to see what the tokenizer lost."""
    for batch in groups(documents, lambda document: len(document.text)):
        texts = [document.text for document in batch]
        ids_of = tokenizer.encode_batch(texts)
        lost = tokenizer.losses(texts, ids_of) if losses else [TextLoss()] * len(batch)
        for document, ids, loss in zip(batch, ids_of, lost, strict=True):
            size = len(document.text.encode("utf-8"))
            words = word_counts(document.text)
            yield EncodedDocument(document.name, ids, size, document.source, loss, words)
