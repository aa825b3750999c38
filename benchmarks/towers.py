"""Time of both towers in one batched pass against one after the other, forward and backward.

All forms take turns in every round; the median over rounds is given, and the median ratio.

    python benchmarks/towers.py --widths 64 192 384 --tokens 512 2048
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import lmlab  # noqa: F401 - before torch

# isort: split
import torch

from lmlab.config.model import ModelConfig
from lmlab.config.towers import TowersConfig
from lmlab.models.build import build_model, build_towers_config


def seconds(model: torch.nn.Module, ids_BT: torch.Tensor, dtype: str) -> float:
    """Of one pass through both towers, forward and backward, without the head."""
    device = ids_BT.device
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        first, second = model.model.tower_states(ids_BT)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    (first.float().square().mean() + second.float().square().mean()).backward()
    for parameter in model.parameters():
        parameter.grad = None
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="gpt2")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 192, 384])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'width':>6} {'tokens':>7} {'type':>9} {'one by one':>11} {'batched':>9} {'ratio':>6}")
    for width in options.widths:
        models: dict[bool, Any] = {}
        for batched in (False, True):
            config = build_towers_config(
                ModelConfig(options.architecture, layers=options.layers, heads=4, width=width),
                TowersConfig(),
                cloze=False, vocabulary=1024, context=options.context, bos_id=0, end_of_text_id=1,
            )  # fmt: skip
            models[batched] = build_model(config, seed=0)
            torch.nn.Module.to(models[batched], options.device)
            models[batched].model.one_pass = batched
            if options.device == "cpu":
                models[batched].set_attn_implementation("eager")
        for tokens in options.tokens:
            ids_BT = torch.randint(1024, (tokens // options.context, options.context))
            ids_BT = ids_BT.to(options.device)
            for dtype in options.dtypes:
                taken: dict[bool, list[float]] = {False: [], True: []}
                for round_number in range(options.rounds + 2):
                    for batched, model in models.items():
                        value = seconds(model, ids_BT, dtype)
                        if round_number >= 2:
                            taken[batched].append(value)
                ratios = [a / b for a, b in zip(taken[False], taken[True], strict=True)]
                print(
                    f"{width:6} {tokens:7} {dtype:>9} {statistics.median(taken[False]):11.4f} "
                    f"{statistics.median(taken[True]):9.4f} {statistics.median(ratios):6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
