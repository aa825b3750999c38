"""Fixtures: small deterministic texts and stores, made in the test session itself.

Notable: lmlab is imported before torch (it sets how OpenMP threads wait), and the Hub is switched
off: no test may use the network.
"""

from __future__ import annotations

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import lmlab  # noqa: F401 - before torch

# isort: split
import hypothesis
import pytest
import torch

from helpers import id_store, mixed_store, random_documents, sentences
from lmlab.data.documents import CorpusConfig
from lmlab.data.prepare import PrepareConfig, prepare
from lmlab.data.splits import SplitConfig
from lmlab.data.store import TokenStore
from lmlab.data.tokenizers import TokenizerConfig

hypothesis.settings.register_profile("lmlab", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile(
    "trust", deadline=None, max_examples=1000, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("lmlab")


pytest_plugins = ("promises",)


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupts():
    """A background job of a shell ignores Ctrl-C from its start, and so would its tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def two_threads():
    """Some tests train with other thread counts; every test begins with the same one."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """Sixty short English-like documents, one .txt file each."""
    folder = tmp_path_factory.mktemp("text")
    for number, text in enumerate(sentences(60, seed=1)):
        (folder / f"{number:03d}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="session")
def text_store(text_folder, tmp_path_factory) -> TokenStore:
    """A prepared store of `text_folder` with a small BPE vocabulary."""
    return prepare(
        PrepareConfig(
            out=tmp_path_factory.mktemp("stores") / "text",
            corpus=CorpusConfig(text=(str(text_folder),)),
            tokenizer=TokenizerConfig(vocabulary=300),
            split=SplitConfig(validation=0.2, test=0.1),
        )
    )


@pytest.fixture(scope="session")
def small_store(tmp_path_factory) -> TokenStore:
    """Random ids of 12 symbols: 30 training documents, 8 validation documents."""
    return id_store(
        tmp_path_factory.mktemp("stores") / "ids",
        {
            "train": random_documents(30, 5, 60, symbols=12, seed=1),
            "validation": random_documents(8, 5, 60, symbols=12, seed=2),
        },
        symbols=12,
    )


@pytest.fixture(scope="session")
def store_of_three(tmp_path_factory) -> TokenStore:
    """Random ids of three sources, the largest about ten times the smallest."""
    numbers = {"large": 20, "middle": 8, "small": 2}
    return mixed_store(
        tmp_path_factory.mktemp("stores") / "three",
        {
            split: {
                name: random_documents(-(-count // part), 40, 60, symbols=12, seed=seed + count)
                for name, count in numbers.items()
            }
            for split, part, seed in (("train", 1, 1), ("validation", 3, 2))
        },
        symbols=12,
    )


@pytest.fixture(scope="session")
def store_with_test(tmp_path_factory) -> TokenStore:
    """Eight documents of twelve symbols in each of three splits."""
    return id_store(
        tmp_path_factory.mktemp("stores") / "three",
        {
            split: random_documents(8, 20, 40, symbols=12, seed=seed)
            for seed, split in enumerate(("train", "validation", "test"))
        },
        symbols=12,
    )
