"""Documents: where text comes from.

A document is the unit of splitting. Sources are
- files, folders and patterns (`novels/*.txt`), read in sorted order, of `.txt` (a file is one
  document, or several with `separator` or `lines`), `.train`, `.dev`, `.test` (blank lines between
  documents), `.jsonl` (a line each) and `.parquet` (a row each), plain or as `.gz` / `.zst`; a file
  that is named itself is text whatever its ending;
- `hf:NAME`, `hf:NAME:CONFIG`, `hf:NAME:CONFIG:SPLIT`: a data set of the Hugging Face Hub, streamed;
- `docstrings`, the default corpus, and `docstrings:python`, a part of it (`lmlab.data.docstrings`);
- `code`, the source of Python's standard library.

Notable:
- Text is taken as it is (no stripping, no normalisation), but for what is about the file and not
  the text: a byte-order mark is left out and says the encoding (UTF-8, UTF-16, UTF-32), and the
  line ends of a .txt file are read as \n where Windows wrote \r\n.
- What cannot be read is an error that names file and line; an empty document or a null row is one
  too, unless `skip_empty`.
- What is left out or read otherwise is counted (`Reading`), said and kept in the store's manifest:
  files of other formats, hidden ones, links that lead nowhere, empty documents, null rows.
- Linked folders are followed; a folder that is reached twice is read once, so that a circle ends.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import io
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

from lmlab.config.numbers import Options
from lmlab.durable import file_sha256, from_json
from lmlab.errors import UserError

DOCSTRINGS = {"docstrings": True, "docstrings:python": False}
"""The corpora of docstrings, and whether they have those of installed packages too."""
SPLIT_ENDINGS = {".train": "train", ".dev": "validation", ".test": "test"}
"""Endings of text files that say which split they are."""
FORMATS = (".txt", *SPLIT_ENDINGS, ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".zst")
_CHUNK = 1 << 18
_BLOCK = 1 << 24
_MARKS = (  # longest first: the mark of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Document:
    """A piece of text and a name that says where it came from (unique within a corpus)."""

    name: str
    text: str
    source: int = 0
    """Which of the corpus's sources it is from; the documents of one are contiguous."""
    split: str = ""
    """The split that it is to be in; "": as its text decides."""


@dataclass(frozen=True)
class CorpusConfig(Options, prefix="corpus."):
    """Which text is read, and how files are cut into documents."""

    text: tuple[str, ...] = ("docstrings",)
    """Files, folders, patterns, hf:NAME[:CONFIG[:SPLIT]], docstrings, docstrings:python (the
    standard library's only), or code (the standard library itself)."""
    text_column: str = "text"
    """The column or key that holds the text in .jsonl, .parquet and Hub data sets."""
    separator: str | None = None
    """Cut text files into documents at this string (a blank line, in bash: $'\\n\\n'); \\n stands
    for the line ends of the file, also those of Windows."""
    lines: Literal["documents", "joined"] | None = None
    """What a line of a text file is. documents: each a document; joined: documents go on over
    lines, with blank lines between them. Default: joined for .train, .dev and .test; any other file
    is one document."""
    skip_empty: bool = False
    """Leave out documents without text and rows whose text is null, instead of stopping at the
    first."""
    max_documents: int | None = None
    """Stop after this many documents (for streamed data sets)."""
    encoding: str | None = None
    """Encoding of .txt and .jsonl files that are not UTF-8 and have no byte-order mark: cp1252 (the
    usual one of Western European Windows), latin-1, utf-16-le, gb18030 and others of Python."""
    text_suffixes: tuple[str, ...] | None = None
    """Read files with these endings in folders and patterns as .txt too (`.md .tex`)."""

    def __post_init__(self) -> None:
        if self.lines is not None and self.separator is not None:
            raise UserError(
                "`corpus.separator` and `corpus.lines` both say where documents end; give one"
            )
        if self.encoding is not None:
            try:
                known = "".encode(self.encoding) is not None
            except (LookupError, TypeError, UnicodeError):
                known = False
            if not known:
                raise UserError(
                    f"`corpus.encoding` {self.encoding}: no encoding of text that Python knows; "
                    "for example cp1252, latin-1, utf-16-le, gb18030"
                )
        for suffix in self.text_suffixes or ():
            if not suffix.startswith(".") or suffix.lower() in (*FORMATS, *COMPRESSIONS):
                raise UserError(
                    f"`corpus.text_suffixes` {suffix}: give endings of file names that are not "
                    "read already, with their dot (.md .tex)"
                )


@dataclass
class Reading:
    """What was left out, or read otherwise than it stands, while a corpus was read; counted."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Files and folders, by why ("hidden", ".pdf")."""
    taken_as_text: Counter[str] = field(default_factory=Counter)
    """Files that were named, by endings that are no format."""
    empty: int = 0
    """Documents and files without text."""
    null: int = 0
    """Rows whose text is null."""
    windows_line_ends: int = 0
    """Files whose \\r\\n were read as \\n."""
    encodings: Counter[str] = field(default_factory=Counter)
    """Files with a byte-order mark, by the encoding that it says."""
    texts: int = 0
    separated: int = 0
    """Text files, and those of them that have the separator."""
    files: dict[int, list[tuple[str, Path]]] = field(default_factory=dict)
    """`corpus_files` of the sources that were reached, by their number."""
    sha256: dict[Path, str] = field(default_factory=dict)
    """Of the bytes that were read of each file, in hexadecimal."""

    def hashed(self, path: Path, sha256: str) -> None:
        """Notes a file's digest. `UserError` where it was another when it was read before."""
        if self.sha256.setdefault(path, sha256) != sha256:
            raise UserError(f"{path} changed while it was being read; run the command again")

    def to_json(self) -> dict[str, Any]:
        """Plain values, those that are not zero."""
        values = {
            "left_out": dict(sorted((+self.left_out).items())),  # not what was looked for in vain
            "taken_as_text": dict(sorted(self.taken_as_text.items())),
            "empty": self.empty,
            "null": self.null,
            "windows_line_ends": self.windows_line_ends,
            "byte_order_marks": dict(sorted(self.encodings.items())),
        }
        return {name: value for name, value in values.items() if value}


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def reading_notes(values: Mapping[str, Any]) -> list[str]:
    """What `Reading.to_json` holds, in words."""
    notes = []
    if left_out := values.get("left_out"):
        parts = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
        notes.append(
            f"left out: {parts}. Files of another ending are read as text with "
            "`corpus.text_suffixes`"
        )
    if taken := values.get("taken_as_text"):
        parts = ", ".join(f"{count:,} {ending}" for ending, count in taken.items())
        notes.append(f"read as text, whatever their endings, since they were named: {parts}")
    if count := values.get("empty"):
        notes.append(f"left out: {_counted(count, 'text')} without a character but white space")
    if count := values.get("null"):
        notes.append(f"left out: {_counted(count, 'row')} whose text is null")
    if count := values.get("windows_line_ends"):
        notes.append(f"line ends of Windows (\\r\\n) are read as \\n: {_counted(count, 'file')}")
    if marks := values.get("byte_order_marks"):
        parts = ", ".join(f"{count:,} of {name.upper()}" for name, count in marks.items())
        notes.append(f"files with a byte-order mark, which is no part of the text: {parts}")
    return notes


def read_corpus(
    config: CorpusConfig,
    reading: Reading | None = None,
    *,
    also: Sequence[str] = (),
    endings: Mapping[str, str] | None = None,
) -> Iterator[Document]:
    """All documents of a corpus, in a deterministic order; `reading` counts what is left out. Then
    those of the sources `also`, whatever `config.max_documents`. Where `has_splits` a source,
    `endings` names the split that documents of files with such an ending are in.

    Raises `UserError` for text that is not UTF-8 (or `config.encoding`), an empty file or document,
    a missing column, an unknown format, a separator that no file has, or a corpus without any
    document.
    """
    reading = Reading() if reading is None else reading
    count, sources = 0, (*config.text, *also)
    for index, source in enumerate(sources):
        most_of_text = index < len(config.text)
        most = config.max_documents if most_of_text else None
        if most is not None and count >= most:
            continue
        # Two sources may hold files of the same name
        prefix = f"{index}/" if len(sources) > 1 else ""
        splits = endings or {} if most_of_text else {}
        for document in _read_source(source, index, config, prefix, reading, splits):
            if _is_blank(document.text):
                if config.skip_empty:
                    reading.empty += 1
                    continue
                raise UserError(
                    f"{document.name}: the document is empty. Remove it, or leave such documents "
                    "out with `corpus.skip_empty`."
                )
            yield document if index == 0 else replace(document, source=index)
            count += 1
            if most is not None and count >= most:
                break
    if config.max_documents is not None and count >= config.max_documents:
        return
    if count == 0:
        raise UserError(f"no document with text in {', '.join(config.text) or 'no source'}")
    if config.separator is not None and reading.texts and not reading.separated:
        typed = config.separator.encode("unicode_escape").decode()
        plain = config.separator
        for escape, character in ((r"\n", "\n"), (r"\r", "\r"), (r"\t", "\t")):
            plain = plain.replace(escape, character)
        raise UserError(
            f"`corpus.separator` '{typed}' is in none of the {reading.texts:,} text files. "
            + (
                f"A line end is $'\\n' in bash: `corpus.separator` $'{config.separator}'"
                if plain != config.separator
                else "Name the string that stands between two documents, or leave the option out"
            )
        )


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def is_local(source: str) -> bool:
    """Whether a source names files, a folder or a pattern."""
    return not (source in DOCSTRINGS or source == "code" or source.startswith("hf:"))


def has_splits(source: str, files: Sequence[tuple[str, Path]]) -> bool:
    """Whether the endings of a source's files name splits: of a folder or pattern with .train."""
    return not Path(source).is_file() and any(file_suffix(path) == ".train" for _, path in files)


def _read_source(
    source: str,
    index: int,
    config: CorpusConfig,
    prefix: str,
    reading: Reading,
    endings: Mapping[str, str],
) -> Iterator[Document]:
    if not is_local(source) and not source.startswith("hf:"):
        from lmlab.data.docstrings import read_code, read_docstrings

        python = source == "code"
        texts = read_code() if python else read_docstrings(packages=DOCSTRINGS[source])
        for name, text in texts:
            yield Document(prefix + name, text)
    elif source.startswith("hf:"):
        yield from _read_hub(source, config, reading)
    else:
        suffixes = config.text_suffixes or ()
        files = reading.files[index] = corpus_files(source, suffixes, reading.left_out)
        splits = endings if has_splits(source, files) else {}
        for base, path in files:
            split = splits.get(file_suffix(path), "")
            for document in _read_file(path, config, prefix + base, reading):
                yield replace(document, split=split) if split else document


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


def corpus_files(
    source: str, text_suffixes: Sequence[str] = (), left_out: Counter[str] | None = None
) -> list[tuple[str, Path]]:
    """The files with text of a source (a file, a folder or a pattern) and their names within it.

    Sorted by path; hidden files are left out. A pattern is one of `glob` (`novels/*.txt`, with
    `**` for folders at any depth); a file of that very name comes first, and may have any ending.
    Linked folders are followed, each folder once. `left_out` counts what is not read, by why.
    """
    root = Path(source)
    left_out = Counter() if left_out is None else left_out
    formats = (*FORMATS, *(suffix.lower() for suffix in text_suffixes))
    if root.is_file():
        return [(root.name, root)]
    if root.exists():
        paths = []
        for path in sorted(files_below(root, left_out)):
            if file_suffix(path) in formats:
                paths.append(path)
            else:
                left_out[file_suffix(path) or "without an ending"] += 1
    elif glob.has_magic(source):
        parts = root.parts
        plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:plain])
        paths = _each_once(sorted(map(Path, glob.glob(source, recursive=True))), left_out)
        paths = [path for path in paths if not _is_hidden(path.relative_to(root), left_out)]
    else:
        raise UserError(
            f"{source}: no such file or folder. A Hub data set is named hf:NAME, the default "
            "corpus docstrings."
        )
    if not paths:
        rest = f" (left out: {', '.join(sorted(left_out))})" if left_out else ""
        raise UserError(
            f"{source}: no file matches this pattern{rest}"
            if root != Path(source)
            else f"{source}: no {', '.join(formats)} file (or .gz / .zst of one) in this folder"
            f"{rest}. Files of another ending are read as text with `corpus.text_suffixes`"
        )
    for path in paths:
        _check_format(path, formats)
    return [(path.relative_to(root).as_posix(), path) for path in paths]


def _is_hidden(relative: Path, left_out: Counter[str]) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    left_out["hidden"] += hidden
    return hidden


def files_below(root: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Every file below a folder that is not hidden; real folders first, then linked ones."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from error

    seen: set[str] = set()
    waiting = [root]
    while waiting:
        start = waiting.pop(0)
        for here, folders, files in os.walk(start, onerror=fail):
            if os.path.realpath(here) in seen:  # a link to a folder that is read anyway
                left_out["linked folder that was read already"] += 1
                folders.clear()
                continue
            seen.add(os.path.realpath(here))
            for name in sorted(folders):
                path = Path(here, name)
                if name.startswith("."):
                    left_out["hidden"] += 1
                    folders.remove(name)
                elif path.is_symlink():
                    waiting.append(path)
            for name in files:
                path = Path(here, name)
                if name.startswith("."):
                    left_out["hidden"] += 1
                elif path.is_file():
                    yield path
                else:
                    left_out["link that leads nowhere, or no file"] += 1


def _each_once(paths: Iterable[Path], left_out: Counter[str]) -> list[Path]:
    """The files among `paths`; of one that links reach too, its own path."""
    kept: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (sum(p.is_symlink() for p in path.parents), path)):
        real = os.path.join(os.path.realpath(path.parent), path.name)
        if not path.is_file():
            left_out["folder" if path.is_dir() else "link that leads nowhere, or no file"] += 1
        elif real in kept:
            left_out["file that was read already, through a link"] += 1
        else:
            kept[real] = path
    return sorted(kept.values())


def file_suffix(path: Path) -> str:
    """The ending of a file's name in lower case, that of a compression left out."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes = suffixes[:-1]
    return suffixes[-1] if suffixes else ""


def _check_format(path: Path, formats: Sequence[str]) -> None:
    suffix = file_suffix(path)
    if suffix not in formats:
        raise UserError(
            f"{path}: unknown format '{suffix}'; lmlab reads {', '.join(formats)}, also as .gz "
            "and .zst"
            + (f"; read it as text with `corpus.text_suffixes` {suffix}" if suffix else "")
        )


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """`UserError` for a file that is written while the block reads it."""
    before = path.stat()
    yield
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(f"{path} changed while it was being read; run the command again")


@contextmanager
def _open(path: Path, reading: Reading | None = None) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed; `reading` is told the digest of the file's own bytes."""
    with _unchanged(path), open(path, "rb", buffering=0) as raw:
        hashing = _HashingFile(raw)
        stored: Any = io.BufferedReader(hashing, buffer_size=_CHUNK)
        try:
            if path.suffix.lower() == ".gz":
                yield cast(IO[bytes], gzip.GzipFile(fileobj=stored))
            elif path.suffix.lower() == ".zst":
                import pyarrow

                stored = pyarrow.CompressedInputStream(pyarrow.PythonFile(stored, mode="r"), "zstd")
                yield io.BufferedReader(stored, buffer_size=_CHUNK)
            else:
                yield stored
        finally:
            if reading is not None:
                while hashing.read(_CHUNK):  # what the reader had no use for
                    pass
                reading.hashed(path, hashing.sha256.hexdigest())


class _HashingFile(io.RawIOBase):
    """A file that is hashed while it is read, from its start to its end."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw, self.sha256 = raw, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer)
        self.sha256.update(buffer[:count])
        return count

    def readall(self) -> bytes:
        data = self._raw.readall()
        self.sha256.update(data)
        return data


def _read_file(path: Path, config: CorpusConfig, name: str, reading: Reading) -> Iterator[Document]:
    """The documents of one file; `name` begins their names."""
    if path.stat().st_size == 0:
        if config.skip_empty:
            reading.empty += 1
            return
        raise UserError(
            f"{path}: the file is empty. Remove it, or leave such files out with "
            "`corpus.skip_empty`."
        )
    kind = file_suffix(path)
    with _damage_named(path):
        if kind == ".jsonl":
            yield from _read_jsonl(path, config, name, reading)
        elif kind == ".parquet":
            yield from _read_parquet(path, config, name, reading)
        else:
            yield from _read_text(path, config, name, reading)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """`UserError` that names the file for what goes wrong while it is read."""
    try:
        yield
    except (OSError, zlib.error, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        raise UserError(f"{path}: damaged file ({error}); fetch or make it again") from error


def _mark(data: bytes) -> tuple[bytes, str | None]:
    """The byte-order mark at the start of a file (or b"") and the encoding that it says."""
    return next(((m, encoding) for m, encoding in _MARKS if data.startswith(m)), (b"", None))


def _decode(
    data: bytes,
    path: Path | str,
    *,
    encoding: str = "utf-8",
    first_line: int = 1,
    offset: int | None = None,
    advice: str = "",
) -> str:
    """The text of bytes without a byte-order mark; `UserError` names the line and the byte, that of
    the file where its `offset` is given, else that of `data`."""
    # plain ASCII in UTF-16 is valid UTF-8: every other character is NUL
    if not _is_wide(encoding) and 0 < len(data) < 10 * data.count(b"\0"):
        raise UserError(
            f"{path}, line {first_line}: every tenth byte or more is NUL, so this is no "
            f"{encoding.upper()} text. {advice}Convert the file, for example: iconv -f utf-16le -t "
            "utf-8"
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, errors="ignore")
        line = first_line + before.count("\n")
        raise UserError(
            f"{path}, line {line}: not {encoding.upper()} (byte {data[error.start]:#04x} at byte "
            f"offset {error.start + (offset or 0)}"
            f"{' of the line' if first_line > 1 and offset is None else ''}). {advice}Convert the "
            "file, for example: iconv -f cp1252 -t utf-8"
        ) from error


def _is_wide(encoding: str) -> bool:
    """Whether characters are of two or four bytes, so that a line end is no single byte."""
    return encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))


_NAME_ENCODING = "Name its encoding, for example `corpus.encoding` cp1252 (or utf-16-le). "


def _read_text(path: Path, config: CorpusConfig, name: str, reading: Reading) -> Iterator[Document]:
    if lines := lines_of(path, config):
        numbered = _numbered_lines(_text_blocks(path, config, reading))
        texts = _sections(numbered) if lines == "joined" else numbered
        nothing = True
        for number, text in texts:
            if not _is_blank(text):
                nothing = False
                yield Document(f"{name}#{number}", text)
        if nothing:
            yield Document(name, "")  # refused or counted, as any without text
        return
    if config.separator is None:
        yield Document(name, "".join(_text_blocks(path, config, reading)))
        return
    separator = config.separator.replace("\r\n", "\n")
    if not separator:
        raise UserError("`corpus.separator` is empty; name the string between two documents")
    count = 0
    for piece in _separated(_text_blocks(path, config, reading), separator, reading):
        if not _is_blank(piece):
            yield Document(f"{name}#{count}", piece)
            count += 1


def lines_of(path: Path, config: CorpusConfig) -> Literal["documents", "joined"] | None:
    """What lines of a text file are; None where they do not say where documents end."""
    if config.lines is None and config.separator is None and file_suffix(path) in SPLIT_ENDINGS:
        return "joined"
    return config.lines


def _numbered_lines(blocks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its end."""
    number, rest = 1, ""
    for block in blocks:
        *lines, rest = (rest + block).split("\n")
        yield from enumerate(lines, number)
        number += len(lines)
    yield number, rest


def _sections(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines that no blank one parts, joined as they stand, each with the number of its first."""
    for blank, group in itertools.groupby(lines, key=lambda line: _is_blank(line[1])):
        if not blank:
            number, first = next(group)
            yield number, "\n".join([first, *(text for _, text in group)])


def _text_blocks(path: Path, config: CorpusConfig, reading: Reading) -> Iterator[str]:
    """The text of a file: in blocks of whole lines where it is to be cut, else in one."""
    reading.texts += 1
    cut = config.separator or lines_of(path, config)
    known = (*FORMATS, *(suffix.lower() for suffix in config.text_suffixes or ()))
    advice = _NAME_ENCODING
    if (ending := file_suffix(path)) not in known:
        reading.taken_as_text[ending or "without an ending"] += 1
        advice = f"Of another ending than {', '.join(known)}, it was read as text. {advice}"
    windows_line_ends = False
    with _open(path, reading) as file:
        data = file.read(_BLOCK) if cut else file.read()
        mark, said = _mark(data)
        if said is not None:
            reading.encodings[said] += 1
        encoding = said or config.encoding or "utf-8"
        line, offset = 1, len(mark)
        # characters of two or four bytes may have the byte of a line end
        rest = file.read if _is_wide(encoding) else file.readline
        data = data[len(mark) :] + rest()
        while data:
            text = _decode(
                data, path, encoding=encoding, first_line=line, offset=offset, advice=advice
            )
            line, offset = line + text.count("\n"), offset + len(data)
            if "\r\n" in text:
                reading.windows_line_ends += not windows_line_ends
                windows_line_ends = True
                text = text.replace("\r\n", "\n")
            del data  # of a large file
            yield text
            data = file.read(_BLOCK) + rest()


def _separated(blocks: Iterable[str], separator: str, reading: Reading) -> Iterator[str]:
    """What `"".join(blocks).split(separator)` gives."""
    pending: list[str] = []  # the text since the last separator
    tail = ""  # its end, where a separator may have begun
    separated = False
    for block in blocks:
        if separator not in tail + block:
            pending.append(block)
            tail = (tail + block)[1 - len(separator) :] if len(separator) > 1 else ""
            continue
        separated = True
        *pieces, tail = "".join([*pending, block]).split(separator)
        pending = [tail]
        yield from pieces
    reading.separated += separated
    yield "".join(pending)


def _read_jsonl(
    path: Path, config: CorpusConfig, name: str, reading: Reading
) -> Iterator[Document]:
    with _open(path, reading) as file:
        first = file.readline()
        if (said := _mark(first)[1]) is not None:
            reading.encodings[said] += 1
        lines = text_lines(
            itertools.chain([first], file), path, encoding=config.encoding, advice=_NAME_ENCODING
        )
        for number, record in json_values(lines, path):
            text = _text(record, config, f"{path}, line {number}", reading)
            if text is not None:
                yield Document(f"{name}#{number}", text)


def text_lines(
    lines: Iterable[bytes], path: Path | str, *, encoding: str | None = None, advice: str = ""
) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank; a byte-order mark is left out."""
    pending = iter(lines)
    first = next(pending, b"")
    mark, said = _mark(first)
    encoding = said or encoding or "utf-8"
    if _is_wide(encoding):
        data = b"".join([first, *pending])[len(mark) :]
        text = _decode(data, path, encoding=encoding, advice=advice)
        yield from ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
        return
    for number, raw in enumerate(itertools.chain([first[len(mark) :]], pending), start=1):
        if raw.strip():
            yield (
                number,
                _decode(raw, path, encoding=encoding, first_line=number, advice=advice),
            )


def read_text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank, of a file or its .gz / .zst.

    `UserError` names a line that is not UTF-8, and a damaged file.
    """
    with _damage_named(path), _open(path) as file:
        yield from text_lines(file, path)


def json_values(lines: Iterable[tuple[int, str]], path: Path | str) -> Iterator[tuple[int, Any]]:
    """Number and value of each numbered line; `UserError` names one that is not JSON."""
    for number, line in lines:
        try:
            record = from_json(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        yield number, record


def _text(record: Any, config: CorpusConfig, where: str, reading: Reading) -> str | None:
    """The text of a row; None (counted) where it is null and such rows are left out."""
    column = config.text_column
    if isinstance(record, list):
        raise UserError(
            f"{where}: a list, where lmlab reads one object a line, with the key '{column}'. Write "
            "each item of the list on a line of its own"
        )
    value: Any = record
    # `meta.text` is the key of that name, or the key `text` of what stands under `meta`
    for key in [column] if _has(record, column) else column.split("."):
        if value is not None and not _has(value, key):
            have = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise UserError(
                f"{where}: no key '{column}' (found: {have}). Name the text with "
                "`corpus.text_column`; of a nested row with dots, as in meta.text."
            )
        value = None if value is None else value[key]
    if value is None:
        if config.skip_empty:
            reading.null += 1
            return None
        raise UserError(
            f"{where}: '{column}' is null. Leave such rows out with `corpus.skip_empty`."
        )
    if isinstance(value, dict):
        raise UserError(
            f"{where}: '{column}' holds keys ({', '.join(map(str, value))}), not text. Name one "
            f"with `corpus.text_column`, as in {column}.{next(iter(value), 'text')}."
        )
    return valid_text(value, f"{where}: '{column}'")


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


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


def _read_parquet(
    path: Path, config: CorpusConfig, name: str, reading: Reading
) -> Iterator[Document]:
    import pyarrow.parquet

    with _unchanged(path):
        source: Any = str(path)
        if path.suffix.lower() in COMPRESSIONS:
            with _open(path, reading) as file:
                source = io.BytesIO(file.read())
        else:  # read from its end, and of its columns one: nothing to hash along
            reading.hashed(path, file_sha256(path))
        try:
            table = pyarrow.parquet.ParquetFile(source)
        except pyarrow.ArrowInvalid as error:
            raise UserError(f"{path}: not a parquet file: {error}") from error
        names, column = table.schema_arrow.names, config.text_column
        if column not in names:
            column = column.partition(".")[0]
        if column not in names:
            raise UserError(
                f"{path}: no column '{column}' (found: {', '.join(names)}). Name the text with "
                "`corpus.text_column`."
            )
        batches = table.iter_batches(columns=[column], batch_size=1024)
        values = (value for batch in batches for value in batch.column(0).to_pylist())
        for row, value in enumerate(values):
            text = _text({column: value}, config, f"{path}, row {row}", reading)
            if text is not None:
                yield Document(f"{name}#{row}", text)


def _read_hub(source: str, config: CorpusConfig, reading: Reading) -> Iterator[Document]:
    for index, record in enumerate(hub_rows(source)):
        text = _text(record, config, f"{source}, row {index}", reading)
        if text is not None:
            yield Document(f"{source}#{index}", text)


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
