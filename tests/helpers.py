"""What several tests build: texts, stores of given ids, tiny training configurations."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lmlab import durable
from lmlab.config.model import ModelConfig
from lmlab.config.training import CheckpointConfig, OptimizerConfig, TrainConfig
from lmlab.data.splits import SPLITS, SplitConfig, assign_splits, text_rank
from lmlab.data.store import EncodedDocument, TokenStore, write_store
from lmlab.data.tokenizers import TextTokenizer, character_tokenizer
from lmlab.topics.babylm.reading import EYE_TRACKING, SELF_PACED

_WORDS = (
    "the a of to and in model text token order window reads writes learns forward backward "
    "small large quick slow first last every some many naïve café 東京 entropy arrow time"
)
WORDS = _WORDS.split()


def script(path: Path, name: str = "") -> ModuleType:
    """A script of the repository that is in no package, as a module."""
    name = name or path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses are looked up there
    spec.loader.exec_module(module)
    return module


def sentences(count: int, *, seed: int) -> list[str]:
    """Documents of a few sentences each, different from each other."""
    rng = np.random.default_rng(seed)
    return [
        f"Document {number}.\n"
        + " ".join(
            " ".join(rng.choice(WORDS, rng.integers(4, 12))).capitalize() + "."
            for _ in range(rng.integers(2, 9))
        )
        for number in range(count)
    ]


def split_names(
    texts: Sequence[str], sizes: Sequence[int] | None = None, **settings: Any
) -> list[str]:
    """The split of each text; `sizes` stand in for its bytes, `settings` are of `SplitConfig`."""
    config = SplitConfig(**settings)
    data = [text.encode() for text in texts]
    ranks = [text_rank(text, config.seed) for text in data]
    return [SPLITS[code] for code in assign_splits(ranks, sizes or [*map(len, data)], config)]


@lru_cache
def symbols_tokenizer(symbols: int) -> TextTokenizer:
    """One id a symbol: 0.. symbols - 1, then BOS and end of text."""
    return character_tokenizer([chr(0x4E00 + i) for i in range(symbols)])


def random_documents(
    count: int, shortest: int, longest: int, *, symbols: int, seed: int
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, symbols, rng.integers(shortest, longest + 1)) for _ in range(count)]


def id_store(
    path: Path,
    splits: Mapping[str, Sequence[Any]],
    *,
    symbols: int,
    end_of_text: bool = True,
) -> TokenStore:
    """A store of the given ids, `symbols` different ones and the two special tokens."""
    return write_store(
        path,
        symbols_tokenizer(symbols),
        {
            name: [
                EncodedDocument(f"{name}/{i}", np.asarray(ids), 3 * len(ids))
                for i, ids in enumerate(documents)
            ]
            for name, documents in splits.items()
        },
        request={},
        end_of_text=end_of_text,
    )


def mixed_store(
    path: Path, splits: Mapping[str, Mapping[str, Sequence[Any]]], *, symbols: int
) -> TokenStore:
    """A store of the given ids of several sources, the same names in each split."""
    return write_store(
        path,
        symbols_tokenizer(symbols),
        {
            split: [
                EncodedDocument(f"{split}/{name}/{i}", np.asarray(ids), 3 * len(ids), number)
                for number, (name, documents) in enumerate(by_source.items())
                for i, ids in enumerate(documents)
            ]
            for split, by_source in splits.items()
        },
        request={},
        sources=list(next(iter(splits.values()))),
    )


def tiny_training(store: TokenStore, out: Path, **changes: Any) -> TrainConfig:
    """A run of well under a second."""
    settings: dict[str, Any] = {
        "model": ModelConfig(layers=1, heads=2, width=16),
        "context": 8,
        "batch": 4,
        "steps": 6,
        "checkpoints": CheckpointConfig(every=2),
        "optimizer": OptimizerConfig(learning_rate=3e-3),
        "evaluation_windows": 6,
        "evaluate_every": 3,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return TrainConfig(store=store.path, out=out, **{**settings, **changes})


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def failing_at(number: int, error: BaseException) -> Iterator[list[str]]:
    """Raises `error` at the `number`-th system operation (from 0); yields the operations seen."""
    seen: list[str] = []

    def announce(name: str, path: Path) -> None:
        seen.append(f"{name} {path.name}")
        if len(seen) - 1 == number:
            raise error

    before = durable.on_operation
    durable.on_operation = announce
    try:
        yield seen
    finally:
        durable.on_operation = before


def run_folder(config: TrainConfig) -> Path:
    """Where the run lies; tests always say so."""
    assert config.out is not None
    return config.out


TASK_WORDS = ("the", "a", "cat", "dog", "sees", "house", "river", "walks", "green", "small")


def task_folder(folder: Path) -> Path:
    """Pairs of Zorro's form in six paradigms, a word form, reading times, ages of words."""
    rng = np.random.default_rng(0)
    (folder / "zorro").mkdir()
    for n in range(6):
        lines = []
        for _ in range(4):
            words = [str(w) for w in rng.choice(TASK_WORDS, 5)]
            lines += [" ".join([*words[::-1], "."]), " ".join([*words, "."])]
        (folder / "zorro" / f"agreement-kind_{n}.txt").write_text("\n".join(lines) + "\n")
    forms = [
        {"sentences": f"a {w} cat\ta {w}ish cat", "ratio": n / 9} for n, w in enumerate(TASK_WORDS)
    ]
    (folder / "wug_adj_nominalization.jsonl").write_text("\n".join(map(json.dumps, forms)))
    names = ["item", "word", "sent_id", "Subtlex_log10", "length", "context_length",
             *EYE_TRACKING, SELF_PACED]  # fmt: skip
    with (folder / "reading.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for sentence in range(30):
            words = [str(w) for w in rng.choice(TASK_WORDS, 5)]
            for place in range(2, 5):
                numbers = [round(float(x), 3) for x in rng.uniform(1, 9, 2)]
                times = [round(float(x), 1) for x in rng.uniform(90, 300, 5)]
                writer.writerow([" ".join(words[:place]), words[place], sentence,
                                 numbers[0], numbers[1], place, *times])  # fmt: skip
    with (folder / "children.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["num_item_id", "definition", "type", *range(16, 31)])
        for n, word in enumerate(TASK_WORDS):
            shares = 1 / (1 + np.exp(-(np.arange(16, 31) - 19 - n / 2) / 3))
            writer.writerow([n, word, "word", *(round(float(s), 3) for s in shares)])
    (folder / "notes.md").write_text("about the data")
    return folder
