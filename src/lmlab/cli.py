"""Commands. No logic: each parses its options, calls one function and prints what it returns.

Notable: rooms that need torch are imported inside the command, so that `lmlab --help` and a
mistyped option answer at once.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmlab.config import digest, from_command_line, to_mapping
from lmlab.config.commands import (
    ArrowPairConfig,
    ExportConfig,
    GeometryConfig,
    ReportConfig,
    SampleConfig,
    ScoreConfig,
    TourConfig,
)
from lmlab.errors import UserError

if TYPE_CHECKING:
    from lmlab.data.store import TokenStore

USAGE = """lmlab: a laboratory for language models

  lmlab prepare         text to a token store
  lmlab train           train a model on a store; the same command resumes
  lmlab doctor          what a training run will cost here; options as for train
  lmlab score           nats per token and bits per byte of a model on a store
  lmlab geometry        shape of embeddings and hidden states, loss by frequency
  lmlab encode          how the output embedding encodes token probability
  lmlab steer           scale tokens' probabilities by editing output embeddings
  lmlab prune           remove dimensions of the output embedding; a smaller head
  lmlab dynamics        when in training the output embedding encodes frequency
  lmlab eval            LAMBADA, BLiMP and multiple choice, without training for them
  lmlab finetune        classifiers on labelled texts, from any model, with intervals
  lmlab sample          text from a model
  lmlab export          a model as a standard transformers folder
  lmlab embed           text to rows of hidden states, any models
  lmlab decompose       how much of a model is a linear combination of others
  lmlab apply           map cheap embeddings to an expensive model's
  lmlab prefer          which types of token each of two towers predicts better
  lmlab arrow           compare a forward and a backward model on a store
  lmlab study arrow     train both directions and measure the arrow of time
  lmlab study headless  train with and without a softmax, and compare the heads
  lmlab study towers    which tokens two towers with one prediction take
  lmlab study decomposition
                        how much of each of a zoo of models is in the others
  lmlab study encoding  train models and see how their embeddings hold probability
  lmlab report          draw the report of a finished study again
  lmlab tour            a small edition of the studies, in a few minutes

Each command has --help, and --config FILE reads its options from TOML."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status (2 for a user's mistake)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if given[0] == "--version":
        from lmlab import __version__

        print(f"lmlab {__version__}")
        return 0
    name = " ".join(given[:2]) if given[0] == "study" else given[0]
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean 'lmlab {near[0]}'?" if near else ""
        print(f"lmlab: unknown command '{name}'{hint}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        command(given[len(name.split()) :])
    except UserError as error:
        print(f"lmlab {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nlmlab {name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _prepare(arguments: Sequence[str]) -> None:
    from lmlab.data.prepare import PrepareConfig, prepare

    store = prepare(from_command_line(PrepareConfig, arguments, program="lmlab prepare"))
    rows = [
        [name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['text_bytes']:,}"]
        for name, s in store.manifest["splits"].items()
    ]
    _table(["split", "documents", "tokens", "bytes of text"], rows)
    parts = {name: store.split(name).sources for name in store.manifest["splits"]}
    if any(parts.values()):
        tokens = [[f"{part.tokens:,}" for part in of_split] for of_split in parts.values()]
        names = [part.name for part in next(iter(parts.values()))]
        columns = ["source", *(f"tokens of {name}" for name in parts)]
        _table(columns, [list(row) for row in zip(names, *tokens, strict=True)])
    print(f"store: {store.path} (vocabulary {store.vocabulary:,}, {store.fingerprint[:12]})")


def _train(arguments: Sequence[str]) -> None:
    from lmlab.config.training import TrainConfig

    config = from_command_line(TrainConfig, arguments, program="lmlab train")
    from lmlab.runs.journal import read_journal
    from lmlab.training.loop import train

    run = train(config)
    last = read_journal(run.path / "journal.jsonl")[-1]
    measured = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in last.items()
        if name.startswith("validation_")
    )
    print(f"step {last['step']:,}, {last['tokens']:,} targets, {measured}\nrun: {run.path}")


def _doctor(arguments: Sequence[str]) -> None:
    from lmlab.config.doctor import DoctorConfig

    config = from_command_line(DoctorConfig, arguments, program="lmlab doctor")
    from lmlab.training.doctor import diagnose
    from lmlab.training.doctor_words import find_warnings, table

    made = diagnose(config.run(), rounds=config.rounds)
    warnings = find_warnings(made)
    _table(["", ""], table(made))
    for warning in warnings:
        print(f"\nwarning: {warning}")
    place = replace(config, out=config.results, results=None)
    _write("doctor", place, {**made.to_json(), "warnings": warnings})


def _score(arguments: Sequence[str]) -> None:
    config = from_command_line(ScoreConfig, arguments, program="lmlab score")
    from lmlab.analyses.calibrate import open_with_head
    from lmlab.analyses.score import score
    from lmlab.data.store import TokenStore

    store = TokenStore(config.store)
    subject = open_with_head(
        config.model,
        config.head,
        store=store,
        held_out="test" if config.split == "validation" else "validation",
        device=_device(config.device),
        objective=config.objective,
    )
    made = score(
        subject,
        store,
        split=config.split,
        context=config.context,
        batch=config.batch,
        max_windows=config.windows,
    )
    values = made.to_json()
    _print_values({key: value for key, value in values.items() if key != "by_source"})
    if "by_source" in values:
        units = ["nats_per_token", "interval_95", "bits_per_byte", "tokens"]
        _table(
            ["source", *(unit.replace("_", " ") for unit in units)],
            [[s["name"], *(_text(s.get(unit)) for unit in units)] for s in values["by_source"]],
        )
    _write("score", config, values)


def _geometry(arguments: Sequence[str]) -> None:
    config = from_command_line(
        GeometryConfig, arguments, program="lmlab geometry", leading=("--model",)
    )
    from lmlab.analyses.geometry import geometry
    from lmlab.analyses.subject import open_subject
    from lmlab.data.store import TokenStore
    from lmlab.durable import write_text
    from lmlab.studies.geometry_report import geometry_page, geometry_tables, summary
    from lmlab.studies.words import environment

    made = geometry(
        open_subject(config.model, device=_device(config.device)),
        TokenStore(config.store),
        split=config.split,
        context=config.context,
        max_windows=config.windows,
    )
    values = {**made.to_json(), "environment": environment()}
    print(summary(values))
    for table in geometry_tables(values):
        print(f"\n{table.caption}")
        _table(table.columns, [[_text(value) for value in row] for row in table.rows])
    out = _write("geometry", config, values)
    write_text(out / "report.html", geometry_page(values))
    print(f"report: {(out / 'report.html').resolve()}")


def _encode(arguments: Sequence[str]) -> None:
    from lmlab.config.encoding import EncodeConfig

    config = from_command_line(
        EncodeConfig, arguments, program="lmlab encode", leading=("--model",)
    )
    from lmlab.analyses.encode import encode, encoding_rows
    from lmlab.analyses.subject import open_subject
    from lmlab.data.store import TokenStore

    made = encode(
        open_subject(config.model, device=_device(config.device), raw_head=config.head == "raw"),
        TokenStore(config.store),
        split=config.split,
        context=config.context,
        max_windows=config.windows,
        ridge=config.ridge,
        rotations=config.rotations,
    )
    _table(["", ""], [list(row) for row in encoding_rows(made)])
    _write("encode", config, made.to_json())


def _steer(arguments: Sequence[str]) -> None:
    from lmlab.config.encoding import SteerConfig

    config = from_command_line(SteerConfig, arguments, program="lmlab steer", leading=("--model",))
    from lmlab.analyses.steering_effects import parse_factors, steering_effects, write_steered
    from lmlab.analyses.subject import open_subject
    from lmlab.data.store import TokenStore
    from lmlab.studies.encoding_words import steering_rows, steering_words

    subject = open_subject(config.model, device=_device(config.device))
    made = steering_effects(
        subject,
        TokenStore(config.store),
        parse_factors(subject, config.token),
        method=config.method,
        exact=config.exact,
        ridge=config.ridge,
        untie=config.untie,
        context=config.context,
        max_windows=config.windows,
        other=None if config.other is None else TokenStore(config.other),
    )
    _table(*steering_rows(made.to_json()))
    for line in steering_words(made.to_json()):
        print(line)
    if config.out is None:
        _write("steer", config, made.to_json())
    else:
        print(f"model: {write_steered(subject, made, config.out)}")


def _prune(arguments: Sequence[str]) -> None:
    from lmlab.config.encoding import PruneConfig

    config = from_command_line(PruneConfig, arguments, program="lmlab prune", leading=("--model",))
    from lmlab.analyses.prune import prune, write_pruned
    from lmlab.analyses.subject import open_subject
    from lmlab.data.store import TokenStore
    from lmlab.studies.encoding_words import pruning_rows

    subject = open_subject(config.model, device=_device(config.device))
    made = prune(
        subject,
        TokenStore(config.store),
        shares=config.shares,
        share=config.share,
        way=config.way,
        replacement=config.replace,
        margin=config.margin,
        context=config.context,
        max_windows=config.windows,
        prompts=config.prompts,
        other=None if config.other is None else TokenStore(config.other),
    )
    _table(*pruning_rows(made.to_json()))
    if config.share is None or config.out is None:
        _write("prune", config, made.to_json())
        return
    speed = write_pruned(subject, made, config.out)
    print(
        f"head {speed.head_ratio:.2f} times as fast ({speed.head_multiplications:.0%} of the "
        f"multiplications), whole model {speed.forward_ratio:.2f} times\nmodel: {config.out}"
    )


def _dynamics(arguments: Sequence[str]) -> None:
    from lmlab.config.encoding import DynamicsConfig

    config = from_command_line(
        DynamicsConfig, arguments, program="lmlab dynamics", leading=("--model",)
    )
    from lmlab.analyses.dynamics import Watch, watch_run
    from lmlab.data.store import TokenStore
    from lmlab.studies.encoding_words import captured_words, snapshot_row

    watch = Watch(
        TokenStore(config.store),
        context=config.context,
        max_windows=config.windows,
        device=_device(config.device),
    )
    seen = (
        map(watch.look, [config.model, *config.more])
        if config.more
        else watch_run(Path(config.model), watch, follow=config.follow, pause=config.pause)
    )
    for snapshot in seen:
        print(snapshot_row(vars(snapshot)), flush=True)
    made = watch.result(config.model).to_json()
    print(captured_words(made))
    _write("dynamics", config, made)


def _eval(arguments: Sequence[str]) -> None:
    from lmlab.config.evaluation import EvalConfig

    config = from_command_line(EvalConfig, arguments, program="lmlab eval", leading=("--model",))
    from lmlab.data.tasks import read_tasks

    own = [task for task in config.tasks if "=" in task]
    names = [task for task in config.tasks if "=" not in task]
    if config.include is not None and not names:
        raise UserError("--include is where lm-eval tasks are looked for; name one of them")
    tasks = read_tasks(own, limit=config.limit) if own or not names else []
    if names:
        import lmlab.integrations.lm_eval  # noqa: F401 - before the model: the extra may be missing
    from lmlab.analyses.calibrate import open_with_head
    from lmlab.analyses.zero_shot import zero_shot

    subject = open_with_head(
        config.model,
        config.head,
        store=_store_of_head(config.head, config.store),
        device=_device(config.device),
        objective=config.objective,
    )
    made = [zero_shot(subject, task, batch=config.batch) for task in tasks]
    if names:
        from lmlab.integrations.lm_eval import harness

        include, limit = config.include, config.limit
        made += harness(subject, names, include=include, limit=limit, batch=config.batch)
    _table(
        ["task", "part", "metric", "", "standard error", "items"],
        [
            [one.task, part, name, *(_text(v) for v in (e.value, e.standard_error, e.items))]
            for one in made
            for part, name, e in one.rows()
        ],
    )
    for one in made:
        for note in one.notes:
            print(f"{one.task}: {note}")
        if one.truncated:
            print(f"{one.task}: {one.truncated:,} contexts were cut to fit the model")
    values = {
        "subject": subject.name,
        "order": subject.order,
        "head": subject.head,
        "tasks": [one.to_json() for one in made],
    }
    _write("eval", config, values)


def _finetune(arguments: Sequence[str]) -> None:
    from lmlab.config.finetune import FinetuneConfig

    config = from_command_line(FinetuneConfig, arguments, program="lmlab finetune")
    from lmlab.studies.finetune import run_finetune

    _end_of_study(run_finetune(config))


def _sample(arguments: Sequence[str]) -> None:
    config = from_command_line(SampleConfig, arguments, program="lmlab sample")
    from lmlab.analyses.sample import sample
    from lmlab.analyses.subject import open_subject

    texts = sample(
        open_subject(config.model),
        config.prompt,
        tokens=config.tokens,
        count=config.count,
        temperature=config.temperature,
        top_k=config.top_k,
        seed=config.seed,
    )
    for made in texts:
        print(made.text, end="\n\n")
    values = {"order": texts[0].order, "texts": [made.text for made in texts]}
    _write("sample", config, values)


def _export(arguments: Sequence[str]) -> None:
    config = from_command_line(
        ExportConfig, arguments, program="lmlab export", leading=("--model",)
    )
    from lmlab.analyses.calibrate import open_with_head
    from lmlab.analyses.export import export_model

    store = _store_of_head(config.head, config.store)
    subject = open_with_head(config.model, config.head, store=store)
    print(f"model: {export_model(subject, config.out)}")


def _arrow(arguments: Sequence[str]) -> None:
    config = from_command_line(
        ArrowPairConfig, arguments, program="lmlab arrow", leading=("--forward", "--backward")
    )
    from lmlab.analyses.arrow_of_models import arrow_of_models
    from lmlab.analyses.subject import open_subject
    from lmlab.data.store import TokenStore

    device = _device(config.device)
    made = arrow_of_models(
        open_subject(config.forward, device=device),
        open_subject(config.backward, device=device),
        TokenStore(config.store),
        split=config.split,
        context=config.context,
        max_windows=config.windows,
    )
    values = made.to_json()
    losses = {
        f"{side}, {unit.replace('_', ' ')}": values[side][unit]
        for unit in ("nats_per_token", "bits_per_byte")
        for side in ("forward", "backward")
    }
    _print_values({**made.arrow.to_json(), **losses})
    _write("arrow", config, values)


def _embed(arguments: Sequence[str]) -> None:
    from lmlab.config.decomposition import EmbedConfig

    config = from_command_line(EmbedConfig, arguments, program="lmlab embed")
    from lmlab.analyses.decomposition_of_models import embed_models, labels
    from lmlab.data.store import TokenStore

    embedded = embed_models(
        labels(config.models),
        TokenStore(config.store),
        config.embedding,
        counts={config.split: config.pieces},
        lab=config.lab,
        device=_device(config.device),
    )[config.split]
    rows = {
        label: {"folder": str(store.path), "rows": store.rows, "width": store.width}
        for label, store in embedded.stores.items()
    }
    _table(
        ["model", "rows", "width", "folder"],
        [
            [label, *(_text(one[k]) for k in ("rows", "width", "folder"))]
            for label, one in rows.items()
        ],
    )
    print(f"{embedded.pieces:,} pieces, {embedded.shortened:,} cut to fit the shortest model")
    _write("embed", config, {"embeddings": rows, "pieces": embedded.pieces})


def _decompose(arguments: Sequence[str]) -> None:
    from lmlab.config.decomposition import DecomposeConfig

    config = from_command_line(
        DecomposeConfig, arguments, program="lmlab decompose", leading=("--target",)
    )
    from lmlab.analyses.decomposition_of_models import decompose_command
    from lmlab.analyses.mapping import mapping_file, save_mapping
    from lmlab.studies.decomposition_tables import group_finding, notes, pair_table, target_table

    made = decompose_command(config, device=_device(config.device))
    values = made.to_json()
    print(group_finding(values))
    for table in (target_table(values), pair_table(values)):
        print(f"\n{table.caption}")
        _table(table.columns, [[_text(value) for value in row] for row in table.rows])
    for note in notes(values):
        print(f"note: {note}")
    out = _write("decompose", config, values)
    for label, found in made.found.items():
        save_mapping(mapping_file(out, label), found.fit, made.models, config.embedding)
    print(f"weights: {out}")


def _apply(arguments: Sequence[str]) -> None:
    from lmlab.config.decomposition import ApplyConfig

    config = from_command_line(
        ApplyConfig, arguments, program="lmlab apply", leading=("--weights",)
    )
    from lmlab.analyses.mapping_of_models import apply_mapping

    made = apply_mapping(config, device=_device(config.device))
    _print_values(made.agreement.to_json())
    out = _write("apply", config, made.agreement.to_json())
    made.save(out / "mapped.safetensors")
    print(f"mapped rows: {out / 'mapped.safetensors'}")


def _prefer(arguments: Sequence[str]) -> None:
    from lmlab.config.towers import PreferConfig

    config = from_command_line(PreferConfig, arguments, program="lmlab prefer", leading=("--run",))
    from lmlab.analyses.preference import Vocabulary, preference
    from lmlab.analyses.preference_sums import preference_sums
    from lmlab.analyses.subject import open_subject
    from lmlab.data.store import TokenStore
    from lmlab.studies.towers_words import preference_tables

    store = TokenStore(config.store)
    sums = preference_sums(
        open_subject(config.run, device=_device(config.device)),
        store,
        split=config.split,
        held_out="test" if config.split == "validation" else "validation",
        context=config.context,
        max_windows=config.windows,
    )
    values = preference(sums, Vocabulary.of(store), seed=config.seed).to_json()
    for table in preference_tables(values):
        print(f"\n{table.caption}")
        _table(table.columns, [[_text(value) for value in row] for row in table.rows])
    sums.save(_write("prefer", config, values) / "sums.safetensors")


def _study_arrow(arguments: Sequence[str]) -> None:
    from lmlab.config.studies import ArrowConfig

    config = from_command_line(ArrowConfig, arguments, program="lmlab study arrow")
    from lmlab.studies.arrow import run_arrow

    _end_of_study(run_arrow(config))


def _study_headless(arguments: Sequence[str]) -> None:
    from lmlab.config.studies import HeadlessStudyConfig

    config = from_command_line(HeadlessStudyConfig, arguments, program="lmlab study headless")
    from lmlab.studies.headless import run_headless

    _end_of_study(run_headless(config))


def _study_decomposition(arguments: Sequence[str]) -> None:
    from lmlab.config.decomposition import DecompositionStudyConfig

    config = from_command_line(
        DecompositionStudyConfig, arguments, program="lmlab study decomposition"
    )
    from lmlab.studies.decomposition import run_decomposition

    _end_of_study(run_decomposition(config))


def _study_towers(arguments: Sequence[str]) -> None:
    from lmlab.config.towers import TowersStudyConfig

    config = from_command_line(TowersStudyConfig, arguments, program="lmlab study towers")
    from lmlab.studies.towers import run_towers

    _end_of_study(run_towers(config))


def _study_encoding(arguments: Sequence[str]) -> None:
    from lmlab.config.encoding import EncodingStudyConfig

    config = from_command_line(EncodingStudyConfig, arguments, program="lmlab study encoding")
    from lmlab.studies.encoding import run_encoding

    _end_of_study(run_encoding(config))


def _report(arguments: Sequence[str]) -> None:
    config = from_command_line(ReportConfig, arguments, program="lmlab report")
    from lmlab.studies.redraw import redraw

    print(f"report: {redraw(config.study).resolve()}")


def _tour(arguments: Sequence[str]) -> None:
    config = from_command_line(TourConfig, arguments, program="lmlab tour")
    from lmlab.studies.tour import run_tour

    _end_of_study(run_tour(config.lab))


def _end_of_study(report: Path) -> None:
    from lmlab.studies.redraw import result_rows

    columns, rows = result_rows(report.parent)
    _table(columns, rows)
    print(f"report: {report.resolve()}")


def _store_of_head(head: str, path: Path | None) -> TokenStore | None:
    from lmlab.data.store import TokenStore

    if path is not None and head != "calibrated":
        raise UserError("--store is what a calibrated head is fitted to; add --head calibrated")
    return None if path is None else TokenStore(path)


def _device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    from lmlab.training.hardware import keep_freed_memory, resolve_device

    keep_freed_memory()
    return resolve_device(wanted)


def _print_values(values: dict[str, Any]) -> None:
    _table(["", ""], [[key.replace("_", " "), _text(value)] for key, value in values.items()])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_text(v) for v in value)
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _write(command: str, config: Any, values: dict[str, Any]) -> Path:
    from lmlab.durable import write_json

    options = to_mapping(config)
    options.pop("out", None)
    out = config.out or Path("lab") / "results" / f"{command}-{digest(options)[:8]}"
    write_json(out / "results.json", {"command": command, "options": options, **values})
    print(f"results: {out / 'results.json'}")
    return out


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(value) for value in row))
    # in a log file a line is as long as it needs to be
    Console(width=None if sys.stdout.isatty() else 160).print(table)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": _prepare,
    "train": _train,
    "doctor": _doctor,
    "score": _score,
    "geometry": _geometry,
    "encode": _encode,
    "steer": _steer,
    "prune": _prune,
    "dynamics": _dynamics,
    "eval": _eval,
    "finetune": _finetune,
    "sample": _sample,
    "export": _export,
    "embed": _embed,
    "decompose": _decompose,
    "apply": _apply,
    "arrow": _arrow,
    "study arrow": _study_arrow,
    "study headless": _study_headless,
    "study decomposition": _study_decomposition,
    "prefer": _prefer,
    "study towers": _study_towers,
    "study encoding": _study_encoding,
    "report": _report,
    "tour": _tour,
}

if __name__ == "__main__":
    sys.exit(main())
