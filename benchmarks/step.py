"""What a training step costs beside a plain loop's, and how much of that any loop must pay.

    python benchmarks/step.py [--width 128 --context 64 --batch 12] [--dtype float32]

One size (4 layers, 4 heads), one vocabulary, AdamW. The plain loop is that of time_to_loss.py
(nanoGPT's model and settings, written anew); lmlab's step is the one of `lmlab train`, journal,
batches and checks of the gradient included, with GPT-2 and with the default body. One process, one
thread; steps of the forms alternate; seconds are the processor's, which other work on the machine
disturbs less than the clock's.

Printed: the share of matrix products and attention in the plain step, from torch's profiler. A loop
that has the same products cannot be faster than one over that share. Then each form's speed in
times of the plain loop's, the median over steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()

    import torch
    from torch.profiler import ProfilerActivity, profile

    from lmlab.config.model import ModelConfig
    from lmlab.config.training import OptimizerConfig, TrainConfig
    from lmlab.data.store import TokenStore
    from lmlab.run_folders.checkpoint import Newest
    from lmlab.training.loop import Trainer
    from lmlab.training.setup import resolve_run
    from time_to_loss import Task, plain_model, prepared

    torch.set_num_threads(1)
    width, context, batch = options.width, options.context, options.batch
    with tempfile.TemporaryDirectory() as folder:
        path = prepared("characters", "docstrings:python", Path(folder) / "store")
        store = TokenStore(path)
        ids = torch.from_numpy(store.split("train").read(0, 500_000).astype("int64"))
        model = plain_model(Task(4, 4, width, context, batch, 1, {}), store.vocabulary)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def plain() -> None:
            starts = torch.randint(len(ids) - context - 1, (batch,)).tolist()
            x = torch.stack([ids[i : i + context] for i in starts])
            y = torch.stack([ids[i + 1 : i + 1 + context] for i in starts])
            with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16"):
                loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def own(architecture: Literal["gpt2", "qwen3"]) -> Callable[[], object]:
            config = TrainConfig(
                store=path,
                model=ModelConfig(architecture, layers=4, heads=4, width=width),
                optimizer=OptimizerConfig("adamw", learning_rate=1e-3),
                out=Path(folder) / architecture,
                context=context,
                batch=batch,
                steps=1000,
                threads=1,
                dtype=options.dtype,
            )
            return Trainer(resolve_run(config, store), store, Newest(None, 0, ())).update

        forms: dict[str, Callable[[], object]] = {
            "plain": plain, "lmlab, gpt2": own("gpt2"), "lmlab, qwen3": own("qwen3"),
        }  # fmt: skip
        for step in forms.values():
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(5):
                plain()
        events = profiled.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        share = sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / total
        print(
            f"4 x {width}, context {context}, batch {batch}, {options.dtype}: products and "
            f"attention are {share:.3f} of the plain step; the same products cannot be had more "
            f"than {1 / share:.2f} times as fast"
        )
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(options.steps):
            for name, step in forms.items():
                start = time.process_time()
                step()
                seconds[name].append(time.process_time() - start)
        for name, taken in seconds.items():
            ratios = [a / b for a, b in zip(seconds["plain"], taken, strict=True)]
            print(
                f"{name}: {statistics.median(taken) * 1e3:.1f} ms, "
                f"{statistics.median(ratios):.2f} of the plain loop's speed"
            )


if __name__ == "__main__":
    main()
