"""Commands that make and sample models.

Each parses its options, calls one function and prints what it returns. Rooms that need torch are
imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lmlab.cli.printing import print_table, store_of_head, write_results
from lmlab.cli.refusals import (
    check_continues,
    check_models,
    check_store,
    check_vocabulary,
    opening,
)
from lmlab.config import from_command_line
from lmlab.durable import check_absent
from lmlab.lm.options import (
    ExportConfig,
    SampleConfig,
)


def prepare(arguments: Sequence[str]) -> None:
    from lmlab.data.prepare import PrepareConfig, prepare

    store = prepare(from_command_line(PrepareConfig, arguments, program="lmlab prepare"))
    rows = [
        [name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['text_bytes']:,}"]
        for name, s in store.manifest["splits"].items()
    ]
    print_table(["split", "documents", "tokens", "bytes of text"], rows)
    parts = {name: store.split(name).sources for name in store.manifest["splits"]}
    if any(parts.values()):
        tokens = [[f"{part.tokens:,}" for part in of_split] for of_split in parts.values()]
        names = [part.name for part in next(iter(parts.values()))]
        columns = ["source", *(f"tokens of {name}" for name in parts)]
        print_table(columns, [list(row) for row in zip(names, *tokens, strict=True)])
    from lmlab.data.splits import few_test_documents

    note = few_test_documents({n: s["documents"] for n, s in store.manifest["splits"].items()})
    if note:
        print(f"note: {note}")
    print(f"store: {store.path} (vocabulary {store.vocabulary:,}, {store.fingerprint[:12]})")


def train(arguments: Sequence[str]) -> None:
    from lmlab.config.training import TrainConfig

    config = from_command_line(TrainConfig, arguments, program="lmlab train")
    from lmlab.run_folders.journal import read_journal
    from lmlab.training.loop import train

    run = train(config)
    last = read_journal(run.path / "journal.jsonl")[-1]
    measured = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in last.items()
        if name.startswith("validation_")
    )
    print(f"step {last['step']:,}, {last['tokens']:,} targets, {measured}\nrun: {run.path}")


def doctor(arguments: Sequence[str]) -> None:
    from lmlab.config.doctor import DoctorConfig

    config = from_command_line(DoctorConfig, arguments, program="lmlab doctor")
    from lmlab.training.doctor import diagnose
    from lmlab.training.doctor_words import find_warnings, table

    made = diagnose(config.run(), rounds=config.rounds)
    warnings = find_warnings(made)
    place = replace(config, out=config.results, results=None)
    write_results("doctor", place, {**made.to_json(), "warnings": warnings})
    print_table(["", ""], table(made))
    for warning in warnings:
        print(f"\nwarning: {warning}")


def sample(arguments: Sequence[str]) -> None:
    config = from_command_line(SampleConfig, arguments, program="lmlab sample")
    check_models(config.model)
    check_continues(config.model)
    opening(config.model)
    from lmlab.lm.language_model import open_model
    from lmlab.lm.sampling import sample

    texts = sample(
        open_model(config.model),
        config.prompt,
        tokens=config.tokens,
        count=config.count,
        temperature=config.temperature,
        top_k=config.top_k,
        seed=config.seed,
    )
    values = {"order": texts[0].order, "texts": [made.text for made in texts]}
    write_results("sample", config, values)
    for made in texts:
        print(made.text, end="\n\n")


def export(arguments: Sequence[str]) -> None:
    config = from_command_line(
        ExportConfig, arguments, program="lmlab export", leading=("--model",)
    )
    check_absent(config.out)
    store = store_of_head(config.head, config.store)
    check_models(config.model)
    check_store(config.store, "validation")
    check_vocabulary(config.store, config.model)
    opening(config.model)
    from lmlab.lm.calibrated_head import open_with_head
    from lmlab.lm.export import export_model

    lm = open_with_head(config.model, config.head, store=store)
    print(f"model: {export_model(lm, config.out)}")
