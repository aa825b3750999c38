"""Training speed: lmlab's loop against a plain loop and the Hugging Face Trainer.

    python benchmarks/train_throughput.py [--rounds 3] [--steps 20] [--dtype auto]

One model (GPT-2, 4 layers, 256 wide, 4 heads, context 256, vocabulary 8192, batch 16), random
ids, AdamW, bfloat16 products where the processor has them. Each form runs in a process of its own;
rounds alternate the forms, so that a machine whose speed drifts slows them alike. Printed: the
median tokens per second over rounds (in a round: over steps, the first few left out) and each
form's ratio to the plain loop.

The plain loop is what nanoGPT does on a CPU: bare transformers model, fused AdamW, autocast, full
logits. It is also shown with lmlab's levers one after another, so that the gain is attributed:
the allocator setting, then also the fused GELU and the attention.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAYERS, WIDTH, HEADS, CONTEXT, VOCABULARY, BATCH = 4, 256, 4, 256, 8192, 16
WARM_UP = 4
DTYPE = "float32"
"""Of products; set by `--dtype`."""

FORMS = {
    "plain": "plain loop, eager",
    "plain-allocator": "  + allocator",
    "plain-levers": "  + allocator, fused GELU, attention",
    "lmlab": "lmlab, eager",
    "plain-compile": "plain loop, torch.compile",
    "trainer": "HF Trainer",
    "trainer-compile": "HF Trainer, torch_compile",
    "lmlab-compile": "lmlab --compile",
}


def stock_model(**changes: Any):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        **changes,
    )
    return GPT2LMHeadModel(config)


def plain_loop(steps: int, *, allocator: bool, levers: bool, compiled: bool) -> list[float]:
    """Seconds of each step of the plain loop."""
    import torch

    from lmlab.training.hardware import keep_freed_memory

    if allocator:
        assert keep_freed_memory()
    changes = {"activation_function": "gelu_pytorch_tanh"} if levers else {}
    model = stock_model(**changes)
    if levers:
        model.set_attn_implementation("eager")
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seconds: list[float] = []
    for _ in range(steps):
        start = time.perf_counter()
        ids_BT = torch.randint(0, VOCABULARY, (BATCH, CONTEXT + 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=DTYPE == "bfloat16"):
            logits_BTV = run(ids_BT[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten()
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - start)
    return seconds


def trainer_loop(steps: int, *, compiled: bool) -> list[float]:
    """Seconds of each step of the Hugging Face Trainer."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ids = torch.randint(0, VOCABULARY, (BATCH * steps, CONTEXT))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: object, **more: object) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            bf16=DTYPE == "bfloat16",
            torch_compile=compiled,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            learning_rate=1e-3,
            disable_tqdm=True,
        )
        Trainer(stock_model(), settings, train_dataset=rows, callbacks=[Clock()]).train()  # pyright: ignore[reportArgumentType]
    return [b - a for a, b in itertools.pairwise(times)]


def lmlab_loop(steps: int, *, compiled: bool) -> list[float]:
    """Seconds of each step of `lmlab train`, journal and batches included."""
    import numpy as np

    from lmlab.config.model import ModelConfig
    from lmlab.config.training import OptimizerConfig, TrainConfig
    from lmlab.data.store import EncodedDocument, write_store
    from lmlab.data.tokenizers import character_tokenizer
    from lmlab.progress import Bar
    from lmlab.training.loop import train

    class Clock(Bar):
        times: list[float]

        def advance(self, amount: float = 1, note: str = "") -> None:
            self.times.append(time.perf_counter())

    alphabet = [chr(0x4E00 + i) for i in range(VOCABULARY - 2)]
    random = np.random.default_rng(0)

    def documents(count: int):
        for i in range(count):
            ids = random.integers(0, VOCABULARY - 2, CONTEXT)
            yield EncodedDocument(str(i), ids, CONTEXT)

    with tempfile.TemporaryDirectory() as folder:
        write_store(
            Path(folder) / "store",
            character_tokenizer(alphabet),
            {"train": documents(2 * BATCH * steps), "validation": documents(1)},
            request={},
        )
        clock = Clock("", None, "tokens")
        clock.times = []
        config = TrainConfig(
            store=Path(folder) / "store",
            out=Path(folder) / "run",
            model=ModelConfig("gpt2", layers=LAYERS, heads=HEADS, width=WIDTH),
            context=CONTEXT,
            batch=BATCH,
            steps=steps,
            optimizer=OptimizerConfig("adamw", learning_rate=1e-3),
            dtype=DTYPE,  # pyright: ignore[reportArgumentType]
            compile=compiled,
            evaluate_every=steps,
        )
        train(config, bar=clock)
        times = clock.times
    return [b - a for a, b in itertools.pairwise(times)]


def measure(form: str, steps: int) -> float:
    """Tokens per second of one form, from the median step."""
    compiled = form.endswith("-compile")
    if form.startswith("trainer"):
        seconds = trainer_loop(steps, compiled=compiled)
    elif form.startswith("lmlab"):
        seconds = lmlab_loop(steps, compiled=compiled)
    else:
        levers = form == "plain-levers"
        seconds = plain_loop(
            steps, allocator=levers or form == "plain-allocator", levers=levers, compiled=compiled
        )
    return BATCH * CONTEXT / statistics.median(seconds[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--one", choices=FORMS, help="measure one form in this process")
    options = parser.parse_args()
    global DTYPE
    DTYPE = options.dtype
    if DTYPE == "auto":
        from lmlab.training.hardware import resolve_dtype

        DTYPE = resolve_dtype("auto", "cpu")
    if options.one:
        print(f"tokens_per_second {measure(options.one, options.steps)}")
        return
    found: dict[str, list[float]] = {form: [] for form in options.forms}
    for round_number in range(options.rounds):
        for form in options.forms:
            # lmlab sets how OpenMP threads wait itself; the other forms import torch first and
            # get what their users get
            environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
            command = [sys.executable, __file__, "--one", form, "--steps", str(options.steps)]
            command += ["--dtype", DTYPE]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            lines = [x for x in done.stdout.splitlines() if x.startswith("tokens_per_second")]
            if not lines:
                raise SystemExit(f"{form} failed:\n{done.stderr[-2000:]}")
            found[form].append(float(lines[-1].split()[1]))
            print(f"round {round_number + 1} {form}: {found[form][-1]:,.0f}", file=sys.stderr)
    base = found.get("plain") or next(iter(found.values()))
    print(f"products in {DTYPE}")
    print(f"{'form':40} {'tokens/s':>10} {'ratio to first':>15}  (min-max of ratios)")
    for form, speeds in found.items():
        ratios = [s / b for s, b in zip(speeds, base, strict=True)]
        print(
            f"{FORMS[form]:40} {statistics.median(speeds):10,.0f} "
            f"{statistics.median(ratios):15.2f}  ({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
