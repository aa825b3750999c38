"""Commands that make and sample models.

Each gets its options, and prints what it made. Rooms that need torch are imported inside.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lmlab.cli.printing import keywords, print_table, show
from lmlab.config.doctor import DoctorConfig
from lmlab.config.lengthen import LengthenConfig
from lmlab.config.tracked import TrackedTrainConfig
from lmlab.data.prepare import PrepareConfig
from lmlab.data.words import Words
from lmlab.lm.options import ExportConfig, PublishConfig, SampleConfig


def prepare(config: PrepareConfig) -> None:
    from lmlab.data.prepare import prepare, shares_asked

    store = prepare(config)
    whole, asked = sum(s.text_bytes for s in store.splits.values()), shares_asked(store)
    rows = [
        [
            name,
            f"{split.documents:,}",
            _words(split.words),
            *(f"{n:,}" for n in (split.tokens, split.text_bytes)),
            f"{split.text_bytes / whole:.1%}",
            f"{asked[name]:.1%}" if name in asked else "–" if name == "train" else "given",
        ]
        for name, split in store.splits.items()
    ]
    columns = ["split", "documents", "words", "tokens", "bytes of text", "share of bytes", "asked"]
    print_table(columns, rows)
    parts = {name: store.split(name).sources for name in store.splits}
    if any(parts.values()):
        sizes = [
            of_size
            for of_split in parts.values()
            for of_size in (
                [_words(part.words) for part in of_split],
                [f"{part.tokens:,}" for part in of_split],
            )
        ]
        names = [part.name for part in next(iter(parts.values()))]
        columns = ["source", *(f"{what} of {name}" for name in parts for what in _SIZES)]
        print_table(columns, [list(row) for row in zip(names, *sizes, strict=True)])
    if segmented := sum(s.words.segmented for s in store.splits.values() if s.words):
        print(
            f"words: between white space; {segmented:,} of scripts without blanks are counted by "
            "the rules of Unicode (UAX 29)"
        )
    print(f"store: {store.path} (vocabulary {store.vocabulary:,}, {store.fingerprint[:12]})")


_SIZES = ("words", "tokens")


def _words(words: Words | None) -> str:
    return "–" if words is None else f"{words.count:,}"


def lengthen(config: LengthenConfig) -> None:
    from lmlab.training.lengthen import longer_run
    from lmlab.training.loop import train

    _say_end(train(longer_run(config)).path)


def train(config: TrackedTrainConfig) -> None:
    from lmlab.integrations.trackers import train_tracked

    _say_end(train_tracked(config).path)


def _say_end(run: Path) -> None:
    from lmlab.run_folders.journal import last_record

    last = last_record(run / "journal.jsonl")
    assert last is not None
    measured = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in last.items()
        if name.startswith("validation_")
    )
    print(f"step {last['step']:,}, {last['tokens']:,} targets, {measured}\nrun: {run}")


def doctor(config: DoctorConfig) -> None:
    from lmlab.training.doctor import diagnose

    place = replace(config, out=config.results, results=None)
    show("doctor", place, diagnose(config.run(), rounds=config.rounds))


def sample(config: SampleConfig) -> None:
    from lmlab import face

    result = face.sample(**keywords(config))
    show("sample", config, result, text=f"{result}\n")


def export(config: ExportConfig) -> None:
    from lmlab import face

    model = face.export(
        config.model, config.out, head=config.head, store=config.store, scores=config.scores
    )
    print(f"model: {model}")


def publish(config: PublishConfig) -> None:
    from lmlab import face

    publication = face.publish(
        config.run, config.repo, config.out, scores=config.scores, upload=config.upload
    )
    revisions = publication.revisions
    rows = [
        [each.revision, f"{each.step:,}", f"{each.words:,}", f"{each.bytes / 1e6:,.1f}",
         str(each.folder)]
        for each in revisions
    ]  # fmt: skip
    print_table(["revision", "step", "words seen", "MB", "folder"], rows)
    what = (
        f"{len(revisions)} revision{'s' if len(revisions) > 1 else ''}, "
        f"{sum(len(each.sizes) for each in revisions)} files, "
        f"{sum(each.bytes for each in revisions) / 1e6:,.1f} MB"
    )
    if publication.uploaded:
        print(f"uploaded to {publication.repo}: {what}")
    else:
        print(f"nothing was uploaded; with --upload {publication.repo} would get {what}")
