"""Zero-shot log-likelihoods: lmlab against lm-eval's own `HFLM`, same model, same requests.

    python benchmarks/evaluation.py --lambada lambada_test.jsonl --blimp BLiMP.zip [--items 1000]

Needs the extra `eval`. The requests are those of lm-eval's own tasks `lambada_openai` and
`blimp_*`, with their data read from the given files. The model is a stock GPT-2 of 4 layers, 256
wide, with random weights and a BPE tokenizer learnt from the same files (GPT-2's vocabulary, or
`--vocabulary`), or any folder (`--model`).

Each form runs in a process of its own, on a CPU in float32 with the same number of threads; rounds
alternate the forms, so that a machine whose speed drifts slows them alike. Timed is the call of
`loglikelihood`: tokenising, scoring and all that either does around them; imports, opening the
model and a warm-up of a few requests are not. HFLM gets the batch size that took it the fewest
seconds of the processor in a trial of `--batches`; lmlab chooses for itself. Printed: the median
seconds, how many times faster by the median over rounds, the same of the processor's seconds (which
other processes on the machine disturb less), and the greatest relative difference of a
log-likelihood.
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
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH, HEADS, CONTEXT = 4, 256, 4, 1024
WARM_UP = 64
TRIAL = 1500
COLUMNS = {"lambada": ["text"], "blimp": ["sentence_good", "sentence_bad"]}


def make_model(folder: Path, texts: list[str], vocabulary: int) -> int:
    """A stock GPT-2 with random weights, and a byte-level BPE tokenizer, as transformers saves
    them; returns the size of the vocabulary."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from lmlab.data.tokenizers import train_bpe

    tokenizer = train_bpe(texts, vocabulary)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer.vocabulary,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.end_of_text_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    for name, data in tokenizer.files().items():
        (folder / name).write_bytes(data)
    return tokenizer.vocabulary


def sampled(
    records: list[dict[str, Any]], items: int | None, *, by: str | None = None
) -> list[dict[str, Any]]:
    """A fixed sample of `items` records, shared out over the values of `by`; None takes all."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for values in records:
        groups.setdefault(values[by] if by else "", []).append(values)
    random, each = np.random.default_rng(0), -(-(items or len(records)) // len(groups))
    return [
        group[i]
        for group in groups.values()
        for i in sorted(random.permutation(len(group))[:each].tolist())
    ]


def requests_of_lm_eval(records: list[dict[str, Any]], task: str, folder: Path) -> list[list[str]]:
    """Context and continuation of every request that lm-eval's task makes of the records."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    own = {"lambada": "lambada/lambada_openai.yaml", "blimp": "blimp/_template_yaml"}[task]
    split = {"lambada": "test", "blimp": "train"}[task]
    data = folder / f"{task}.jsonl"
    # BLiMP's files have columns of different types besides these
    lines = (json.dumps({column: r[column] for column in COLUMNS[task]}) for r in records)
    data.write_text("\n".join(lines))
    config = {
        "include": str(Path(lm_eval.tasks.__file__).parent / own),
        "task": f"local_{task}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(data)}},
    }
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / f"{task}.yaml").write_text(json.dumps(config))  # JSON is YAML
    manager = TaskManager(include_path=folder / "tasks", include_defaults=False)
    made = manager.load([f"local_{task}"])["tasks"][f"local_{task}"]
    made.build_all_requests(rank=0, world_size=1)
    return [list(instance.args) for instance in made.instances]


def measure(form: str, model: Path, requests: Path, batch: int, threads: int, out: Path) -> None:
    """Writes seconds and log-likelihoods of one form."""
    if form == "lmlab":
        import lmlab  # noqa: F401 - before torch

    # isort: split
    import torch
    from lm_eval.api.instance import Instance

    torch.set_num_threads(threads)
    if form == "lmlab":
        from lmlab.integrations.lm_eval import HarnessModel
        from lmlab.lm.language_model import open_model
        from lmlab.training.hardware import keep_freed_memory

        keep_freed_memory()  # as `lmlab evaluate` does
        lm: Any = HarnessModel(open_model(model))
    else:
        from lm_eval.models import huggingface

        its_model: Any = huggingface.HFLM  # a decorator of lm-eval hides its parameters
        lm = its_model(str(model), device="cpu", dtype="float32", batch_size=batch)
    asked = [
        Instance("loglikelihood", {}, tuple(pair), i)
        for i, pair in enumerate(json.loads(requests.read_text()))
    ]
    lm.loglikelihood(asked[:: -(-len(asked) // WARM_UP)])
    start, processor_start = time.perf_counter(), time.process_time()
    found = lm.loglikelihood(asked)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor_start
    nats, greedy = zip(*found, strict=True)
    np.savez(
        out, seconds=seconds, processor=processor, nats=np.array(nats), greedy=np.array(greedy)
    )


def run(form: str, model: Path, requests: Path, batch: int, threads: int) -> dict[str, np.ndarray]:
    """`measure` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npz"
        more = [str(value) for value in (model, requests, batch, threads, out)]
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, __file__, "--one", form, *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if not out.exists():
            raise SystemExit(f"{form} failed:\n{done.stderr[-2000:]}")
        with np.load(out) as loaded:
            return dict(loaded)


def compare(
    task: str, model: Path, requests: Path, batches: list[int], rounds: int, threads: int
) -> None:
    """One task: the best batch of HFLM, then rounds of both."""
    pairs = json.loads(requests.read_text())
    trial = requests.with_name("trial.json")
    trial.write_text(json.dumps(pairs[:: -(-len(pairs) // TRIAL)]))
    tried = {b: float(run("hflm", model, trial, b, threads)["processor"]) for b in batches}
    best = min(tried, key=tried.__getitem__)
    print(
        f"{task}: {len(pairs):,} requests; processor's seconds of HFLM by batch size on a share: "
        + ", ".join(f"{b}: {seconds:.2f}" for b, seconds in tried.items())
    )
    clocks = ("seconds", "processor")
    times: dict[str, list[dict[str, float]]] = {"hflm": [], "lmlab": []}
    found: dict[str, dict[str, np.ndarray]] = {}
    for number in range(rounds):
        for form, of_form in times.items():
            found[form] = run(form, model, requests, best, threads)
            of_form.append({clock: float(found[form][clock]) for clock in clocks})
            print(f"round {number + 1} {task} {form}: {of_form[-1]}", file=sys.stderr)
    for clock in clocks:
        theirs, ours = ([each[clock] for each in of_form] for of_form in times.values())
        ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
        print(
            f"  {clock:9} HFLM, batch {best}: {statistics.median(theirs):7.2f}; lmlab: "
            f"{statistics.median(ours):7.2f}; {statistics.median(ratios):.2f} times faster "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )
    difference = np.abs(found["lmlab"]["nats"] / found["hflm"]["nats"] - 1).max()
    differing = int((found["lmlab"]["greedy"] != found["hflm"]["greedy"]).sum())
    print(
        f"  greatest relative difference of a log-likelihood: {difference:.1e}; "
        f"greedy flags that differ: {differing}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lambada", help="file of LAMBADA as JSON lines")
    parser.add_argument("--blimp", help="zip or folder of BLiMP's JSON lines")
    parser.add_argument("--items", type=int, help="a fixed sample of so many items a task")
    parser.add_argument("--model", type=Path, help="a transformers folder")
    parser.add_argument("--vocabulary", type=int, default=50257, help="of the random model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--one", nargs=6, help="measure one form in this process")
    options = parser.parse_args()
    if options.one:
        form, model, requests, batch, threads, out = options.one
        measure(form, Path(model), Path(requests), int(batch), int(threads), Path(out))
        return
    sources = {name: getattr(options, name) for name in ("lambada", "blimp")}
    if not any(sources.values()):
        parser.error("give --lambada or --blimp")
    from lmlab.data.records import read_records

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        asked: dict[str, Path] = {}
        texts: list[str] = []
        for task, source in sources.items():
            if source:
                records = [r.values for r in read_records(source, hub_split="test")]
                texts += [r[column] for r in records for column in COLUMNS[task]]
                chosen = sampled(records, options.items, by="UID" if task == "blimp" else None)
                pairs = requests_of_lm_eval(chosen, task, folder)
                asked[task] = folder / f"{task}.requests.json"
                asked[task].write_text(json.dumps(pairs))
        model = options.model
        if model is None:
            model = folder / "model"
            made = make_model(model, texts, options.vocabulary)
            print(f"GPT-2, {LAYERS} x {WIDTH}, vocabulary {made:,}, threads: {options.threads}")
        for task, path in asked.items():
            compare(task, model, path, options.batches, options.rounds, options.threads)


if __name__ == "__main__":
    main()
