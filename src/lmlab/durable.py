"""Writes that survive a kill or a power cut.

Every file that must not be lost or half-written goes through here: bytes to a temporary name,
sync, rename, sync of the parent folder. A reader sees the old content or the new one, never a
mixture.

Notable:
- `StagedFolder` does the same for a folder of files (a checkpoint, a token store): everything is
  written beside the target, and one rename publishes it.
- Each system operation passes `operation(name, path)` first. Tests replace `on_operation` to kill,
  fail or record at that point; in production it does nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath, PureWindowsPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lmlab.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_NOT_WRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENOTEMPTY, errno.ENAMETOOLONG,
)  # fmt: skip

on_operation: Callable[[str, Path], None] = lambda name, path: None  # noqa: E731


def operation(name: str, path: Path) -> None:
    """Announces the system operation `name` on `path` (fault-injection point)."""
    on_operation(name, path)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns "no space left" and "permission denied" into a `UserError` with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full while writing {path}. What existed before is unchanged. "
                "Free some space and run the same command again."
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise UserError(
                f"cannot write {path}: {error.strerror}. Choose a folder you may write to (`out`)."
            ) from error
        raise


def sync_folder(path: Path) -> None:
    """Makes the names in folder `path` (created, renamed, removed) survive a power cut.

    Windows opens no folder, and so has nothing to sync.
    """
    operation("sync-folder", path)
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Makes the folder `path` and its missing parents; their names survive a power cut."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        operation("make-folder", folder)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _write_and_sync(path: Path, data: bytes) -> None:
    operation("write", path)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        operation("sync", path)
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces the file `path` by `data`, all or nothing."""
    with disk_errors(path):
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            _write_and_sync(temporary, data)
            operation("rename", path)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces the file `path` by `text` in UTF-8, all or nothing."""
    write_bytes(path, text.encode("utf-8"))


def to_json(value: Any) -> str:
    """The one JSON form of the project: indented, key order kept, NaN refused."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str | bytes) -> Any:
    """The value of JSON text, UTF-8 where it is bytes; `ValueError` for whatever is none."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_member(name: object) -> bool:
    """Whether `name`, from a manifest, is a relative path that stays in the manifest's folder, read
    as here or as on Windows."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return not any(p.anchor or ".." in p.parts for p in (PurePath(name), PureWindowsPath(name)))


def packed(arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of arrays, whatever their strides: safetensors itself writes the memory
    under a view as it lies, and says nothing."""
    import numpy as np
    from safetensors.numpy import save

    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return save(contiguous, metadata=None if metadata is None else dict(metadata))


def sealed(data: bytes) -> bytes:
    """A safetensors file with the sha256 of all it holds in its metadata; `check_seal` compares."""
    header, body = _header_and_body(data)
    # safetensors writes metadata in the order of a hash that is another every time
    described = dict(sorted(header.get("__metadata__", {}).items()))
    described["sha256"] = _seal(header, body)
    text = json.dumps({**header, "__metadata__": described}).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors stay aligned
    return b"".join([len(text).to_bytes(8, "little"), text, body])


def check_seal(data: bytes) -> bytes:
    """`data` itself. `ValueError` where its content is not what was `sealed`, or its header cannot
    be read; a file without a seal is let through."""
    header, body = _header_and_body(data)
    described = header.get("__metadata__", {})
    if "sha256" in described:
        rest = {name: value for name, value in described.items() if name != "sha256"}
        if described["sha256"] != _seal({**header, "__metadata__": rest}, body):
            raise ValueError("its content is not what was written")
    return data


def metadata(data: bytes) -> dict[str, Any]:
    """What a safetensors file says of itself. `ValueError` where its header cannot be read."""
    return _header_and_body(data)[0].get("__metadata__", {})


def _header_and_body(data: bytes) -> tuple[dict[str, Any], memoryview]:
    stop = 8 + int.from_bytes(data[:8], "little")
    header = from_json(data[8:stop])
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise ValueError("no header of a safetensors file")
    return header, memoryview(data)[stop:]


def _seal(header: dict[str, Any], body: memoryview) -> str:
    whole = {"__metadata__": {}, **header}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode("utf-8"))
    digest.update(body)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Replaces the file `path` by `value` as JSON, all or nothing."""
    write_text(path, to_json(value))


class AppendLog:
    """A file of lines that only grows, cut back on resume; `sync` makes what was written last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            make_folder(path.parent)
            new = not path.exists()
            # unbuffered: after a failed write nothing is left for close() to fail on again
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            try:
                if new:
                    sync_folder(path.parent)
            except BaseException:
                self._file.close()
                raise

    def append_line(self, line: str) -> None:
        with disk_errors(self.path):
            operation("append", self.path)
            data = line.encode("utf-8") + b"\n"
            while data:
                data = data[self._file.write(data) :]

    def sync(self) -> None:
        with disk_errors(self.path):
            operation("sync", self.path)
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def write_member(path: Path, data: bytes) -> str:
    """Writes one file of a folder that appears later, synced; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_and_sync(path, data)
    return hashlib.sha256(data).hexdigest()


def check_absent(out: Path) -> None:
    """`UserError` if a folder that is to be written is there already."""
    if out.exists():
        raise UserError(f"{out} exists; give another `out`, or remove it first")


class StagedFolder:
    """A folder that appears under its name complete, or not at all.

    Use as a context manager: write with `write` or `open`, and on leaving without an exception
    every file is synced and one rename publishes the folder. `digests` holds each file's sha256.

    Raises `UserError` on entry if `target` exists.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        self.digests: dict[str, str] = {}

    def __enter__(self) -> StagedFolder:
        if self.target.exists():
            raise UserError(f"{self.target} exists already; nothing is overwritten")
        with disk_errors(self.target):
            make_folder(self.target.parent)
            operation("make-folder", self.path)
            self.path.mkdir()
        return self

    def write(self, name: str, data: bytes) -> None:
        """Writes one file of the folder and syncs it."""
        with disk_errors(self.target / name):
            self.digests[name] = write_member(self.path / name, data)

    @contextmanager
    def open(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """A file too large for memory: yields a function that appends bytes; synced on leaving."""
        digest = hashlib.sha256()
        path = self.path / name
        with disk_errors(self.target / name):
            operation("write", path)
            with open(path, "wb") as file:

                def write(data: bytes) -> None:
                    file.write(data)
                    digest.update(data)

                yield write
                file.flush()
                operation("sync", path)
                os.fsync(file.fileno())
        self.digests[name] = digest.hexdigest()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                with disk_errors(self.target):
                    self._publish()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)  # nothing is there once it is published

    def _publish(self) -> None:
        for folder in sorted({self.path, *(p for p in self.path.rglob("*") if p.is_dir())}):
            sync_folder(folder)
        operation("rename", self.target)
        try:
            os.rename(self.path, self.target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UserError(
                    f"{self.target} was made by another process at the same time; what it wrote "
                    "stays, and nothing is overwritten"
                ) from error
            raise
        sync_folder(self.target.parent)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_abandoned(folder: Path) -> None:
    """Removes what killed writes left behind in `folder` (names that `StagedFolder` makes).

    Call it only while no other process writes there (holding the run's lock).
    """
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
