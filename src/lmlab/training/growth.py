"""What a training step costs as the vocabulary grows: time and memory of each form.

Each measurement runs in a process of its own (`python -m lmlab.training.growth`), whose peak memory
is that of one form and vocabulary alone, on made-up text: tokens of Zipf's distribution. The step
is whole, with the optimizer's, since an embedding's gradient and moments grow too.

Notable: peak memory is the process's own (on a CUDA device that of its tensors) above what it had
before the model was built. So it holds weights, gradients, moments and activations.

Shapes: B windows, T tokens.
"""

from __future__ import annotations

import json
import mmap
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmlab.config import from_mapping, to_mapping
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.config.training import OptimizerConfig
from lmlab.errors import UserError
from lmlab.models.backbone import Backbone
from lmlab.models.build import build_config, build_model
from lmlab.models.head import attach_bias
from lmlab.objectives.base import Batch
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.headless import Contrastive
from lmlab.training.hardware import (
    available_cores,
    fastest_attention,
    keep_freed_memory,
    peak_memory,
    resolve_device,
    resolve_dtype,
)
from lmlab.training.optimizers import Optimizers

_STEPS, _WARM_UP = 5, 1


@dataclass(frozen=True)
class StepCost:
    """The median time of a step, and the peak memory of the process above its start."""

    seconds: float
    bytes: int


def step_cost(
    model: ModelConfig, *, headless: bool, vocabulary: int, context: int, batch: int
) -> StepCost:
    """Measures one form in a fresh process: tied, with an output bias, on this machine's device.

    Raises `UserError` where that process fails (out of memory, say).
    """
    asked = {
        "model": to_mapping(model),
        "headless": headless,
        "vocabulary": vocabulary,
        "context": context,
        "batch": batch,
    }
    command = [sys.executable, "-m", "lmlab.training.growth", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"a step with a vocabulary of {vocabulary:,} could not be measured (exit status "
            f"{done.returncode}): {done.stderr.strip()[-300:]}"
        )
    return StepCost(**json.loads(done.stdout))


def _measure(asked: dict[str, Any]) -> StepCost:
    device = resolve_device("auto")
    keep_freed_memory()
    torch.set_num_threads(available_cores())
    before = _memory_now(device)
    vocabulary, context = asked["vocabulary"], asked["context"]
    shape = build_config(
        from_mapping(ModelConfig, {**asked["model"], "tied": True}, where="model"),
        vocabulary=vocabulary,
        context=context,
        bos_id=0,
        end_of_text_id=1,
    )
    model = build_model(shape, seed=0)
    attach_bias(model, torch.zeros(vocabulary), learnt=False)
    torch.nn.Module.to(model, device)
    if (attention := fastest_attention(device, context)) and hasattr(shape, "num_attention_heads"):
        model.set_attn_implementation(attention)
    backbone, optimizers = Backbone(model.train()), Optimizers(model, OptimizerConfig())
    criterion = Contrastive(HeadlessConfig()) if asked["headless"] else FullCrossEntropy()
    rng = np.random.default_rng(0)
    weight_V = 1 / (np.arange(vocabulary) + 2.7)  # Zipf's law with Mandelbrot's shift
    low_precision = resolve_dtype("auto", device) == "bfloat16"
    taken = []
    for _ in range(_WARM_UP + _STEPS):
        ids = rng.choice(vocabulary, (asked["batch"], context + 1), p=weight_V / weight_V.sum())
        inputs_BT, targets_BT = (
            torch.from_numpy(part.copy()).to(device) for part in (ids[:, :-1], ids[:, 1:])
        )
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=low_precision):
            loss, count = criterion.sum(backbone, Batch(inputs_BT, targets_BT))
        loss.backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(count)
        optimizers.step(1e-4)
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    peak = peak_memory(device)
    if before is None or peak is None:
        raise UserError(
            "this system does not say how much memory a process took; measure the growth of a step "
            "on Linux, macOS or a CUDA device"
        )
    return StepCost(statistics.median(taken[_WARM_UP:]), peak - before)


def _memory_now(device: str) -> int | None:
    """Bytes of tensors on a CUDA device, of the whole process on a CPU (where the system tells)."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    statistics_file = Path("/proc/self/statm")
    if not statistics_file.is_file():
        return peak_memory(device)
    return int(statistics_file.read_text().split()[1]) * mmap.PAGESIZE


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(json.loads(sys.argv[1])))))
