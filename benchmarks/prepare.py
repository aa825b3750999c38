"""Time and memory of `lmlab prepare` against `datasets` with `tokenizers`, at several sizes.

    python benchmarks/prepare.py [--documents 20000 60000] [--megabytes 5 15] [--threads 1]
    python benchmarks/prepare.py --documents 100000 1000000 10000000 --megabytes 10 100 1000

Three kinds of text, drawn from a seed: a .jsonl file of so many one-sentence documents, a .txt file
of so many sentences, each a line and a document (`--lines`), and one .txt file of so many MB whose
documents (about 2 kB each) a blank line ends. Words are made of syllables, 50,000 kinds, as
frequent as Zipf's law has it. The small sizes take under a minute.

Both forms are whole processes that do one job: read the file, hold out a tenth, train a byte-level
BPE of 4,096 types on the rest, encode all and save the ids. `datasets`: `load_dataset`, the last
tenth held out (no shuffle, no look at contents: the cheapest), `map` with `encode_batch_fast` in
batches of 1,000, `save_to_disk`, ids as uint16. lmlab: the command, which also sends copies of a
text to one split, and writes checksums. Rounds alternate the forms.

Printed: seconds of the processor and of the clock, for one document or kB too; the peak memory of
the process; and how many times faster lmlab was and what part of the memory it took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMS = ("datasets", "lmlab")
VOCABULARY = 4096
HELD_OUT = 0.1
CUT = {"rows": [], "lines": ["--lines", "documents"], "text": ["--separator", "\n\n"]}
"""How lmlab is told where documents end, by the name of the file."""


def sentences(seed: int) -> Iterator[str]:
    """Sentences of 4 to 24 words without end."""
    import numpy as np

    rng = np.random.default_rng(seed)
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    syllables = np.array([s + end for s in syllables for end in ("", "n", "r", "st")])
    parts_KL = rng.choice(syllables, (50_000, 4))
    words = [
        "".join(parts[:n]) for parts, n in zip(parts_KL, rng.integers(1, 5, 50_000), strict=True)
    ]
    mass_K = np.cumsum(1 / np.arange(1, len(words) + 1))
    while True:
        lengths = rng.integers(4, 25, 10_000)
        drawn = np.searchsorted(mass_K, rng.random(lengths.sum()) * mass_K[-1]).tolist()
        start = 0
        for length in lengths.tolist():
            chosen = [words[i] for i in drawn[start : start + length]]
            yield " ".join(chosen).capitalize() + "."
            start += length


def write_documents(path: Path, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for _, sentence in zip(range(count), sentences(0), strict=False):
            file.write(json.dumps({"text": sentence}) + "\n")


def write_lines(path: Path, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for _, sentence in zip(range(count), sentences(0), strict=False):
            file.write(sentence + "\n")


def write_text(path: Path, megabytes: int) -> None:
    size, paragraph = 0, 0
    with open(path, "w", encoding="utf-8") as file:
        for sentence in sentences(1):
            paragraph += len(sentence) + 1
            end = " " if paragraph < 2000 else "\n\n"
            size += file.write(sentence + end)
            paragraph = paragraph if paragraph < 2000 else 0
            if size >= megabytes * 1_000_000 and not paragraph:
                return


def with_datasets(path: Path, out: Path) -> None:
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    datasets.disable_progress_bars()
    more: dict[str, Any] = {"sample_by": "paragraph"} if path.stem == "text" else {}
    whole = datasets.load_dataset(
        "json" if path.suffix == ".jsonl" else "text",
        data_files=str(path), split="train", cache_dir=str(out / "cache"), **more,
    )  # fmt: skip
    split = whole.train_test_split(HELD_OUT, shuffle=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|bos|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(
        (batch["text"] for batch in split["train"].iter(1000)), trainer=trainer
    )
    end = tokenizer.token_to_id("<|endoftext|>")

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [[*each.ids, end] for each in encoded]}

    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("uint16"))})
    for name, part in split.items():
        ids = part.map(encode, batched=True, remove_columns=["text"], features=features)
        ids.save_to_disk(str(out / name))


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds and bytes."""

    processor: float
    clock: float
    memory: float


def measure(form: str, path: Path, folder: Path, threads: int) -> Cost:
    out = folder / "out"
    if form == "datasets":
        command = [sys.executable, __file__, "--one", str(path), "--out", str(out)]
    else:
        command = [
            sys.executable, "-m", "lmlab", "prepare", "--out", str(out), "--corpus.text", str(path),
            "--tokenizer.vocabulary", str(VOCABULARY), "--split.validation", str(HELD_OUT / 2),
            "--split.test", str(HELD_OUT / 2),
            *CUT[path.stem],
        ]  # fmt: skip
    limits = {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": 1}
    environment = {**os.environ, **{name: str(value) for name, value in limits.items()}}
    start = time.monotonic()
    with open(folder / "said", "w+b") as said:
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        clock = time.monotonic() - start
        if child.returncode:
            said.seek(0)
            sys.exit(f"{form} failed:\n{said.read().decode()}")
    subprocess.run(["rm", "-r", str(out)], check=True)
    scale = 1 if sys.platform == "darwin" else 1024
    return Cost(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss * scale)


def compare(path: Path, units: float, unit: str, options: argparse.Namespace, folder: Path) -> None:
    """Measures both forms on one file in turns and prints a line each."""
    costs: dict[str, list[Cost]] = {form: [] for form in options.forms}
    for _ in range(options.rounds):
        for form in options.forms:
            costs[form].append(measure(form, path, folder, options.threads))

    def median(form: str, what: str) -> float:
        return statistics.median(getattr(cost, what) for cost in costs[form])

    for form in options.forms:
        processor, clock, memory = (median(form, n) for n in ("processor", "clock", "memory"))
        print(
            f"{units:12,.0f} {unit:9} {form:8} {processor:10.1f} {clock:8.1f} "
            f"{1e6 * processor / units:12.1f} {memory / 1e6:9,.0f}",
            end="",
        )
        if form == "lmlab" and "datasets" in options.forms:
            faster = [median("datasets", n) / median(form, n) for n in ("processor", "clock")]
            print(
                f"   {faster[0]:.2f} and {faster[1]:.2f} times faster, "
                f"{memory / median('datasets', 'memory'):.2f} of the memory",
                end="",
            )
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, nargs="*", default=[20_000, 60_000])
    parser.add_argument("--megabytes", type=int, nargs="*", default=[5, 15])
    parser.add_argument("--lines", type=int, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--folder", type=Path, help="for texts and stores; needs 5 times the text")
    parser.add_argument("--one", type=Path, help="prepare this file with datasets, here")
    parser.add_argument("--out", type=Path, help="where that process writes")
    options = parser.parse_args()
    if options.one:
        with_datasets(options.one, options.out)
        return
    print(f"{'':22} {'form':8} {'processor':>10} {'clock':>8} {'us for each':>12} {'peak MB':>9}")
    for kind in ("documents", "lines", "megabytes"):
        for size in getattr(options, kind):
            with tempfile.TemporaryDirectory(dir=options.folder) as name:
                if kind == "documents":
                    path, unit, units = Path(name, "rows.jsonl"), "documents", size
                    write_documents(path, size)
                elif kind == "lines":
                    path, unit, units = Path(name, "lines.txt"), "lines", size
                    write_lines(path, size)
                else:
                    path, unit, units = Path(name, "text.txt"), "kB", size * 1000
                    write_text(path, size)
                compare(path, units, unit, options, Path(name))


if __name__ == "__main__":
    main()
