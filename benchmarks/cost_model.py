"""What a training step costs as models grow: measured on small GPT-2s, fitted, and from it a
prediction, which is one, for a model of a billion parameters on 8 and on 64 GPUs.

    python benchmarks/cost_model.py [--clock processor] [--out FILE.json]

Each model of the grid is trained for a few steps in a process of its own (forked, so that torch is
imported once), with 1 and with 2 threads; memory is that process's peak above what it held before
the model was there. Fitted by non-negative least squares of relative errors:

    seconds of a step = a x FLOPs + c x weights + b     (FLOPs: lmlab.training.cost)
    bytes             = m x weights + d x tokens x layers x width + e

The error printed is that of each model predicted from all others.

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
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
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
from lmlab.training import cost
from lmlab.training.hardware import (
    fastest_attention,
    keep_freed_memory,
    peak_memory,
    resolve_dtype,
)
from lmlab.training.optimizers import Optimizers

WIDTHS, LAYERS, VOCABULARIES, BATCHES = (128, 256, 512), (2, 6), (4096, 32768), (4, 16)
HEAD_WIDTH, CONTEXT = 64, 128
THREADS = (1, 2)
WARM_UP = 1


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


def grid() -> list[Shape]:
    """Every width, depth and vocabulary once, with one of the batches in turn."""
    cells = product(range(len(LAYERS)), range(len(WIDTHS)), range(len(VOCABULARIES)))
    return [
        Shape(LAYERS[i], WIDTHS[j], VOCABULARIES[k], BATCHES[(i + j + k) % len(BATCHES)])
        for i, j, k in cells
    ]


def model_of(shape: Shape) -> Any:
    config = ModelConfig(
        "gpt2", layers=shape.layers, heads=shape.width // HEAD_WIDTH, width=shape.width, tied=True
    )
    made_for = {"vocabulary": shape.vocabulary, "context": shape.context}
    return build_model(build_config(config, **made_for, bos_id=0, end_of_text_id=1), seed=0)


def count(shape: Shape) -> Counted:
    with torch.device("meta"):
        model = model_of(shape)
    flops = (
        cost.body_flops(model)
        + cost.attention_flops(model.config, shape.context)
        + cost.head_flops(shape.width, shape.vocabulary)
    )
    values = shape.tokens * shape.layers * shape.width
    return Counted(cost.count_parameters(model).total, flops * shape.tokens, values)


def measured_alone(shape: Shape, steps: int) -> dict[str, Any]:
    """`measure` in a child process, which has imported torch but run nothing in it."""
    with tempfile.TemporaryFile("w+") as file:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                json.dump(measure(shape, steps), file)
                file.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{shape} failed")
        file.seek(0)
        return json.load(file)


def measure(shape: Shape, steps: int) -> dict[str, Any]:
    """Of each number of threads the median seconds of a step, on the wall and of the processor;
    peak bytes above the start."""
    keep_freed_memory()
    before = peak_memory("cpu")
    model = model_of(shape)
    if attention := fastest_attention("cpu", shape.context):
        model.set_attn_implementation(attention)
    backbone, optimizers = Backbone(model.train()), Optimizers(model, OptimizerConfig())
    low_precision = resolve_dtype("auto", "cpu") == "bfloat16"
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {"dtype": "bfloat16" if low_precision else "float32"}
    for threads in THREADS:
        torch.set_num_threads(threads)
        wall, processor = [], []
        for _ in range(WARM_UP + steps):
            ids_BT = torch.randint(
                0, shape.vocabulary, (shape.batch, shape.context + 1), generator=generator
            )
            began, used = time.perf_counter(), time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
                batch = Batch(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous())
                loss, targets = FullCrossEntropy().sum(backbone, batch)
            loss.backward()
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(targets)
            optimizers.step(1e-4)
            wall.append(time.perf_counter() - began)
            processor.append((time.process_time() - used) / threads)
        found[str(threads)] = {
            "wall": statistics.median(wall[WARM_UP:]),
            "processor": statistics.median(processor[WARM_UP:]),
        }
    return {**found, "bytes": peak_memory("cpu") - before}


@dataclass(frozen=True)
class Fit:
    """Coefficients by name, and relative errors of each row predicted from all others."""

    coefficients: dict[str, float]
    median_error: float
    largest_error: float

    def __str__(self) -> str:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in self.coefficients.items())
        return f"{terms}; error {self.median_error:.0%} median, {self.largest_error:.0%} at most"


def fit(names: tuple[str, ...], rows: list[list[float]], measured: list[float]) -> Fit:
    """Non-negative least squares of predicted / measured - 1."""
    features = np.array(rows) / np.array(measured)[:, None]
    scale = features.max(axis=0)

    def solve(kept: np.ndarray) -> np.ndarray:
        return nnls(features[kept] / scale, np.ones(int(kept.sum())))[0] / scale

    everything = np.ones(len(rows), dtype=bool)
    errors = []
    for row in range(len(rows)):
        others = everything.copy()
        others[row] = False
        errors.append(abs(float(features[row] @ solve(others)) - 1))
    found = dict(zip(names, solve(everything).tolist(), strict=True))
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
    shapes, found = grid(), []
    for number, shape in enumerate(shapes, start=1):
        found.append(measured_alone(shape, options.steps))
        print(f"{number}/{len(shapes)} {shape}", file=sys.stderr)
    if options.out:
        rows = [{**asdict(s), **f} for s, f in zip(shapes, found, strict=True)]
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    counted = [count(shape) for shape in shapes]
    report(shapes, counted, found, options.clock)


def report(
    shapes: list[Shape], counted: list[Counted], found: list[dict[str, Any]], clock: str
) -> None:
    """Prints what was measured, the fits, and the prediction."""
    print(f"{found[0]['dtype']} products; seconds of a step by the {clock} clock")
    print(f"{'layers':>6} {'width':>5} {'vocabulary':>10} {'tokens':>6} {'weights':>10} "
          f"{'GFLOPs':>7} " + " ".join(f"{f'{t} thread':>9}" for t in THREADS) + f" {'busy':>5} "
          f"{'MB':>6}")  # fmt: skip
    for shape, known, seen in zip(shapes, counted, found, strict=True):
        times = " ".join(f"{seen[str(t)][clock]:9.4f}" for t in THREADS)
        busy = seen["1"]["processor"] / seen["1"]["wall"]
        print(
            f"{shape.layers:6} {shape.width:5} {shape.vocabulary:10,} {shape.tokens:6,} "
            f"{known.weights:10,} {known.flops / 1e9:7.1f} {times} {busy:5.0%} "
            f"{seen['bytes'] / 1e6:6,.0f}"
        )
    print("(busy: the share of the time on the wall that one thread had a processor)")
    for threads in THREADS:
        seconds = [seen[str(threads)][clock] for seen in found]
        plain = fit(("a", "b"), [[known.flops, 1.0] for known in counted], seconds)
        full = fit(
            ("a", "c", "b"), [[known.flops, known.weights, 1.0] for known in counted], seconds
        )
        print(f"\n{threads} thread(s), a x FLOPs + b: {plain}")
        print(f"{threads} thread(s), a x FLOPs + c x weights + b: {full}")
        if full.coefficients["a"]:
            print(f"  1/a: {1e-9 / full.coefficients['a']:,.0f} GFLOP/s of products")
    memory = fit(
        ("m", "d", "e"),
        [[known.weights, known.values, 1.0] for known in counted],
        [float(seen["bytes"]) for seen in found],
    )
    print(f"\nbytes, m x weights + d x tokens x layers x width + e: {memory}")
    predict(memory.coefficients["d"])


if __name__ == "__main__":
    main()
