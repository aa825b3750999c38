"""Documents: where text comes from.

A document is the unit of splitting. Sources are
- files, folders and patterns (`novels/*.txt`), read in sorted order, of `.txt` (a file is one
  document, or several with `separator`), `.jsonl` (a line each) and `.parquet` (a row each), plain
  or as `.gz` / `.zst`;
- `hf:NAME`, `hf:NAME:CONFIG`, `hf:NAME:CONFIG:SPLIT`: a data set of the Hugging Face Hub, streamed;
- `docstrings`, the default corpus, and `docstrings:python`, a part of it (`lmlab.data.docstrings`);
- `code`, the source of Python's standard library (`lmlab.data.code`).

Notable: text is taken as it is (no stripping, no normalisation). What cannot be read is an error
that names file and line; an empty document is one too, unless `skip_empty`.
"""

from __future__ import annotations

import glob
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from lmlab.durable import from_json
from lmlab.errors import UserError

DOCSTRINGS = {"docstrings": True, "docstrings:python": False}
"""The corpora of docstrings, and whether they have those of installed packages too."""
FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".zst")
_ZSTD_CHUNK = 1 << 18


@dataclass(frozen=True)
class Document:
    """A piece of text and a name that says where it came from (unique within a corpus)."""

    name: str
    text: str
    source: int = 0
    """Which of the corpus's sources it is from; the documents of one are contiguous."""


@dataclass(frozen=True)
class CorpusConfig:
    """Which text is read, and how files are cut into documents."""

    source: tuple[str, ...] = ("docstrings",)
    """Files, folders, patterns, `hf:NAME[:CONFIG[:SPLIT]]`, `docstrings`, `docstrings:python` (the
    standard library's only), or `code` (the standard library itself)."""
    text_column: str = "text"
    """The column or key that holds the text in .jsonl, .parquet and Hub data sets."""
    separator: str | None = None
    """Cut .txt files into documents at this string (a blank line, in bash: $'\\n\\n')."""
    skip_empty: bool = False
    """Leave out documents without text, instead of stopping at the first."""
    max_documents: int | None = None
    """Stop after this many documents (for streamed data sets)."""

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise UserError(f"--corpus.max-documents {self.max_documents} must be at least 1")


def read_corpus(config: CorpusConfig) -> Iterator[Document]:
    """All documents of a corpus, in a deterministic order.

    Raises `UserError` for text that is not UTF-8, an empty file or document, a missing column, an
    unknown format, or a corpus without any document.
    """
    count = 0
    for document in _documents(config):
        if not document.text.strip():
            if config.skip_empty:
                continue
            raise UserError(
                f"{document.name}: the document is empty. Remove it, or leave such documents out "
                "with --corpus.skip-empty."
            )
        yield document
        count += 1
        if config.max_documents is not None and count >= config.max_documents:
            return
    if count == 0:
        raise UserError(f"no document with text in {', '.join(config.source) or 'no source'}")


def _documents(config: CorpusConfig) -> Iterator[Document]:
    for index, source in enumerate(config.source):
        # Two sources may hold files of the same name
        prefix = f"{index}/" if len(config.source) > 1 else ""
        for document in _read_source(source, config, prefix):
            yield replace(document, source=index)


def _read_source(source: str, config: CorpusConfig, prefix: str) -> Iterator[Document]:
    if source in DOCSTRINGS:
        from lmlab.data.docstrings import read_docstrings

        for name, text in read_docstrings(packages=DOCSTRINGS[source]):
            yield Document(prefix + name, text)
    elif source == "code":
        from lmlab.data.code import read_code

        for name, text in read_code():
            yield Document(prefix + name, text)
    elif source.startswith("hf:"):
        yield from _read_hub(source, config.text_column)
    else:
        for base, path in corpus_files(source):
            yield from read_file(path, config, name=prefix + base)


def source_names(sources: Sequence[str], name_of: Callable[[str], str] | None = None) -> list[str]:
    """Short names of sources: `name_of` each (default `source_name`).

    Where two would be the same, the sources as they were given.
    """
    short = [(name_of or source_name)(source) for source in sources]
    return [
        name if short.count(name) == 1 else source
        for name, source in zip(short, sources, strict=True)
    ]


def source_name(source: str) -> str:
    """A short name: of a file or folder its own, of a pattern its folder's, else as it is."""
    path = Path(source)
    if path.exists():
        return path.stem or source
    if glob.has_magic(source):
        return next((p for p in path.parts[::-1] if not glob.has_magic(p)), source)
    return source


def corpus_files(source: str) -> list[tuple[str, Path]]:
    """The files with text of a source (a file, a folder or a pattern) and their names within it.

    Sorted by path; hidden files are left out. A pattern is one of `glob` (`novels/*.txt`, with
    `**` for folders at any depth); a file of that very name comes first.
    """
    root = Path(source)
    if root.is_file():
        _format(root)
        return [(root.name, root)]
    if root.exists():
        found = sorted(path for path in root.rglob("*") if _suffix(path) in FORMATS)
    elif glob.has_magic(source):
        parts = root.parts
        plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:plain])
        found = sorted(map(Path, glob.glob(source, recursive=True)))
    else:
        raise UserError(
            f"{source}: no such file or folder. A Hub data set is named hf:NAME, the default "
            "corpus docstrings."
        )
    named = [(path.relative_to(root).as_posix(), path) for path in found if path.is_file()]
    named = [(n, p) for n, p in named if not any(part.startswith(".") for part in n.split("/"))]
    if not named:
        raise UserError(
            f"{source}: no file matches this pattern"
            if root != Path(source)
            else f"{source}: no {', '.join(FORMATS)} file (or .gz / .zst of one) in this folder"
        )
    for _, path in named:
        _format(path)
    return named


def _suffix(path: Path) -> str:
    suffixes = path.suffixes
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes = suffixes[:-1]
    return suffixes[-1] if suffixes else ""


def _format(path: Path) -> str:
    suffix = _suffix(path)
    if suffix not in FORMATS:
        raise UserError(
            f"{path}: unknown format '{suffix}'; lmlab reads {', '.join(FORMATS)}, also as .gz "
            "and .zst"
        )
    return suffix


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), buffer_size=_ZSTD_CHUNK)
    return open(path, "rb")


class _ZstdFile(io.RawIOBase):
    """The content of a .zst file of any number of frames.

    `zstandard.open` reads a truncated file as if it were whole, and has no lines.
    """

    def __init__(self, path: Path) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._ready = b""
        self._inside = False  # a frame has begun and not ended

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._inside = self._decompressor.decompressobj(), False
            data = data or self._file.read(_ZSTD_CHUNK)
            if not data:
                if self._inside:
                    raise EOFError("it ends in the middle")
                return 0
            self._inside = True
            self._ready = self._frame.decompress(data)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def read_file(path: Path, config: CorpusConfig, *, name: str) -> Iterator[Document]:
    """The documents of one file; `name` begins their names."""
    if path.stat().st_size == 0:
        if config.skip_empty:
            return
        raise UserError(
            f"{path}: the file is empty. Remove it, or leave such files out with "
            "--corpus.skip-empty."
        )
    kind = _format(path)
    with _damage_named(path):
        if kind == ".txt":
            yield from _read_text(path, config.separator, name)
        elif kind == ".jsonl":
            yield from _read_jsonl(path, config.text_column, name)
        else:
            yield from _read_parquet(path, config.text_column, name)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """`UserError` that names the file for what goes wrong while it is read."""
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: damaged file ({error}); fetch or make it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise UserError(f"{path}: damaged file ({error}); fetch or make it again") from error
        raise


def _decode(data: bytes, path: Path | str, *, first_line: int = 1) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte {data[error.start]:#04x} at byte offset "
            f"{error.start}{' of the line' if first_line > 1 else ''}). Convert the file, for "
            "example: iconv -f latin1 -t utf-8"
        ) from error


def _read_text(path: Path, separator: str | None, name: str) -> Iterator[Document]:
    with _open(path) as file:
        text = _decode(file.read(), path)
    if separator is None:
        yield Document(name, text)
        return
    if not separator:
        raise UserError("--corpus.separator is empty; name the string between two documents")
    pieces = [piece for piece in text.split(separator) if piece.strip()]
    for index, piece in enumerate(pieces):
        yield Document(f"{name}#{index}", piece)


def _read_jsonl(path: Path, column: str, name: str) -> Iterator[Document]:
    with _open(path) as file:
        for number, record in json_lines(file, path):
            yield Document(f"{name}#{number}", _text(record, column, f"{path}, line {number}"))


def _text_lines(lines: Iterable[bytes], path: Path | str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(lines, start=1):
        if raw.strip():
            yield number, _decode(raw, path, first_line=number)


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank, of a file or its .gz / .zst.

    `UserError` names a line that is not UTF-8, and a damaged file.
    """
    with _damage_named(path), _open(path) as file:
        yield from _text_lines(file, path)


def json_lines(lines: Iterable[bytes], path: Path | str) -> Iterator[tuple[int, Any]]:
    """Number (from 1) and value of each line that is not blank; `UserError` names a bad one."""
    for number, line in _text_lines(lines, path):
        try:
            record = from_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        yield number, record


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """`json_lines` of a file, plain or as .gz / .zst."""
    with _damage_named(path), _open(path) as file:
        yield from json_lines(file, path)


def _text(record: Any, column: str, where: str) -> str:
    if not isinstance(record, dict) or column not in record:
        have = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{where}: no key '{column}' (found: {have}). Name the text with --corpus.text-column."
        )
    return valid_text(record[column], f"{where}: '{column}'")


def valid_text(value: Any, what: str) -> str:
    """`value` if it is text, empty or not; else a `UserError` that begins with `what`."""
    if not isinstance(value, str):
        raise UserError(f"{what} holds {type(value).__name__}; it has to be text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise UserError(
            f"{what} holds half a surrogate pair ({value[error.start]!r}), which is no character; "
            "remove it, or make the file again from its source"
        ) from error
    return value


def _read_parquet(path: Path, column: str, name: str) -> Iterator[Document]:
    import pyarrow.parquet

    source: Any = str(path)
    if path.suffix in COMPRESSIONS:
        with _open(path) as file:
            source = io.BytesIO(file.read())
    try:
        table = pyarrow.parquet.ParquetFile(source)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not a parquet file: {error}") from error
    if column not in table.schema_arrow.names:
        raise UserError(
            f"{path}: no column '{column}' (found: {', '.join(table.schema_arrow.names)}). Name "
            "the text with --corpus.text-column."
        )
    row = 0
    for batch in table.iter_batches(columns=[column], batch_size=1024):
        for value in batch.column(0).to_pylist():
            yield Document(f"{name}#{row}", _text({column: value}, column, f"{path}, row {row}"))
            row += 1


def _read_hub(source: str, column: str) -> Iterator[Document]:
    for index, record in enumerate(hub_rows(source)):
        yield Document(f"{source}#{index}", _text(record, column, f"{source}, row {index}"))


def hub_rows(source: str, *, split: str = "train") -> Iterator[Any]:
    """The rows of `hf:NAME[:CONFIG[:SPLIT]]`, streamed; `split` where the source names none."""
    from datasets import load_dataset

    name, _, rest = source.removeprefix("hf:").partition(":")
    config, _, named = rest.partition(":")
    try:
        rows: Iterable[Any] = load_dataset(
            name, config or None, split=named or split, streaming=True
        )
    except Exception as error:
        raise UserError(f"{source}: the Hub data set cannot be read: {error}") from error
    yield from rows
