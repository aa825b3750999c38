"""Text that is given as files and not as a store: one split of a store that lasts as long as it is
measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lmlab.data.documents import CorpusConfig, Document, read_corpus
from lmlab.data.prepare import encode
from lmlab.data.store import Split, write_store
from lmlab.data.tokenizers import TextTokenizer

SPLIT = "text"
"""The name of its only split."""


def read_text(text: Sequence[str], separator: str | None) -> list[Document]:
    """The documents of files, folders, patterns or Hub data sets."""
    return list(read_corpus(CorpusConfig(text=tuple(text), separator=separator)))


def text_split(folder: Path, tokenizer: TextTokenizer, documents: Iterable[Document]) -> Split:
    """Documents as ids of a tokenizer, in a store that is written into `folder`."""
    written = {SPLIT: encode(documents, tokenizer, losses=True)}
    return write_store(folder, tokenizer, written, request={}).split(SPLIT)
