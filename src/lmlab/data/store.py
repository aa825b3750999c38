"""The token store: a folder of memory-mapped shards with a manifest.

    manifest.json                    what is here, with the sha256 of every file and of itself
    tokenizer/tokenizer.json, ...    the tokenizer that made the ids
    train-00000.bin, ...             the split's stream: documents, each followed by end-of-text
    train.documents.npy              (documents, 3) int64: first token, tokens, UTF-8 bytes of text
    train.names.jsonl                one JSON string a document

Notable:
- Ids take the smallest sufficient unsigned integer type.
- The folder appears complete or not at all, and opening it checks the manifest's own digest and
  every file's size, so that a truncated shard or an edited manifest is an error that names the
  file. `verify` compares every byte.
- `fingerprint` is the digest of the content: two stores with the same ids, boundaries and
  tokenizer have the same one wherever they lie.
- A store of several sources says which part of each split's stream is of which source. That is in
  the manifest only and no part of the fingerprint; what depends on it must say so itself. So are
  the words of each split and source.

Shapes: B windows, n tokens a window, M documents, C sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

import numpy as np

from lmlab.config import digest, from_mapping, to_mapping
from lmlab.data.tokenizers import TextLoss, TextTokenizer, load_tokenizer, loss_note
from lmlab.data.words import Words
from lmlab.durable import StagedFolder, disk_errors, file_sha256, from_json, is_member, to_json
from lmlab.errors import UserError

FORMAT = "lmlab token store 1"
SHARD_BYTES = 1 << 28
_PENDING = 1 << 16  # tokens


@dataclass(frozen=True)
class EncodedDocument:
    """Ids of one document in reading order, and the length of its text in UTF-8 bytes."""

    name: str
    ids: np.ndarray
    bytes: int
    source: int = 0
    loss: TextLoss | None = None
    """What the tokenizer lost of the text; None where that was not looked at."""
    words: tuple[int, int] | None = None
    """`word_counts` of the text; None where they were not counted."""


@dataclass(frozen=True)
class Shard:
    """A file of a split's stream."""

    file: str
    tokens: int


@dataclass(frozen=True)
class SourceSize:
    """How much of a split is of one source."""

    name: str
    documents: int
    tokens: int
    words: Words | None = None


@dataclass(frozen=True)
class SplitRecord:
    """What the manifest says of a split."""

    tokens: int
    documents: int
    text_bytes: int
    shards: tuple[Shard, ...]
    loss: TextLoss | None = None
    """What the tokenizer lost of the text; None where that was not recorded."""
    sources: tuple[SourceSize, ...] | None = None
    """In the order of the stream; None where the store has one."""
    words: Words | None = None
    """None where they were not counted: the store is older than that, or not of text."""

    def check(self) -> None:
        """`ValueError` for what `write_store` would not write."""
        sources = self.sources or ()
        words = [part.words for part in (self, *sources) if part.words]
        counted = (self, *self.shards, *sources, *words, *([self.loss] if self.loss else []))
        for part in counted:
            for name, value in vars(part).items():
                if isinstance(value, int) and value < 0:
                    raise ValueError(f"'{name}' is {value}")
        if sum(shard.tokens for shard in self.shards) != self.tokens:
            raise ValueError("its shards do not make up its tokens")
        for name in ("tokens", "documents"):
            if sources and sum(getattr(s, name) for s in sources) != getattr(self, name):
                raise ValueError(f"its sources do not make up its {name}")
        if (
            self.words
            and sources
            and sum((s.words or Words() for s in sources), Words()) != (self.words)
        ):
            raise ValueError("its sources do not make up its words")


@dataclass(frozen=True)
class SourcePart:
    """The part of a split that comes from one source: contiguous, in documents and in tokens."""

    name: str
    first_document: int
    documents: int
    first_token: int
    tokens: int
    """End-of-text tokens included."""
    words: Words | None
    """None where they were not counted."""


_to_json_line = json.JSONEncoder(ensure_ascii=False).encode


def _encode_name(name: str) -> bytes:
    return _to_json_line(name).encode("utf-8") + b"\n"


def _smallest_type(vocabulary: int) -> np.dtype:
    for kind in (np.uint8, np.uint16, np.uint32):
        if vocabulary <= np.iinfo(kind).max + 1:
            return np.dtype(kind)
    raise UserError(f"a vocabulary of {vocabulary} does not fit 32 bits")


def write_store(
    path: Path,
    tokenizer: TextTokenizer,
    splits: Mapping[str, Iterable[EncodedDocument]],
    **about: Any,
) -> TokenStore:
    """`write_splits` of documents that come split by split; `about` are its other arguments."""
    documents = ((name, each) for name, split in splits.items() for each in split)
    return write_splits(path, tokenizer, list(splits), documents, **about)


def write_splits(
    path: Path,
    tokenizer: TextTokenizer,
    names: Sequence[str],
    documents: Iterable[tuple[str, EncodedDocument]],
    *,
    request: Mapping[str, Any],
    end_of_text: bool = True,
    sources: Sequence[str] = (),
    extra: Mapping[str, bytes] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> TokenStore:
    """Writes a token store at `path` and opens it: `documents`, each behind its split's name.

    `request` is kept in the manifest, to recognise the same inputs later. `end_of_text` False
    joins documents without a token between them, for sources whose windows are whole documents.
    `sources` names what `EncodedDocument.source` counts; each split must give its documents by
    source, in this order. `extra` are further files, part of the content. `reading` says what was
    left out while the text was read (`Reading.to_json`).

    Raises `UserError` if `path` exists, an id is outside the vocabulary, a document has no token
    or the disk is full; nothing half-written stays.
    """
    dtype = _smallest_type(tokenizer.vocabulary)
    with StagedFolder(path) as folder:
        for name, data in tokenizer.files().items():
            folder.write(f"tokenizer/{name}", data)
        for name, data in (extra or {}).items():
            folder.write(name, data)
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(
                    _SplitWriter(folder, name, tokenizer, dtype, end_of_text, sources)
                )
                for name in names
            }
            for name, document in documents:
                writers[name].add(document)
            records = {name: to_mapping(writer.finish()) for name, writer in writers.items()}
        manifest = {
            "format": FORMAT,
            "request": dict(request),
            "vocabulary": tokenizer.vocabulary,
            "dtype": dtype.name,
            "bos_id": tokenizer.bos_id,
            "end_of_text_id": tokenizer.end_of_text_id,
            "end_of_text": end_of_text,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "splits": records,
            "files": dict(folder.digests),
            **({"reading": dict(reading)} if reading else {}),
        }
        folder.write(
            "manifest.json", to_json({**manifest, "manifest_sha256": digest(manifest)}).encode()
        )
    return TokenStore(path)


class _SplitWriter:
    """The files of one split of a store: `add` documents, then `finish`."""

    def __init__(
        self,
        folder: StagedFolder,
        name: str,
        tokenizer: TextTokenizer,
        dtype: np.dtype,
        end_of_text: bool,
        sources: Sequence[str],
    ) -> None:
        self._folder, self._name = folder, name
        self._vocabulary, self._dtype = tokenizer.vocabulary, dtype
        self._end = np.array([tokenizer.end_of_text_id] if end_of_text else [], dtype=dtype)
        self._documents = self._text_bytes = 0
        self._loss: TextLoss | None = TextLoss()
        # `word_counts` of each source, added up
        self._words: list[list[int] | None] = [[0, 0] for _ in range(max(1, len(sources)))]
        self._pending: list[EncodedDocument] = []
        self._pending_tokens = 0
        self._sources = sources
        self._by_source_C2 = np.zeros((len(sources), 2), dtype=np.int64)  # documents, tokens
        self._latest = 0
        self._position = 0
        self._shards: list[Shard] = []
        self._file, self._waiting = ExitStack(), ExitStack()

    def __enter__(self) -> _SplitWriter:
        with ExitStack() as opened, disk_errors(self._folder.target):
            # of each document there is a row and a name: they wait on the disk, not in memory
            self._table = opened.enter_context(TemporaryFile(dir=self._folder.path))
            self._names = opened.enter_context(TemporaryFile(dir=self._folder.path))
            self._next_shard()
            self._waiting = opened.pop_all()
        return self

    def _next_shard(self) -> None:
        """Closes the shard that is being written, and begins another."""
        self._file.close()
        file = f"{self._name}-{len(self._shards):05d}.bin"
        self._write = self._file.enter_context(self._folder.open(file))
        self._shards.append(Shard(file, 0))

    def add(self, document: EncodedDocument) -> None:
        if len(document.ids) == 0:
            raise UserError(f"{document.name}: the document has no tokens; leave it out")
        assert document.source >= self._latest, "the documents of a source are contiguous"
        self._latest = document.source
        tokens = len(document.ids) + len(self._end)
        if len(self._sources) > 1:
            self._by_source_C2[self._latest] += 1, tokens
        self._pending.append(document)
        self._pending_tokens += tokens
        shard = self._shards[-1].tokens + self._pending_tokens
        if self._pending_tokens >= _PENDING or shard * self._dtype.itemsize >= SHARD_BYTES:
            self._write_pending()

    def _write_pending(self) -> None:
        """Writes the documents that were added last, together since most are short."""
        documents = self._pending
        if not documents:
            return
        stream = np.concatenate([part for d in documents for part in (d.ids, self._end)])
        if stream.min() < 0 or stream.max() >= self._vocabulary:
            _refuse_ids(documents, self._vocabulary)
        self._write(stream.astype(self._dtype).tobytes())
        table_M3 = np.empty((len(documents), 3), dtype=np.int64)
        table_M3[:, 1] = [len(document.ids) for document in documents]
        table_M3[:, 2] = [document.bytes for document in documents]
        table_M3[:, 0] = self._position + np.cumsum(table_M3[:, 1] + len(self._end))
        table_M3[:, 0] -= table_M3[:, 1] + len(self._end)
        with disk_errors(self._folder.target):
            self._table.write(table_M3.tobytes())
            self._names.writelines(_encode_name(d.name) for d in documents)
        for document in documents:
            source = document.source if len(self._words) > 1 else 0
            if document.words is None:
                self._words[source] = None
            elif (counts := self._words[source]) is not None:
                counts[0] += document.words[0]
                counts[1] += document.words[1]
            if document.loss is None:
                self._loss = None
            elif document.loss and self._loss is not None:
                self._loss += document.loss
        self._documents += len(documents)
        self._text_bytes += int(table_M3[:, 2].sum())
        self._position += self._pending_tokens
        shard = self._shards[-1]
        self._shards[-1] = shard = Shard(shard.file, shard.tokens + self._pending_tokens)
        self._pending, self._pending_tokens = [], 0
        if shard.tokens * self._dtype.itemsize >= SHARD_BYTES:
            self._next_shard()

    def finish(self) -> SplitRecord:
        """Writes what is left."""
        self._write_pending()
        self._file.close()
        digests = self._folder.digests
        for shard in self._shards:  # in the order of splits, whatever was full first
            digests[shard.file] = digests.pop(shard.file)
        header = BytesIO()
        described = {"descr": "<i8", "fortran_order": False, "shape": (self._documents, 3)}
        np.lib.format.write_array_header_1_0(header, described)
        self._copy(f"{self._name}.documents.npy", header.getvalue(), self._table)
        self._copy(f"{self._name}.names.jsonl", b"", self._names)
        words = [None if counts is None else Words(*counts) for counts in self._words]
        sizes = [
            SourceSize(name, documents, tokens, of_source)
            for name, (documents, tokens), of_source in zip(
                self._sources, self._by_source_C2.tolist(), words, strict=False
            )
        ]
        counted = [of_source for of_source in words if of_source is not None]
        return SplitRecord(
            tokens=self._position,
            documents=self._documents,
            text_bytes=self._text_bytes,
            shards=tuple(self._shards),
            loss=self._loss if self._documents else None,
            sources=tuple(sizes) if len(sizes) > 1 else None,
            words=sum(counted, Words()) if len(counted) == len(words) else None,
        )

    def _copy(self, name: str, header: bytes, rest: IO[bytes]) -> None:
        with self._folder.open(name) as write, disk_errors(self._folder.target):
            rest.seek(0)
            write(header)
            while data := rest.read(1 << 20):
                write(data)

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)
        self._waiting.close()


def _refuse_ids(documents: Sequence[EncodedDocument], vocabulary: int) -> NoReturn:
    document, wrong = next(
        (document, wrong)
        for document in documents
        for wrong in document.ids[(document.ids < 0) | (document.ids >= vocabulary)]
    )
    raise UserError(
        f"{document.name}: token id {wrong} is beyond the vocabulary of {vocabulary}; the "
        "tokenizer does not fit these ids"
    )


class TokenStore:
    """An opened token store: the token ids of a text in splits, with their tokenizer.

    Raises `UserError` where the folder is not one, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self.splits = _split_records(self.manifest, self.path / "manifest.json")
        self.vocabulary: int = self.manifest["vocabulary"]
        """Types of the tokenizer, special tokens included."""
        self.bos_id: int = self.manifest["bos_id"]
        """The token that stands before every window."""
        self.end_of_text: bool = self.manifest["end_of_text"]
        """Whether a token stands between documents."""
        self.dtype = np.dtype(self.manifest["dtype"])
        for name, split in self.splits.items():
            for shard in split.shards:
                self._check_size(shard.file, shard.tokens * self.dtype.itemsize)
            for file in (f"{name}.documents.npy", f"{name}.names.jsonl"):
                self._check_size(file, None)

    def _check_size(self, file: str, expected: int | None) -> None:
        path = self.path / file
        if not path.is_file():
            raise UserError(f"{path}: missing; the store is damaged. {_REMEDY}")
        if expected is not None and path.stat().st_size != expected:
            raise UserError(
                f"{path}: {path.stat().st_size} bytes where the manifest says {expected}: "
                f"truncated or changed. {_REMEDY}"
            )

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """What made its ids of the text."""
        tokenizer = load_tokenizer(self.path / "tokenizer")
        same = tokenizer.fingerprint == self.manifest["tokenizer_fingerprint"]
        if not same or tokenizer.vocabulary != self.vocabulary:
            raise UserError(
                f"{self.path / 'tokenizer'}: not the tokenizer that made this store. {_REMEDY}"
            )
        return tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the content (ids, boundaries, names, tokenizer), wherever the folder lies."""
        return digest(
            [self.manifest["files"], self.manifest["tokenizer_fingerprint"], self.end_of_text]
        )

    def verify(self) -> None:
        """Compares every file with its sha256 (about a second a gigabyte)."""
        for file, expected in self.manifest["files"].items():
            path = self.path / file
            if not path.is_file() or file_sha256(path) != expected:
                raise UserError(f"{path}: its content is not what was prepared. {_REMEDY}")

    def split(self, name: str) -> Split:
        """One split of the store: train, validation or test."""
        if name not in self.splits:
            raise UserError(f"{self.path}: no split '{name}'; it has {', '.join(self.splits)}")
        return Split(self, name, self.splits[name])

    def made_with_another(self, model: str, tokenizer: str | Path) -> UserError:
        """The refusal of a model, whose tokenizer lies at `tokenizer`, that reads other ids."""
        return UserError(
            f"{self.path} was made with another tokenizer than {model}. Prepare the text with this "
            f"model's: lmlab prepare --tokenizer.kind pretrained --tokenizer.name {tokenizer}"
        )

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r})"


_REMEDY = "Remove the folder and prepare it again."


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest = from_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path}: not a token store (no manifest.json); make one with `lmlab prepare`"
        ) from error
    except ValueError as error:
        raise UserError(f"{file}: damaged: {error}. {_REMEDY}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{file}: not the manifest of a token store ('{FORMAT}')")
    claimed = manifest.pop("manifest_sha256", None)
    try:
        actual = digest(manifest)
    except ValueError as error:  # NaN and the like
        raise UserError(f"{file}: damaged: {error}. {_REMEDY}") from error
    if claimed != actual:
        raise UserError(f"{file}: the manifest was edited or damaged. {_REMEDY}")
    return manifest


_FIELDS = {
    "vocabulary": int, "dtype": str, "bos_id": int, "end_of_text_id": int, "end_of_text": bool,
    "tokenizer_fingerprint": str, "splits": dict, "files": dict,
}  # fmt: skip


def _split_records(manifest: dict[str, Any], file: Path) -> dict[str, SplitRecord]:
    """The splits of a manifest. `UserError` for what `write_store` would not write: the digest is
    against accidents only, for anyone can compute that of a hostile manifest."""

    def refuse(what: str) -> NoReturn:
        raise UserError(f"{file}: damaged: {what}. {_REMEDY}")

    for name, kind in _FIELDS.items():
        value = manifest.get(name)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            refuse(f"'{name}' is {value!r}")
    if manifest["dtype"] not in ("uint8", "uint16", "uint32"):
        refuse(f"'dtype' is {manifest['dtype']!r}")
    if max(manifest["bos_id"], manifest["end_of_text_id"]) >= manifest["vocabulary"]:
        refuse("a special token is beyond the vocabulary")
    for name in manifest["files"]:
        if not is_member(name):
            raise UserError(f"{file}: names a file outside the store: {name!r}")
    needed = {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    records: dict[str, SplitRecord] = {}
    for name, values in manifest["splits"].items():
        try:
            record = records[name] = from_mapping(SplitRecord, values, where="its record")
            record.check()
        except (ValueError, AttributeError) as error:  # the latter where it is no object
            refuse(f"split '{name}': {error}")
        needed |= {f"{name}.documents.npy", f"{name}.names.jsonl"}
        needed |= {shard.file for shard in record.shards}
    if not needed <= manifest["files"].keys():
        refuse(f"{min(needed - manifest['files'].keys())} is there without its digest")
    return records


class Split:
    """One split's stream and its documents."""

    def __init__(self, store: TokenStore, name: str, record: SplitRecord) -> None:
        self.store, self.name = store, name
        self.tokens, self.documents = record.tokens, record.documents
        self.text_bytes, self.loss = record.text_bytes, record.loss
        self._words = record.words
        sizes = record.sources or ()
        first_documents = accumulate((size.documents for size in sizes), initial=0)
        first_tokens = accumulate((size.tokens for size in sizes), initial=0)
        self.sources = tuple(
            SourcePart(size.name, document, size.documents, token, size.tokens, size.words)
            for size, document, token in zip(sizes, first_documents, first_tokens, strict=False)
        )
        """Empty where the store has one source."""
        self._shards = [
            np.memmap(store.path / shard.file, dtype=store.dtype, mode="r")
            for shard in record.shards
            if shard.tokens
        ]
        self._starts = np.cumsum([0, *(len(s) for s in self._shards)])

    @cached_property
    def documents_M3(self) -> np.ndarray:
        """(M, 3) int64: first token in the stream, tokens (end-of-text left out), text bytes."""
        path = self.store.path / f"{self.name}.documents.npy"
        try:
            with open(path, "rb") as file:
                table_M3 = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # numpy parses the header as Python, and raises what that does
            raise UserError(f"{path}: damaged: {error}. {_REMEDY}") from error
        if table_M3.dtype != np.int64 or table_M3.shape != (self.documents, 3):
            raise UserError(
                f"{path}: damaged: {table_M3.dtype} of shape {table_M3.shape} where the manifest "
                f"has {self.documents} documents. {_REMEDY}"
            )
        first_M, tokens_M = table_M3[:, 0], table_M3[:, 1]
        outside_M = (table_M3 < 0).any(1) | (tokens_M > self.tokens - first_M)
        if outside_M.any():
            raise UserError(
                f"{path}: damaged: document {outside_M.argmax()} is not inside the split. {_REMEDY}"
            )
        return table_M3

    @property
    def words(self) -> int:
        """Words of its text (`data.words`). `UserError` where they were not counted."""
        if self._words is None:
            raise UserError(
                f"{self.store.path}: how many words it holds is not known (it was prepared before "
                "they were counted, or not from text). Prepare the text again, in another folder"
            )
        return self._words.count

    @property
    def loss_note(self) -> str | None:
        """A sentence on what the tokenizer lost of the text; None where it lost nothing."""
        return self._loss_note("bits per byte are those of another text")

    @property
    def copied_note(self) -> str | None:
        """As `loss_note`, where other models read the text that the store's tokens spell."""
        return self._loss_note("every model reads what is left")

    def _loss_note(self, meaning: str) -> str | None:
        if not self.loss:
            return None
        return loss_note(
            self.loss, documents=self.documents, text_bytes=self.text_bytes, meaning=meaning
        )

    @property
    def text_note(self) -> str:
        """What methods say of the text: the token that windows begin with, and what was lost."""
        begins = f"Windows begin with {self.store.tokenizer.begins_with}."
        return f"{begins} Text: {self.loss_note}." if self.loss_note else begins

    @cached_property
    def names(self) -> list[str]:
        path = self.store.path / f"{self.name}.names.jsonl"
        try:
            names = [from_json(line) for line in path.read_bytes().split(b"\n") if line]
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged: {error}. {_REMEDY}") from error
        if len(names) != self.documents or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: damaged: not {self.documents} names. {_REMEDY}")
        return names

    def texts(self) -> Iterator[str]:
        """Its documents as the tokenizer gives them back."""
        for start, tokens, _ in self.documents_M3.tolist():
            yield self.store.tokenizer.decode(self.read(start, start + tokens))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids (int64) of the stream from `start` up to `stop`, across shards."""
        assert 0 <= start <= stop <= self.tokens
        parts: list[np.ndarray] = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            offset = start - int(self._starts[shard])
            part = self._shards[shard][offset : offset + stop - start]
            parts.append(part)
            start += len(part)
            shard += 1
        if not parts:
            return np.empty(0, dtype=np.int64)
        ids = np.concatenate(parts).astype(np.int64)
        if ids.max() >= self.store.vocabulary:
            raise UserError(
                f"{self.store.path}: split {self.name} holds token id {ids.max()} beyond the "
                f"vocabulary of {self.store.vocabulary}: the store is damaged. {_REMEDY}"
            )
        return ids
