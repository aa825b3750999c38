"""Time to a loss: a plain loop with nanoGPT's settings against `lmlab train` with its defaults.

    python benchmarks/time_to_loss.py [TEXT] [--task characters] [--rounds 3]

Both are whole processes, from the command to the end, and alternate, so that a machine whose speed
drifts slows them alike. Seconds are the clock's; with `--processor` they are the processor's, which
other work on the machine disturbs less. The plain loop is what nanoGPT's README trains on a CPU,
written anew: its GPT-2 without biases, initial scales, AdamW, cosine with warm-up, clipping, random
windows. Both read the same training text, and both are scored on all of the same held-out text in
non-overlapping windows of the context's length. A window of the plain loop begins behind one known
character, one of lmlab behind none, so that lmlab's first target is harder and its loss a little
too high.

The plain loop trains to its end, and its loss there is the mark. lmlab trains a share of the plain
loop's tokens. Printed: whether it ends below the mark, and its share of the plain loop's time.

Tasks: `characters` is nanoGPT's README recipe on a CPU (4 layers of 128, context 64, batch 12, 2000
steps, dropout 0); lmlab trains what it trains where no size is given, and then layers, heads and
width of the plain loop. `novels` is 4 layers of 256, context 256, batch 16, a BPE of 4,096 types;
there both have that size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """A model's size, its windows and how long the plain loop trains."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    steps: int
    shares: Mapping[str, float]
    """Of these tokens that lmlab trains on, to end below the plain loop's loss, by lmlab's body:
    `default`, or `same` as the plain loop's."""
    learning_rate: float = 1e-3


_CHARACTERS = 1_100_000
"""As many as nanoGPT's text has."""
TASKS = {
    "characters": Task(4, 4, 128, 64, 12, 2000, {"default": 0.15, "same": 0.125}),
    "novels": Task(4, 4, 256, 256, 16, 1000, {"same": 0.22}),
}


def plain_model(task: Task, vocabulary: int) -> Any:
    """nanoGPT's model: GPT-2 without biases, tied embeddings, scaled residual projections."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(task.width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = Norm(), Norm()
            self.qkv = nn.Linear(task.width, 3 * task.width, bias=False)
            self.out = nn.Linear(task.width, task.width, bias=False)
            self.up = nn.Linear(task.width, 4 * task.width, bias=False)
            self.down = nn.Linear(4 * task.width, task.width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            B, T, D = x.shape
            q, k, v = (
                part.view(B, T, task.heads, D // task.heads).transpose(1, 2)
                for part in self.qkv(self.norm_1(x)).split(D, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).contiguous().view(B, T, D))
            return x + self.down(F.gelu(self.up(self.norm_2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, task.width)
            self.positions = nn.Embedding(task.context, task.width)
            self.blocks = nn.ModuleList(Block() for _ in range(task.layers))
            self.norm = Norm()
            for name, weight in self.named_parameters():
                if weight.dim() == 2:
                    scaled = name.endswith(("out.weight", "down.weight"))
                    scale = 0.02 / math.sqrt(2 * task.layers) if scaled else 0.02
                    nn.init.normal_(weight, std=scale)

        def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Model()


def plain(task: Task, store: Path, every: int, dtype: str) -> list[tuple[int, float]]:
    """Trains the plain loop; its curve as (tokens, nats per token), whose last point is the end."""
    import numpy as np
    import torch

    from lmlab.data.store import TokenStore  # ids only: nothing of lmlab's training is used here

    ids, held_out = (
        torch.from_numpy(split.read(0, split.tokens).astype(np.int64))
        for split in map(TokenStore(store).split, ("train", "validation"))
    )
    torch.manual_seed(1337)
    model = plain_model(task, TokenStore(store).vocabulary)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=task.learning_rate, betas=(0.9, 0.99),
    )  # fmt: skip

    def batch_at(text: torch.Tensor, starts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([text[i : i + task.context] for i in starts])
        return x, torch.stack([text[i + 1 : i + 1 + task.context] for i in starts])

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return model(x, y)

    @torch.no_grad()
    def validation() -> float:
        starts = range(0, len(held_out) - task.context - 1, task.context)
        parts = [list(starts[i : i + 64]) for i in range(0, len(starts), 64)]
        losses = [float(loss_of(*batch_at(held_out, part))) * len(part) for part in parts]
        return sum(losses) / len(starts)

    curve: list[tuple[int, float]] = []
    warm_up, floor = 100, task.learning_rate / 10
    for step in range(task.steps):
        if every and step % every == 0:
            curve.append((step * task.batch * task.context, validation()))
        if step < warm_up:
            rate = task.learning_rate * (step + 1) / (warm_up + 1)
        else:
            progress = (step - warm_up) / (task.steps - warm_up)
            rate = floor + 0.5 * (1 + math.cos(math.pi * progress)) * (task.learning_rate - floor)
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(ids) - task.context, (task.batch,)).tolist()
        loss_of(*batch_at(ids, starts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [*curve, (task.steps * task.batch * task.context, validation())]


def character_store(text: str, folder: Path) -> Path:
    """The first nine tenths of a text to train on, the rest to validate, as nanoGPT splits it."""
    from lmlab.data.store import EncodedDocument, write_store
    from lmlab.data.tokenizers import character_tokenizer

    tokenizer = character_tokenizer(sorted(set(text)))
    cut = len(text) * 9 // 10
    parts = {"train": text[:cut], "validation": text[cut:], "test": text[cut:]}
    documents = {
        name: [EncodedDocument(name, tokenizer.encode(part), len(part.encode()))]
        for name, part in parts.items()
    }
    return write_store(folder, tokenizer, documents, request={}).path


def prepared(task: str, text: str, folder: Path) -> Path:
    """The store of a task, made once."""
    if (folder / "manifest.json").exists():
        return folder
    if task == "characters":
        if text.startswith("docstrings"):
            from lmlab.data.docstrings import read_docstrings

            together = "\n\n".join(part for _, part in read_docstrings(packages=False))
            return character_store(together[:_CHARACTERS], folder)
        return character_store(Path(text).read_text(encoding="utf-8"), folder)
    import lmlab

    return lmlab.prepare(text, folder, vocabulary=4096).path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "text", nargs="?", default="docstrings:python",
        help="a text file (characters), or files and folders (novels); default: docstrings",
    )  # fmt: skip
    parser.add_argument("--task", choices=TASKS, default="characters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, help="of the plain loop's tokens, for lmlab")
    parser.add_argument("--lab", type=Path, default=Path("lab/time-to-loss"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--curve", type=int, default=0, help="validate the plain loop so often")
    parser.add_argument("--options", default="", help="more options of lmlab train, in quotes")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor")
    parser.add_argument("--plain", action="store_true", help="run the plain loop in this process")
    options = parser.parse_args()
    task = TASKS[options.task]
    store = prepared(options.task, options.text, options.lab / options.task)
    if options.plain:
        curve = plain(task, store, options.curve, options.dtype)
        print(json.dumps(curve))
        return
    command = (
        f"train --store {store} --context {task.context} --dtype {options.dtype} {options.options}"
    ).split()
    same = f"--layers {task.layers} --heads {task.heads} --width {task.width}".split()
    ratios: dict[str, list[float]] = {body: [] for body in task.shares}
    reached = dict.fromkeys(task.shares, 0)
    now = processor_seconds if options.processor else time.perf_counter
    for round_ in range(options.rounds):
        start = now()
        own = [sys.executable, __file__, *sys.argv[1:], "--plain"]
        output = subprocess.run(own, check=True, capture_output=True, text=True).stdout
        seconds, mark = now() - start, json.loads(output)[-1][1]
        print(f"round {round_ + 1}: plain loop {mark:.4f} nats in {seconds:.1f} s", flush=True)
        for body, usual_share in task.shares.items():
            run = options.lab / f"run-{time.time_ns()}"
            share = options.share or usual_share
            tokens = round(task.steps * task.batch * task.context * share)
            given = [*command, *(same if body == "same" else ()), "--tokens", str(tokens)]
            start = now()
            subprocess.run(
                [sys.executable, "-m", "lmlab", *given, "--seed", str(round_), "--out", str(run)],
                check=True, capture_output=True,
            )  # fmt: skip
            own_seconds, loss = now() - start, full_validation(run, store)
            ratios[body].append(own_seconds / seconds)
            reached[body] += loss <= mark
            print(
                f"  lmlab, {body} body, {share:g} of the tokens: {loss:.4f} in "
                f"{own_seconds:.1f} s, {ratios[body][-1]:.3f} of the time",
                flush=True,
            )
    for body, of_body in ratios.items():
        print(
            f"{options.task}, {options.dtype}, lmlab with {body} body: reached the plain loop's "
            f"loss in {reached[body]} of {options.rounds} rounds, in "
            f"{statistics.median(of_body):.3f} of its time (median)"
        )


def processor_seconds() -> float:
    """Of all processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def full_validation(run: Path, store: Path) -> float:
    """Nats per token over all validation windows, each position scored, the first from BOS."""
    import lmlab

    return lmlab.score(lmlab.load(run), store, split="validation", windows=None).nats_per_token


if __name__ == "__main__":
    main()
