"""What a power cut may leave of a folder: a small simulator of the page cache.

`PageCache` watches a folder while a program writes it. At each announced operation it keeps what a
reader would see (in the cache) and what has been synced: the data of each file at its last `fsync`,
and the names in each folder at its last `fsync`. `states` gives what a disk may hold after a cut at
that moment.

Notable:
- Syncs are believed only where `os.fsync` itself is called; announcements are only moments.
- Everything is kept by inode, so a rename carries the data of its file and the names of its folder.
  A descriptor is held on each inode, so that its number is not given to another file meanwhile.
- A folder's unsynced names are lost or kept one by one, harder than any journaling file system is.
- A file's unsynced tail may be lost, cut anywhere, or there with zeros for what was not written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from lmlab import durable

Names = dict[str, int]
"""Inode of each name of a folder."""


@dataclass(frozen=True)
class Tree:
    """Names of each folder and data of each file, by inode."""

    root: int
    folders: dict[int, Names]
    files: dict[int, bytes]


@dataclass(frozen=True)
class Moment:
    """The instant before an operation."""

    operation: str
    seen: Tree
    synced: Tree


class PageCache:
    """Watches `root` as a context manager; `moments` has an entry for each operation, and one for
    the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moments: list[Moment] = []
        self._held: dict[int, int] = {}
        self._synced = self._look()

    def _hold(self, path: str) -> None:
        inode = os.lstat(path).st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)

    def _look(self) -> Tree:
        folders: dict[int, Names] = {}
        files: dict[int, bytes] = {}
        self._hold(str(self.root))
        for folder, _, _ in os.walk(self.root):
            names: Names = {}
            for entry in os.scandir(folder):
                self._hold(entry.path)
                names[entry.name] = entry.inode()
                if entry.is_file():
                    files[entry.inode()] = Path(entry.path).read_bytes()
            folders[os.stat(folder).st_ino] = names
        return Tree(self.root.stat().st_ino, folders, files)

    def _note(self, operation: str) -> None:
        synced = Tree(self._synced.root, dict(self._synced.folders), dict(self._synced.files))
        self.moments.append(Moment(operation, self._look(), synced))

    def _fsynced(self, descriptor: int) -> None:
        seen, inode = self._look(), os.fstat(descriptor).st_ino
        if inode in seen.folders:
            self._synced.folders[inode] = seen.folders[inode]
        elif inode in seen.files:
            self._synced.files[inode] = seen.files[inode]

    @contextmanager
    def watching(self) -> Iterator[PageCache]:
        fsync, before = os.fsync, durable.on_operation

        def watched(descriptor) -> None:  # the disk itself is slow, and nothing is asked of it
            self._fsynced(descriptor if isinstance(descriptor, int) else descriptor.fileno())

        os.fsync = watched
        durable.on_operation = lambda name, path: self._note(f"{name} {path.name}")
        try:
            yield self
            self._note("end")
        finally:
            os.fsync, durable.on_operation = fsync, before
            for descriptor in self._held.values():
                os.close(descriptor)


def write_tree(tree: Tree, target: Path) -> None:
    """Makes the folder `target` hold `tree`."""

    def put(inode: int, path: Path) -> None:
        if inode in tree.files:
            path.write_bytes(tree.files[inode])
            return
        path.mkdir(parents=True)
        for name, child in tree.folders.get(inode, {}).items():
            put(child, path / name)

    put(tree.root, target)


def states(moment: Moment, *, random: int = 0, seed: int = 0) -> dict[str, Tree]:
    """What the disk may hold after a cut: `killed` (the cache survives), all that was not synced
    lost, names without data, torn and zeroed data, and `random` mixtures of these."""
    seen, synced = moment.seen, moment.synced
    made = {
        "killed": seen,
        "lost": _mixture(seen, synced, names=lambda: False, data=lambda: "lost"),
        "names without data": _mixture(seen, synced, names=lambda: True, data=lambda: "lost"),
        "torn": _mixture(seen, synced, names=lambda: True, data=lambda: "torn"),
        "zeroed": _mixture(seen, synced, names=lambda: True, data=lambda: "zeroed"),
    }
    for number in range(random):
        rng = Random(f"{seed} {number} {moment.operation}")
        made[f"mixture {number}"] = _mixture(
            seen, synced, names=lambda rng=rng: rng.random() < 0.5,
            data=lambda rng=rng: rng.choice(["lost", "torn", "zeroed", "holes", "kept"]), rng=rng,
        )  # fmt: skip
    return made


def _mixture(seen: Tree, synced: Tree, *, names, data, rng: Random | None = None) -> Tree:
    """`names()` says whether a change of a name is kept, `data()` what becomes of a file."""
    rng = rng or Random(0)
    folders: dict[int, Names] = {}
    for inode in {**seen.folders, **synced.folders}:
        old, new = synced.folders.get(inode, {}), seen.folders.get(inode)
        if new is None:  # removed; if its name comes back, so do the names in it that were synced
            folders[inode] = old
            continue
        kept: Names = {}
        for name in {**old, **new}:
            chosen = new if old.get(name) == new.get(name) or names() else old
            if name in chosen:
                kept[name] = chosen[name]
        folders[inode] = kept
    files: dict[int, bytes] = {}
    for inode in {**seen.files, **synced.files}:
        old = synced.files.get(inode, b"")
        new = seen.files.get(inode, old)
        files[inode] = _cut(old, new, data(), rng)
    return Tree(seen.root, folders, files)


def _cut(old: bytes, new: bytes, how: str, rng: Random) -> bytes:
    if how == "kept" or old == new:
        return new
    if how == "lost":
        return old
    differing = (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    common = next(differing, min(len(old), len(new)))
    tail = new[common:]
    middle = rng.randrange(len(tail) + 1) if tail else 0
    if how == "torn":
        return new[:common] + tail[:middle]
    if how == "zeroed":
        return new[:common] + bytes(len(tail))
    return new[:common] + bytes(middle) + tail[middle:]
