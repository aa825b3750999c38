"""Labelled texts as a token store: one document a text or pair, labels in a file beside the ids.

    labels.json     names of the classes, metrics, and the label of every document by split

Notable:
- The splits are named as a store's: `train`, `validation` (what a run may look at, for early
  stopping) and `test` (what is reported).
- A pair is one document, its two texts joined by the end-of-text token, which no text contains.
- Texts are cut to the length that the model takes: of a pair the longer one first, token by token.
- Labels are part of the store's content, so they are part of the identity of a run.

Shapes: N texts, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lmlab.config import digest, from_mapping
from lmlab.data.labelled import Example, LabelledTask
from lmlab.data.splits import TEST, TRAIN, VALIDATION
from lmlab.data.store import EncodedDocument, Split, TokenStore, write_store
from lmlab.data.tokenizers import TextTokenizer
from lmlab.data.windows import batch_indices
from lmlab.durable import from_json, to_json
from lmlab.errors import UserError

_FILE = "labels.json"


@dataclass(frozen=True)
class LabelledText:
    """Ids of a text or pair, and its class or value."""

    ids: np.ndarray
    label: float

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Labels:
    """What a labelled store says about its labels."""

    classes: tuple[str, ...]
    """Empty for regression."""
    metrics: tuple[str, ...]
    """The first is the headline."""
    by_split: dict[str, np.ndarray]

    @property
    def regression(self) -> bool:
        return not self.classes


def labelled_store(
    task: LabelledTask, tokenizer: TextTokenizer, *, length: int, folder: Path
) -> TokenStore:
    """The store of a task's texts below `folder`, cut to `length` ids; written if it is not there.

    Raises `UserError` for a text without a token.
    """
    splits = {TRAIN: task.train, VALIDATION: task.selection, TEST: task.reported}
    content = [[[e.text, e.other, e.label] for e in examples] for examples in splits.values()]
    request = {
        "labelled": [task.name, task.labels, task.metrics, digest(content)],
        "tokenizer": tokenizer.fingerprint,
        "length": length,
    }
    path = folder / f"{task.name.replace('/', '-')}-{digest(request)[:8]}"
    if (path / "manifest.json").is_file():
        return TokenStore(path)
    labels = {
        "classes": task.labels,
        "metrics": task.metrics,
        "by_split": {name: [e.label for e in examples] for name, examples in splits.items()},
    }
    return write_store(
        path,
        tokenizer,
        {name: _documents(examples, tokenizer, length) for name, examples in splits.items()},
        request=request,
        end_of_text=False,
        extra={_FILE: to_json(labels).encode()},
    )


def _documents(
    examples: Sequence[Example], tokenizer: TextTokenizer, length: int
) -> Iterator[EncodedDocument]:
    first = tokenizer.encode_batch([example.text for example in examples])
    second = tokenizer.encode_batch([example.other or "" for example in examples])
    for example, text, other in zip(examples, first, second, strict=True):
        size = len(f"{example.text}{example.other or ''}".encode())
        if example.other is None:
            ids = text[:length]
        else:
            kept, kept_other = _cut_pair(len(text), len(other), length - 1)
            parts = (text[:kept], [tokenizer.end_of_text_id], other[:kept_other])
            ids = np.concatenate(parts).astype(np.int64)
        yield EncodedDocument(example.where, ids, size)


def _cut_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths that fit `room` together, the longer text cut first."""
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def read_labels(store: TokenStore) -> Labels:
    """The labels of a labelled store. Raises `UserError` for another store, or a damaged one."""
    file = store.path / _FILE
    if _FILE not in store.manifest["files"]:
        raise UserError(
            f"{store.path} is a store of plain text; classification needs texts with labels "
            "(`lmlab finetune` makes their store)"
        )
    try:
        labels = from_mapping(Labels, from_json(file.read_bytes()), where="labels")
        for name, label_N in labels.by_split.items():
            if labels.classes and not (
                label_N.dtype == np.int64
                and np.all((label_N >= 0) & (label_N < len(labels.classes)))
            ):
                raise ValueError(f"a label of '{name}' is the number of no class")
            if label_N.dtype == bool or not np.isfinite(label_N).all():
                raise ValueError(f"a label of '{name}' is no finite number")
            if label_N.shape != (store.split(name).documents,):
                raise ValueError(f"labels of '{name}' of another number of texts")
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{file}: damaged: {error}; remove the folder and make it again") from error
    if labels.regression:
        values = {name: label_N.astype(np.float64) for name, label_N in labels.by_split.items()}
        return replace(labels, by_split=values)
    return labels


class LabelledSplit:
    """The texts of one split with their labels."""

    def __init__(self, split: Split, label_N: np.ndarray) -> None:
        self.split, self.label_N = split, label_N

    def __len__(self) -> int:
        return len(self.label_N)

    @property
    def length_N(self) -> np.ndarray:
        """Ids of each text."""
        return self.split.documents_M3[:, 1]

    def text(self, index: int) -> LabelledText:
        start, length = (int(value) for value in self.split.documents_M3[index, :2])
        return LabelledText(self.split.read(start, start + length), float(self.label_N[index]))


class LabelledBatches:
    """What training windows are for running text: the batch of each step, each text once an
    epoch."""

    def __init__(self, texts: LabelledSplit, *, batch: int, seed: int) -> None:
        self.texts, self.batch, self.seed = texts, batch, seed

    def indices(self, step: int) -> np.ndarray:
        """Numbers (B,) of the texts of `step` (counted from 0)."""
        return batch_indices(step, self.batch, len(self.texts), self.seed)

    def ids(self, indices_B: np.ndarray) -> list[LabelledText]:
        """The texts of these numbers."""
        return [self.texts.text(int(index)) for index in indices_B]

    def documents(self, index: int) -> list[str]:
        """Where a text is from (for messages)."""
        return [self.texts.split.names[index]]
