"""Long streams in a process of their own, and what memory each step left it with.

    python tests/soak.py PROGRAM FOLDER

Prints a line of JSON: the resident memory (bytes) after each step. `leak` is a program that keeps
1024 bytes a step, for the test of this test. It is a process of its own so that memory which other
tests have given back cannot hide what a stream keeps.

`huge` goes through a store that is larger than any memory here: shards of holes, with something in
them at a few places.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmlab  # noqa: F401 - before torch

# isort: split
import numpy as np
import torch

from helpers import id_store, random_documents, tiny_training
from lmlab import progress
from lmlab.config import digest
from lmlab.config.training import CheckpointConfig, TrainConfig
from lmlab.data.pieces import pieces_of
from lmlab.data.store import TokenStore
from lmlab.data.windows import TrainingWindows
from lmlab.lm.encoder import open_encoder
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.numerics.scatter import Scatter
from lmlab.topics.decomposition import embedding
from lmlab.topics.decomposition.options import EmbeddingConfig
from lmlab.topics.encoding.token_probability import ProbabilitySums, mean_token_probability
from lmlab.topics.scoring.score import score
from lmlab.training.hardware import keep_freed_memory
from lmlab.training.loop import train

STEPS = 2000
SYMBOLS = 60


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def sampled(owner: type, method: str) -> Iterator[array[int]]:
    """The resident memory after each call of a method."""
    own = getattr(owner, method)
    samples = array("q")

    def counted(*arguments, **options):
        own(*arguments, **options)
        samples.append(resident_bytes())

    setattr(owner, method, counted)
    try:
        yield samples
    finally:
        setattr(owner, method, own)


def text(folder: Path) -> TokenStore:
    """A validation split of `STEPS` windows of 16 tokens, one a document."""
    return id_store(
        folder / "text",
        {
            "train": random_documents(300, 20, 60, symbols=SYMBOLS, seed=1),
            "validation": random_documents(STEPS, 16, 16, symbols=SYMBOLS, seed=2),
        },
        symbols=SYMBOLS,
    )


def tiny_run(folder: Path, steps: int) -> TrainConfig:
    return tiny_training(
        text(folder), folder / "run", steps=steps, context=16, evaluate_every=20,
        checkpoints=CheckpointConfig(every=100, keep=2),
    )  # fmt: skip


def tiny_model(folder: Path) -> tuple[LanguageModel, TokenStore]:
    config = tiny_run(folder, 2)
    return open_model(train(config).path), TokenStore(config.store)


def training(folder: Path) -> array[int]:
    config = tiny_run(folder, STEPS)
    with sampled(progress.Bar, "advance") as samples:
        train(config)
    return samples


def scoring(folder: Path) -> array[int]:
    lm, store = tiny_model(folder)
    with sampled(progress.Bar, "advance") as samples:
        score(lm, store, batch=1)
    return samples


def scatter(folder: Path) -> array[int]:
    lm, store = tiny_model(folder)
    embedding.CHUNK = 1
    config = EmbeddingConfig(length=16)
    encoders = {name: open_encoder(lm.name) for name in ("one", "other")}
    _, prepared = embedding.prepare_text(
        encoders, pieces_of(store.split("validation"), config.length), config
    )
    with sampled(Scatter, "update") as samples:
        seen = Scatter()
        for rows in zip(*(embedding.embed(m, config) for m in prepared.values()), strict=True):
            seen.update(dict(zip(prepared, rows, strict=True)))
    return samples


def alpha(folder: Path) -> array[int]:
    lm, _ = tiny_model(folder)
    windows_NT = np.random.default_rng(3).integers(0, SYMBOLS, (STEPS, 16))
    with sampled(ProbabilitySums, "add") as samples:
        mean_token_probability(lm, windows_NT, batch=1)
    return samples


def leak(folder: Path) -> array[int]:
    kept: list[np.ndarray] = []
    samples = array("q")
    for _ in range(STEPS):
        kept.append(np.ones(128))
        samples.append(resident_bytes())
    return samples


SHARDS, SHARD_TOKENS, DOCUMENT_TOKENS = 15, 4 * 10**9, 10**6
"""A token is a byte."""


def huge_store(folder: Path, like: TokenStore) -> TokenStore:
    """`like` with a training split of 60 GB of zeros. Its digests are not those of the shards."""
    path = folder / "huge"
    shutil.copytree(like.path, path)
    manifest = copy.deepcopy(like.manifest)
    tokens = SHARDS * SHARD_TOKENS
    first_M = np.arange(0, tokens, DOCUMENT_TOKENS)
    shards = [{"file": f"train-{i:05d}.bin", "tokens": SHARD_TOKENS} for i in range(SHARDS)]
    manifest["splits"]["train"] |= {
        "tokens": tokens, "documents": len(first_M), "shards": shards,
    }  # fmt: skip
    for shard in shards:
        with open(path / shard["file"], "wb") as file:
            file.truncate(SHARD_TOKENS)
        manifest["files"][shard["file"]] = "not computed"
    tokens_M = np.full(len(first_M), DOCUMENT_TOKENS)
    np.save(path / "train.documents.npy", np.stack([first_M, tokens_M, tokens_M], axis=1))
    (path / "train.names.jsonl").write_text('"one"\n' * len(first_M))
    (path / "manifest.json").write_text(
        json.dumps({**manifest, "manifest_sha256": digest(manifest)})
    )
    return TokenStore(path)


def huge(folder: Path) -> array[int]:
    """Memory before, and after each of: opening, windows of many steps, a score of a sample."""
    lm, small = tiny_model(folder)
    samples = array("q", [resident_bytes()])
    store = huge_store(folder, small)
    split = store.split("train")
    for place in (0, SHARD_TOKENS - 3, 7 * SHARD_TOKENS - 3, split.tokens - 6):
        for at, symbol in enumerate(range(1, 7), start=place):
            with open(store.path / f"train-{at // SHARD_TOKENS:05d}.bin", "r+b") as file:
                file.seek(at % SHARD_TOKENS)
                file.write(bytes([symbol]))
        assert split.read(place, place + 6).tolist() == [1, 2, 3, 4, 5, 6]
    samples.append(resident_bytes())
    windows = TrainingWindows(split, 1024, batch=8, seed=1)
    drawn = [windows.indices(step) for step in range(200)]
    assert np.ptp(np.concatenate(drawn)) > 0.9 * windows.count
    assert all(windows.ids(indices_B).max() <= 6 for indices_B in drawn)
    samples.append(resident_bytes())
    made = score(lm, store, split="train", max_windows=500)
    assert len(made.nats_M) == 500
    assert len(np.unique(made.cluster_M)) > 490
    samples.append(resident_bytes())
    return samples


PROGRAMS: dict[str, Callable[[Path], array[int]]] = {
    "train": training,
    "score": scoring,
    "scatter": scatter,
    "alpha": alpha,
    "leak": leak,
    "huge": huge,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()  # as every command does
    print(json.dumps(list(PROGRAMS[sys.argv[1]](Path(sys.argv[2])))))
