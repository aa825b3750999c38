"""Embeddings kept on disk: the rows of one model for one text.

    manifest.json                  model, text, how rows were made; sha256 of every file
    rows-00000.safetensors, ...    rows_ND float32 and cluster_N int64

The folder's name is the digest of all that decides the rows: the model's weights and tokenizer, the
text, and the options of embedding but the batch. So a set is embedded model by model, rows are
never made twice, and two models' folders of one text are aligned shard by shard. A folder appears
complete or not at all.

Shapes: N rows, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from lmlab.config import digest, to_mapping
from lmlab.data.pieces import Pieces
from lmlab.durable import (
    StagedFolder,
    disk_errors,
    from_json,
    is_member,
    packed,
    to_json,
    write_member,
)
from lmlab.errors import UserError
from lmlab.processes import from_first, is_first, lists_of_all, rank, world
from lmlab.progress import track
from lmlab.topics.decomposition.embedding import CHUNK, Prepared, embed
from lmlab.topics.decomposition.options import EmbeddingConfig

FORMAT = "lmlab embeddings 1"


@dataclass(frozen=True)
class EmbeddingStore:
    """Rows of one model for one text; read shard by shard."""

    path: Path
    manifest: dict[str, Any]

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.manifest["shards"].values())

    @property
    def width(self) -> int:
        return next(iter(self.manifest["shards"].values()))[1]

    def shards(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows (N, D) and their clusters (N,), shard after shard.

        Raises `UserError` for a file that is missing or damaged.
        """
        for name, (rows, width) in self.manifest["shards"].items():
            file = self.path / name
            try:
                data = file.read_bytes()
                if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]:
                    raise ValueError("not what was written")
                tensors = load(data)
                rows_ND, cluster_N = tensors["rows"], tensors["cluster"]
                if rows_ND.shape != (rows, width) or cluster_N.shape != (rows,):
                    raise ValueError(f"rows of shape {rows_ND.shape}")
            except (OSError, SafetensorError, KeyError, ValueError) as error:
                raise UserError(f"{file}: damaged: {error}. Remove {self.path}") from error
            yield rows_ND, cluster_N


def kept_embeddings(
    prepared: Prepared, pieces: Pieces, config: EmbeddingConfig, *, lab: Path, label: str
) -> EmbeddingStore:
    """The rows of a model for `pieces`, from the folder `lab`/embeddings, or made now.

    `label` is shown with the progress. Raises `UserError` as `embed`, and for a damaged folder.
    """
    described = _described(prepared, pieces, config)
    path = lab / "embeddings" / digest(described)[:16]
    if from_first(path.is_dir()):
        return open_embeddings(path)
    if not is_first():
        _write_shards(prepared, config, Path(from_first(None)), label)
        return open_embeddings(Path(from_first(None)))
    with StagedFolder(path) as folder:
        from_first(str(folder.path))
        written = _write_shards(prepared, config, folder.path, label)
        shards = {name: list(shape) for name, shape, _ in written}
        manifest = {
            "format": FORMAT,
            **described,
            "name": prepared.encoder.name,
            "shards": shards,
            "files": {name: sha256 for name, _, sha256 in written},
        }
        folder.write("manifest.json", to_json(manifest).encode())
    from_first(str(path))
    return EmbeddingStore(path, manifest)


def _write_shards(
    prepared: Prepared, config: EmbeddingConfig, folder: Path, label: str
) -> list[tuple[str, tuple[int, int], str]]:
    """Writes a shard for each chunk of pieces, its process's share; of all: name, shape, sha256."""
    pieces, words = len(prepared.encoded), prepared.words
    rows_of_piece = np.ones(pieces, np.int64) if words is None else np.array([*map(len, words)])
    ends = np.concatenate([[0], rows_of_piece.cumsum()])
    mine = range(-(-pieces // CHUNK))[rank() :: world()]
    written: list[tuple[str, tuple[int, int], str]] = []
    # one process's share stands for all
    with track(f"embedding, {label}", prepared.positions / world(), "tokens") as bar:
        for number, rows_ND in zip(
            mine, embed(prepared, config, chunks=mine, bar=bar), strict=True
        ):
            name = f"rows-{number:05d}.safetensors"
            cluster_N = prepared.cluster_N[ends[number * CHUNK] :][: len(rows_ND)]
            rows = packed({"rows": rows_ND, "cluster": cluster_N.astype(np.int64)})
            with disk_errors(folder):  # where another process staged the folder, none else says so
                sha256 = write_member(folder / name, rows)
            written.append((name, rows_ND.shape, sha256))
    everyones = lists_of_all(written)
    return sorted((name, tuple(shape), sha256) for name, shape, sha256 in everyones)


def open_embeddings(path: Path) -> EmbeddingStore:
    """A folder that `kept_embeddings` made. `UserError` if it is something else."""
    file = path / "manifest.json"
    try:
        manifest = from_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: no embeddings: {error}") from error
    except ValueError as error:
        raise UserError(f"{file}: damaged: {error}. Remove {path}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{file}: no embeddings of this lmlab. Remove {path}")
    if not _is_whole(manifest):
        raise UserError(f"{file}: damaged: its shards are not as written. Remove {path}")
    return EmbeddingStore(path, manifest)


def _is_whole(manifest: dict[str, Any]) -> bool:
    shards, files = manifest.get("shards"), manifest.get("files")
    if not isinstance(shards, dict) or not shards or not all(map(is_member, shards)):
        return False
    if not isinstance(files, dict) or not shards.keys() <= files.keys():
        return False
    shapes = list(shards.values())
    pairs = all(isinstance(s, list) and [type(size) for size in s] == [int, int] for s in shapes)
    return pairs and len({width for _, width in shapes}) == 1


def aligned_rows(
    stores: Mapping[str, EmbeddingStore],
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Rows of all models and their clusters, shard after shard.

    Raises `UserError` where the stores are of different texts.
    """
    texts = {(s.manifest["text"], s.manifest["words"], s.rows) for s in stores.values()}
    if len(texts) != 1:
        raise UserError(f"the embeddings of {', '.join(stores)} are of different texts")
    for shards in zip(*(store.shards() for store in stores.values()), strict=True):
        yield {name: rows for name, (rows, _) in zip(stores, shards, strict=True)}, shards[0][1]


def _described(prepared: Prepared, pieces: Pieces, config: EmbeddingConfig) -> dict[str, Any]:
    """All that decides the rows, as plain values."""
    options = to_mapping(config)
    options.pop("batch_tokens")
    spans = prepared.words
    if config.pooling == "published":
        options["padded_to"] = prepared.padded_to
    return {
        "model": prepared.encoder.fingerprint,
        "text": pieces.fingerprint,
        # which words were kept depends on the other models
        "words": None if spans is None else digest([w.tolist() for w in spans]),
        "options": options,
    }
