"""What a training step costs as models grow: measured on small GPT-2s, fitted, and from it a
prediction, which is one, for a model of a billion parameters on 8 and on 64 GPUs.

    python benchmarks/cost_model.py [--clock processor] [--out FILE.json]

Each model of the grid is trained for a few steps in processes of its own (forked, so that torch is
imported once): one of one thread, one of two, and two of one thread that share the batch (DDP,
gloo). Memory is the first process's peak above what it held before the model was there. Fitted by
non-negative least squares of relative errors, tokens and FLOPs being those of one process:

    seconds of a step = a x FLOPs + v x tokens x layers x width + l x tokens x vocabulary
                        + c x weights + b + g x bytes sent
    bytes             = m x weights + d x tokens x layers x width + e

FLOPs are those of matrix products (lmlab.training.cost); v is for norms, activations and
attention, l for the softmax, c for the optimizer. Of n processes each sends 2 (n - 1) / n x 4 bytes
a weight (a ring's all-reduce of float32 gradients). The error printed is that of each model
predicted from all others, in whatever form it was measured.

Notable:
- `--clock processor` counts a process's own processor time per thread instead of time on the wall:
  for a machine that others use too. It leaves out waiting for memory bandwidth that others take.
- The prediction takes the form of the costs and the bytes of activations from the fit, and the
  speed of GPUs and networks from the assumptions that it prints, not from any measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import lmlab  # noqa: F401 - before torch

# isort: split
import numpy as np
import torch
from scipy.optimize import nnls

from lmlab.config.model import ModelConfig
from lmlab.config.training import OptimizerConfig
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.objectives.base import Batch
from lmlab.objectives.full import FullCrossEntropy
from lmlab.processes import join, leave, rows_of_this
from lmlab.training import cost
from lmlab.training.hardware import (
    fastest_attention,
    keep_freed_memory,
    peak_memory,
    resolve_dtype,
)
from lmlab.training.optimizers import Optimizers
from lmlab.training.replicas import Replicas

WIDTHS, LAYERS, VOCABULARIES, BATCHES = (128, 256, 512), (2, 6), (4096, 32768), (4, 16)
HEAD_WIDTH, CONTEXT = 64, 128
LOW_PRECISION = resolve_dtype("auto", "cpu") == "bfloat16"
WARM_UP = 1
FORMS = {(1, 1): "1 thread", (1, 2): "2 threads", (2, 1): "2 procs"}
"""Processes, threads of each."""


@dataclass(frozen=True)
class Shape:
    """A GPT-2 with a tied head, and the tokens of its step."""

    layers: int
    width: int
    vocabulary: int
    batch: int
    context: int = CONTEXT

    @property
    def tokens(self) -> int:
        return self.batch * self.context


@dataclass(frozen=True)
class Counted:
    """What is known of a shape without running it."""

    weights: int
    flops: float
    """Of a step, forward and backward."""
    values: int
    """tokens x layers x width."""
    logits: int
    """tokens x vocabulary."""


@dataclass(frozen=True)
class Row:
    """A shape, how it was trained, and what was measured; seconds of a step, by two clocks."""

    shape: Shape
    processes: int
    threads: int
    wall: float
    processor: float
    bytes: float


def grid() -> list[Shape]:
    return [Shape(*cell) for cell in product(LAYERS, WIDTHS, VOCABULARIES, BATCHES)]


def model_of(shape: Shape) -> Any:
    config = ModelConfig(
        "gpt2", layers=shape.layers, heads=shape.width // HEAD_WIDTH, width=shape.width, tied=True
    )
    made_for = {"vocabulary": shape.vocabulary, "context": shape.context}
    return build_model(build_config(config, **made_for, bos_id=0, end_of_text_id=1), seed=0)


@cache
def count(shape: Shape) -> Counted:
    with torch.device("meta"):
        model = model_of(shape)
    flops = (
        cost.body_flops(model)
        + cost.attention_flops(model.config, shape.context)
        + cost.head_flops(shape.width, shape.vocabulary)
    )
    values = shape.tokens * shape.layers * shape.width
    weights = cost.count_parameters(model).total
    return Counted(weights, flops * shape.tokens, values, shape.tokens * shape.vocabulary)


def measured_alone(shape: Shape, processes: int, threads: int, steps: int) -> dict[str, float]:
    """`measure` in child processes, which have imported torch but run nothing in it; what the first
    of them found."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as file:
        children = []
        for rank in range(processes):
            child = os.fork()
            if child:
                children.append(child)
                continue
            status = 1
            try:
                if processes > 1:
                    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "RANK": rank}
                    os.environ.update(
                        {k: str(v) for k, v in {**meeting, "WORLD_SIZE": processes}.items()}
                    )
                found = measure(shape, threads, steps)
                if rank == 0:
                    json.dump(found, file)
                    file.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if max([os.waitpid(child, 0)[1] for child in children]):
            raise SystemExit(f"{shape} failed")
        file.seek(0)
        return json.load(file)


def measure(shape: Shape, threads: int, steps: int) -> dict[str, float]:
    """The median seconds of a step, on the wall and of the processor; peak bytes above before."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    join("cpu")
    before = peak_memory("cpu") or 0
    model = model_of(shape)
    if attention := fastest_attention("cpu", shape.context):
        model.set_attn_implementation(attention)
    backbone, optimizers = Backbone(model.train()), Optimizers(model, OptimizerConfig())
    generator = torch.Generator().manual_seed(0)
    mine = rows_of_this(range(shape.batch))

    def loss_of_batch() -> tuple[torch.Tensor, int]:
        size = (shape.batch, shape.context + 1)
        ids_BT = torch.randint(0, shape.vocabulary, size, generator=generator)
        ids_BT = ids_BT[mine.start : mine.stop]
        with torch.autocast("cpu", torch.bfloat16, enabled=LOW_PRECISION):
            batch = Batch(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous())
            return FullCrossEntropy().sum(backbone, batch)

    replicas = Replicas(backbone, sharded=False, loss=lambda: loss_of_batch()[0])
    wall, processor = [], []
    for _ in range(WARM_UP + steps):
        began, used = time.perf_counter(), time.process_time()
        with replicas.summing(now=True):
            loss, _ = replicas.forward(loss_of_batch)
            loss.backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(shape.tokens)
        optimizers.step(1e-4)
        wall.append(time.perf_counter() - began)
        processor.append((time.process_time() - used) / threads)
    leave()
    return {
        "wall": statistics.median(wall[WARM_UP:]),
        "processor": statistics.median(processor[WARM_UP:]),
        "bytes": (peak_memory("cpu") or 0) - before,
    }


@dataclass(frozen=True)
class Fit:
    """Coefficients by name, and relative errors of each row predicted from all others."""

    coefficients: dict[str, float]
    median_error: float
    largest_error: float

    def __str__(self) -> str:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in self.coefficients.items())
        return f"{terms}; error {self.median_error:.0%} median, {self.largest_error:.0%} at most"


SECONDS = ("a", "v", "l", "c", "b", "g")


def features(row: Row) -> dict[str, float]:
    """What each coefficient is multiplied by."""
    counted, share = count(row.shape), 1 / row.processes
    return {
        "a": counted.flops * share,
        "v": counted.values * share,
        "l": counted.logits * share,
        "c": counted.weights,
        "b": 1.0,
        "g": 2 * (1 - share) * 4 * counted.weights,
        "m": counted.weights,
        "d": counted.values * share,
        "e": 1.0,
    }


def fit(rows: list[Row], names: tuple[str, ...], measured: list[float]) -> Fit:
    """Non-negative least squares of predicted / measured - 1."""
    known = [features(row) for row in rows]
    relative = np.array([[each[name] for name in names] for each in known])
    relative /= np.array(measured)[:, None]
    scale = relative.max(axis=0)

    def solve(kept: np.ndarray) -> np.ndarray:
        return nnls(relative[kept] / scale, np.ones(int(kept.sum())))[0] / scale

    errors = []
    for row, values in zip(rows, relative, strict=True):
        others = np.array([other.shape != row.shape for other in rows])
        errors.append(abs(float(values @ solve(others)) - 1))
    found = dict(zip(names, solve(np.ones(len(rows), dtype=bool)).tolist(), strict=True))
    return Fit(found, statistics.median(errors), max(errors))


BILLION = Shape(layers=20, width=2048, vocabulary=50304, batch=8, context=2048)
GLOBAL_TOKENS = 1 << 19
"""Of an optimizer step, all GPUs together."""
BUDGET = 20
"""Tokens trained on for each weight."""
PEAK, UTILISATION, GPU_BYTES = 989e12, 0.4, 80e9
NETWORK = {8: 300e9, 64: 40e9}
ASSUMPTIONS = f"""assumptions, none of them measured here:
- H100 SXM: {PEAK / 1e12:.0f} TFLOP/s of bfloat16, {GPU_BYTES / 1e9:.0f} GB; model FLOPs
  utilisation {UTILISATION:.0%}, nothing recomputed
- network, bytes/s that each GPU both sends and receives: {NETWORK[8] / 1e9:.0f}e9 among 8 in one
  node, {NETWORK[64] / 1e9:.0f}e9 among 64 in eight nodes; rings
- DDP, bytes a weight: 4 weight, 4 gradient, 8 AdamW, 2 copy for bfloat16 products; float32
  gradients all-reduced once an optimizer step
- FSDP2, bytes a weight: 16 over all GPUs; whole on each: two layers (4 weight, 4 gradient, 2
  copy), the embeddings (8), and with several micro-batches all gradients (4). Float32 weights
  gathered twice a micro-batch, float32 gradients reduce-scattered once an optimizer step
- activations as fitted above on a CPU; fused attention keeps no T x T matrix, so that this holds
  at any context
- a step takes between the larger of computing and communicating (all overlaps) and their sum
  (nothing does); data, evaluation and checkpoints left out"""


def predict(bytes_of_values: float) -> None:
    """Prints what the model of a billion weights would take."""
    counted = count(BILLION)
    budget = BUDGET * counted.weights
    print("\nPREDICTION, not a measurement")
    print(ASSUMPTIONS)
    print(
        f"model: {BILLION.layers} layers of {BILLION.width}, vocabulary {BILLION.vocabulary:,}, "
        f"context {BILLION.context}: {counted.weights / 1e9:.2f}e9 weights; steps of "
        f"{GLOBAL_TOKENS:,} tokens, {budget / 1e9:.0f}e9 tokens in all"
    )
    layer, embeddings = 12 * BILLION.width**2, BILLION.vocabulary * BILLION.width
    print(f"{'GPUs':>4} {'engine':6} {'micro-batch':>11} {'GB held':>7} {'GB activations':>14} "
          f"{'compute s':>9} {'network s':>9} {'step s':>11} {'tokens/s':>19} "
          f"{'days':>9}")  # fmt: skip
    for gpus, engine in product(NETWORK, ("DDP", "FSDP2")):
        own = GLOBAL_TOKENS // gpus
        micro = min(BILLION.tokens, own)
        micro_batches = math.ceil(own / micro)
        activations = bytes_of_values * micro * BILLION.layers * BILLION.width
        compute = counted.flops / BILLION.tokens * own / (PEAK * UTILISATION)
        if engine == "DDP":
            held = 18 * counted.weights
            sent = 2 * 4 * counted.weights
        else:
            held = 16 * counted.weights / gpus + 2 * layer * 10 + 8 * embeddings
            held += 4 * counted.weights * (micro_batches > 1)
            sent = (2 * 4 * micro_batches + 4) * counted.weights
        network = sent * (gpus - 1) / gpus / NETWORK[gpus]
        low, high = max(compute, network), compute + network
        steps = budget / GLOBAL_TOKENS
        print(
            f"{gpus:4} {engine:6} {micro:11,} {held / 1e9:7.1f} {activations / 1e9:14.1f} "
            f"{compute:9.2f} {network:9.3f} {low:5.2f}-{high:5.2f} "
            f"{GLOBAL_TOKENS / high:9,.0f}-{GLOBAL_TOKENS / low:9,.0f} "
            f"{steps * low / 86400:4.2f}-{steps * high / 86400:4.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--out", type=Path, help="write what was measured as JSON")
    options = parser.parse_args()
    rows = []
    for number, shape in enumerate(shapes := grid(), start=1):
        rows += [Row(shape, *form, **measured_alone(shape, *form, options.steps)) for form in FORMS]
        print(f"{number}/{len(shapes)} {shape}", file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    report(rows, options.clock)


def report(rows: list[Row], clock: str) -> None:
    """Prints what was measured, the fits, and the prediction."""
    print(
        f"{'bfloat16' if LOW_PRECISION else 'float32'} products; seconds of a step by the {clock} "
        "clock, and peak MB of the first process"
    )
    print(f"{'layers':>6} {'width':>5} {'vocabulary':>10} {'tokens':>6} {'weights':>10} "
          f"{'GFLOPs':>7} " + " ".join(f"{name:>9}" for name in FORMS.values()) + f" {'busy':>5} "
          f"{'MB':>6} {'2 procs':>7}")  # fmt: skip
    by_shape: dict[Shape, list[Row]] = {}
    for row in rows:
        by_shape.setdefault(row.shape, []).append(row)
    for shape, (alone, threads, both) in by_shape.items():
        counted = count(shape)
        times = " ".join(f"{getattr(row, clock):9.4f}" for row in (alone, threads, both))
        busy = alone.processor / alone.wall
        print(
            f"{shape.layers:6} {shape.width:5} {shape.vocabulary:10,} {shape.tokens:6,} "
            f"{counted.weights:10,} {counted.flops / 1e9:7.1f} {times} "
            f"{busy:5.0%} {alone.bytes / 1e6:6,.0f} {both.bytes / 1e6:7,.0f}"
        )
    print("(busy: the share of the time on the wall that one thread had a processor)")
    for threads in (1, 2):
        kept = [row for row in rows if row.threads == threads]
        seconds = [getattr(row, clock) for row in kept]
        print(f"\n{threads} thread(s) a process, {len(kept)} measurements")
        print(f"  a x FLOPs + b: {fit(kept, ('a', 'b'), seconds)}")
        print(f"  all terms: {fit(kept, SECONDS if threads == 1 else SECONDS[:-1], seconds)}")
    kept = [row for row in rows if row.threads == 1]
    memory = fit(kept, ("m", "d", "e"), [row.bytes for row in kept])
    print(f"\nbytes, m x weights + d x tokens x layers x width + e: {memory}")
    predict(memory.coefficients["d"])


if __name__ == "__main__":
    main()
