"""One table over all of it: every objective by every measure, on the same text, tokens and seeds.

    python benchmarks/objectives.py childes.train --separator $'\\n\\n' --data tasks/ --seeds 3

Trains each objective with each seed on one store, and takes of every model what the analyses of
lmlab measure: its loss, the arrow of time, the encoding of token probability, what a router between
two towers gains, how much of it is a linear function of the others and of the others in it, Zorro,
and what its surprisal explains of reading times. Only `lmlab`, `lmlab.functional` and
`lmlab.extend` are used.

Notable:
- What is there already, runs and measures, is not made again: the same command goes on. All
  objectives of a seed come before the next seed, so that what is there is always a whole table.
- All models are tied and trained by AdamW in the same steps. Objectives differ in what they cannot
  share: filling in masks takes ModernBERT, and two towers have two bodies.
- A cell is tested by its difference from the first objective (over seeds and the text or items that
  both share; a figure that a run has as a whole, over seeds alone, by Welch's t), or against zero
  where zero is what chance gives. p-values are Holm's over all cells that were tested.
- An empty cell says why it is empty.

Shapes: S seeds, M windows, C units (documents, paradigms, sentences).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

import lmlab
import lmlab.functional as F
from lmlab.extend import (
    Clusters,
    Evidence,
    Interval,
    Panel,
    Report,
    Result,
    Section,
    Table,
    holm,
    interval_over_seeds,
    register_result,
    small_multiples,
)

R = TypeVar("R", bound=Result)
BACKWARD = ", backward"
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "causal": {"objective": "causal"},
    f"causal{BACKWARD}": {"objective": "causal", "order": "backward"},
    "headless": {"objective": "headless"},
    f"headless{BACKWARD}": {"objective": "headless", "order": "backward"},
    "mixed": {"objective": "mixed"},
    "masked": {
        "objective": "masked",
        "architecture": "modernbert",
        "learning_rate": 1e-3,
    },
    "headless-masked": {"objective": "headless-masked", "architecture": "modernbert"},
    "towers": {"objective": "towers", "fusion": "product"},
}
"""What `lmlab.train` is told of each; the first is the one that others are compared with."""
SPLIT = "test"
_VERDICT = 3
"""Seeds below which nothing is said of objectives."""


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    name: str
    """With its unit."""
    asks: str
    against: Literal["first", "zero"] = "first"
    """What a cell is tested against: the first objective, or zero."""
    decimals: int = 3
    """That are shown."""


LOSS = Measure("nats per token", "what does a token cost?")
ARROW = Measure(
    "relative arrow, %", "is forward (above 0) or backward easier to learn?", "zero", decimals=2
)
ENCODING = Measure(
    "encoding R2", "how much of log mean probability does the output embedding alone hold?"
)
ROUTER = Measure(
    "router gain, nats",
    "what does sending each type of token to its tower save?",
    "zero",
    decimals=4,
)
FROM_OTHERS = Measure("R2 in the others", "how much of it is linear in all the others?")
OF_OTHERS = Measure("R2 of another", "how much of another one is linear in it, on the average?")
ZORRO = Measure("Zorro, %", "how often is the grammatical sentence the likelier one?", decimals=1)
EYES = Measure(
    "eye tracking, %", "what does surprisal add to held-out R2 of reading times?", decimals=2
)
PACED = Measure("self-paced, %", "the same of self-paced reading", decimals=2)
MEASURES = (LOSS, ARROW, ENCODING, ROUTER, FROM_OTHERS, OF_OTHERS, ZORRO, EYES, PACED)


@dataclass(frozen=True)
class Plan:
    """What is asked for; `--help` has the words."""

    text: tuple[str, ...]
    data: Path | None = None
    lab: Path = Path("lab/objectives")
    separator: str | None = None
    vocabulary: int = 2048
    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    seeds: int = 3
    size: str = "tiny"
    context: int = 64
    batch: int = 32
    tokens: int = 600_000
    learning_rate: float = 3e-3
    """Of objectives that do not name their own."""
    threads: int = 1
    windows: int = 256
    """Of the encoding."""
    pieces: int = 4_000
    """Of text that models are decomposed on, for training; a quarter as many are held out."""
    length: int = 32
    """Tokens of such a piece."""
    whole: bool = False
    """Ask all items of Zorro, not 100 of each paradigm."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.objectives if name not in OBJECTIVES]:
            raise lmlab.UserError(
                f"`objectives`: {', '.join(unknown)} unknown; there are {', '.join(OBJECTIVES)}"
            )
        if len(self.objectives) < 2 or self.seeds < 1:
            raise lmlab.UserError("a table needs two `objectives` or more, and a seed")

    def training(self, objective: str, seed: int) -> dict[str, Any]:
        """Options of `lmlab.train`."""
        return {
            "size": self.size, "context": self.context, "batch": self.batch,
            "tokens": self.tokens, "seed": seed, "threads": self.threads, "tied": True,
            "optimizer_name": "adamw", "learning_rate": self.learning_rate,
            **OBJECTIVES[objective],
        }  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What one run gives on one measure: units whose weighted mean is its figure, or one number."""

    values_C: np.ndarray
    weights_C: np.ndarray
    documents_C: np.ndarray | None = None

    @classmethod
    def of_number(cls, value: float) -> Sample:
        """A figure that the run has as a whole."""
        return cls(np.array([value]), np.ones(1))

    @classmethod
    def of_units(cls, values_C: Iterable[float]) -> Sample:
        """Units of equal weight."""
        values = np.fromiter(values_C, dtype=np.float64)
        return cls(values, np.ones(len(values)))

    @property
    def figure(self) -> float:
        """The weighted mean."""
        return float(np.average(self.values_C, weights=self.weights_C))


@dataclass(frozen=True)
class Cell:
    """An objective on a measure."""

    objective: str
    measure: str
    by_seed: tuple[float, ...] = ()
    value: Interval | None = None
    test: Evidence | None = None
    """The difference from the first objective, or the value where it is held against zero."""
    p: float | None = None
    """Of `test`, by Holm over all tested cells."""
    empty: str = ""
    """Why there is no value."""


@register_result
@dataclass(frozen=True)
class ObjectivesTable(Result, kind="objectives"):
    """Objectives by measures."""

    store: str
    objectives: tuple[str, ...]
    measures: tuple[Measure, ...]
    tokens: int
    """That each run saw, whole steps."""
    seeds: int
    cells: tuple[Cell, ...]

    def at(self, objective: str, measure: Measure) -> Cell:
        """The cell of an objective and a measure."""
        return next(c for c in self.cells if (c.objective, c.measure) == (objective, measure.name))

    @property
    def tested(self) -> list[Cell]:
        """Cells that have a p-value."""
        return [cell for cell in self.cells if cell.p is not None]


# ---------------------------------------------------------------- one run, one measure


Samples = dict[tuple[str, str], list[Sample]]
"""By objective and measure, a sample for each seed."""


class Lab:
    """Runs and what is measured of them, in one folder."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clusters: Clusters | None = None
        """Of the windows that losses are of, once there is one."""
        given = Path(plan.text[0])
        if len(plan.text) == 1 and (given / "manifest.json").is_file():
            self.store = lmlab.TokenStore(given)
        else:
            separated = {} if plan.separator is None else {"separator": plan.separator}
            self.store = lmlab.prepare(
                list(plan.text), plan.lab / "store", vocabulary=plan.vocabulary, **separated
            )

    def run(self, objective: str, seed: int) -> lmlab.Run:
        """The trained run, which is trained where it is not there."""
        out = self.plan.lab / "runs" / self.label(objective, seed)
        return lmlab.train(self.store, **self.plan.training(objective, seed), out=out)

    @staticmethod
    def label(objective: str, seed: int) -> str:
        """The name of a run's folder."""
        return f"{objective.replace(BACKWARD, '-backward')}-{seed}"

    def kept(self, name: str, asked: Sequence[Any], measure: Callable[[], R]) -> R:
        """A result that is there, or is measured now. `asked` is what decides it."""
        decided = hashlib.sha256(repr([str(self.store.path), *asked]).encode()).hexdigest()[:10]
        folder = self.plan.lab / "measured" / f"{name}-{decided}"
        if (folder / "results.json").is_file():
            return cast(R, lmlab.read(folder))
        result = measure()
        result.save(folder)
        return result

    def of_run(self, objective: str, seed: int, run: lmlab.Run) -> dict[str, Sample]:
        """What is measured of one run by itself."""
        label, store, data = self.label(objective, seed), self.store, self.plan.data
        samples: dict[str, Sample] = {}
        if not is_masked(objective):
            score = self.kept(
                f"{label}-score", [SPLIT], lambda: lmlab.score(run, store, split=SPLIT)
            )
            samples[LOSS.name] = loss_of(score)
            samples[_NATS] = Sample(score.nats_M, score.tokens_M)
            self.clusters = score.clusters
        windows = self.plan.windows
        encoding = self.kept(
            f"{label}-encoding", [SPLIT, windows],
            lambda: lmlab.encoding(run, store, split=SPLIT, windows=windows),
        )  # fmt: skip
        samples[ENCODING.name] = Sample.of_number(encoding.encoding.embedding_alone.r2)
        if objective == "towers":
            preference = self.kept(
                f"{label}-prefer", [SPLIT], lambda: lmlab.prefer(run, store, split=SPLIT)
            )
            samples[ROUTER.name] = Sample.of_number(preference.overall.router_gain)
        if data is not None:
            suite = self.kept(
                f"{label}-suite", [str(data), self.plan.whole],
                lambda: lmlab.evaluate_suite(
                    run, data, out=self.plan.lab / "scored" / label, fast=not self.plan.whole
                ),
            )  # fmt: skip
            samples.update(suite_samples(suite))
        return samples

    def of_seed(self, seed: int, runs: Mapping[str, lmlab.Run]) -> dict[str, dict[str, Sample]]:
        """R2 of each run of a seed in all others, and of the others in it, by measure."""
        plan, names = self.plan, list(runs)
        samples: dict[str, dict[str, Sample]] = {FROM_OTHERS.name: {}, OF_OTHERS.name: {}}
        for objective, run in runs.items():
            others = [name for name in names if name != objective]
            result = self.kept(
                f"{self.label(objective, seed)}-decompose", [plan.pieces, plan.length, others],
                lambda run=run, others=others: lmlab.decompose(
                    run, [runs[name] for name in others], self.store, pieces=plan.pieces,
                    held_out_pieces=max(2, plan.pieces // 4), length=plan.length, lab=plan.lab,
                ),
            )  # fmt: skip
            (target,) = result.targets.values()
            samples[FROM_OTHERS.name][objective] = Sample.of_number(target.interval.estimate)
            # rows are targets, columns the basis; the target of this decomposition is the first
            in_it = [row[0] for row in result.pairs.r2[1:] if row[0] is not None]
            samples[OF_OTHERS.name][objective] = Sample.of_number(float(np.mean(in_it)))
        return samples


_NATS = "nats of windows"


def is_masked(objective: str) -> bool:
    """Whether its nats are those of tokens that were masked, which add up to no joint."""
    return objective in ("masked", "headless-masked")


def loss_of(score: Any) -> Sample:
    """Nats per token of each cluster of text, weighted by its tokens."""
    nats_C, tokens_C = score.clusters.sums([score.nats_M, score.tokens_M])
    return Sample(nats_C / tokens_C, tokens_C, score.clusters.documents_C)


def suite_samples(suite: Any) -> dict[str, Sample]:
    """Zorro's paradigms, and the sentences of both kinds of reading, in per cent."""
    samples: dict[str, Sample] = {}
    zorro = next((task for task in suite.tasks if task.task == "zorro"), None)
    if zorro is not None:
        paradigms = zorro.parts["uid"].values()
        samples[ZORRO.name] = Sample.of_units(100 * m["accuracy"].value for m in paradigms)
    if suite.reading is not None:
        for measure, gain in (
            (EYES, suite.reading.eye_tracking),
            (PACED, suite.reading.self_paced),
        ):
            samples[measure.name] = Sample.of_units(100 * gain.held_out.pseudo_values_C)
    return samples


# ---------------------------------------------------------------- over seeds


def mean_of(samples: Sequence[Sample]) -> Interval:
    """The figure over seeds, with its interval over seeds and units; over seeds alone of numbers
    that a run has as a whole."""
    if len(samples[0].values_C) == 1:
        return interval_over_seeds([sample.figure for sample in samples])
    return F.two_way_interval(
        stacked(samples), weights_C=samples[0].weights_C, documents_C=samples[0].documents_C,
    )  # fmt: skip


def difference_of(samples: Sequence[Sample], first: Sequence[Sample]) -> Evidence:
    """The figure less that of the first objective, over seeds that each has for itself."""
    if len(samples[0].values_C) == 1:
        ours, theirs = ([sample.figure for sample in each] for each in (samples, first))
        return Evidence.of_two_groups(ours, theirs, 0)
    return Evidence.of(
        F.two_way_difference(
            stacked(samples), stacked(first),
            weights_C=first[0].weights_C, documents_C=first[0].documents_C,
        )
    )  # fmt: skip


def stacked(samples: Sequence[Sample]) -> np.ndarray:
    """The values of all seeds (S, C)."""
    return np.stack([sample.values_C for sample in samples])


def arrow_cell(
    objective: str, forward: Sequence[Sample], backward: Sequence[Sample], clusters: Clusters
) -> Cell:
    """The relative arrow of a pair of objectives in per cent, over seeds and documents."""
    arrow = F.arrow_of_time(
        stacked(forward), stacked(backward), clusters.cluster_N, clusters.document_N
    )
    low, high = arrow.interval or (None, None)
    value = Interval(
        estimate=100 * arrow.relative, low=low and 100 * low, high=high and 100 * high,
        standard_error=arrow.standard_error and 100 * arrow.standard_error,
        degrees_of_freedom=arrow.degrees_of_freedom, level=0.95, seeds=arrow.seeds,
        clusters=arrow.clusters, documents=arrow.documents, basis=arrow.basis, note=arrow.note,
    )  # fmt: skip
    by_seed = tuple(100 * each for each in arrow.relative_by_seed)
    return Cell(objective, ARROW.name, by_seed, value, Evidence.of(value))


def why_empty(objective: str, measure: Measure, plan: Plan) -> str:
    """Why an objective has no figure on a measure."""
    if measure is LOSS:
        return "its nats are of masked tokens, given the others: no joint probability"
    if measure is ARROW:
        if is_masked(objective):
            return "it reads in no order"
        if objective.endswith(BACKWARD):
            return f"stands with {objective.removesuffix(BACKWARD)}"
        return "not trained backward"
    if measure is ROUTER:
        return "it has one tower"
    return "no such data" if plan.data is not None else "no data given"


def compared(samples: Samples, clusters: Clusters | None, plan: Plan) -> tuple[Cell, ...]:
    """All cells, from the samples of all seeds; p-values are Holm's."""
    first, cells = plan.objectives[0], []
    for objective in plan.objectives:
        for measure in MEASURES:
            forward = samples.get((objective, _NATS))
            backward = samples.get((objective + BACKWARD, _NATS))
            if measure is ARROW and forward and backward and clusters is not None:
                cells.append(arrow_cell(objective, forward, backward, clusters))
                continue
            own = samples.get((objective, measure.name))
            if own is None:
                empty = why_empty(objective, measure, plan)
                cells.append(Cell(objective, measure.name, empty=empty))
                continue
            value, test = mean_of(own), None
            if measure.against == "zero":
                test = Evidence.of(value)
            elif objective != first and (first, measure.name) in samples:
                test = difference_of(own, samples[first, measure.name])
            by_seed = tuple(sample.figure for sample in own)
            cells.append(Cell(objective, measure.name, by_seed, value, test))
    adjusted = holm([cell.test and cell.test.p_value for cell in cells])
    return tuple(replace(cell, p=p) for cell, p in zip(cells, adjusted, strict=True))


def objectives_table(plan: Plan) -> ObjectivesTable:
    """Trains and measures what is not there yet. Raises `UserError` as `lmlab.train` and the
    analyses."""
    lab = Lab(plan)
    samples: Samples = {}
    tokens = 0
    for seed in range(plan.seeds):
        runs: dict[str, lmlab.Run] = {}
        for number, objective in enumerate(plan.objectives, start=1):
            print(f"seed {seed}, objective {number} of {len(plan.objectives)}: {objective}")
            runs[objective] = run = lab.run(objective, seed)
            tokens = run.config.steps * plan.batch * plan.context
            for name, sample in lab.of_run(objective, seed, run).items():
                samples.setdefault((objective, name), []).append(sample)
        print(f"seed {seed}: each as a linear function of the others")
        for name, of_objectives in lab.of_seed(seed, runs).items():
            for objective, sample in of_objectives.items():
                samples.setdefault((objective, name), []).append(sample)
    return ObjectivesTable(
        store=str(lab.store.path), objectives=plan.objectives, measures=MEASURES, tokens=tokens,
        seeds=plan.seeds, cells=compared(samples, lab.clusters, plan),
    )  # fmt: skip


# ---------------------------------------------------------------- how it is shown


def shown(cell: Cell, measure: Measure) -> str:
    """An estimate with its bounds; a dash where there is none."""
    value = cell.value
    if value is None:
        return "–"
    ends = [value.estimate] if value.bounds is None else [value.estimate, *value.bounds]
    estimate, *bounds = [f"{end:.{measure.decimals}f}" for end in ends]
    return f"{estimate} [{', '.join(bounds)}]" if bounds else estimate


def tables(result: ObjectivesTable) -> list[Table]:
    """The table as it is read; then all cells with their tests, and why cells are empty."""
    columns = ["objective", *(measure.name for measure in result.measures)]
    rows = [
        [name, *(shown(result.at(name, measure), measure) for measure in result.measures)]
        for name in result.objectives
    ]
    over = "seeds and " if result.seeds > 1 else ""
    caption = (
        f"{result.tokens:,} tokens a run; {_seeds(result)}; 95 % intervals over {over}documents, "
        "paradigms or sentences; of encoding, router and both R2 over seeds alone."
    )
    return [Table(columns, rows, caption), tested_table(result), empty_table(result)]


def tested_table(result: ObjectivesTable) -> Table:
    """What was tested, a row a cell."""
    rows = [
        [cell.objective, cell.measure, _blank(cell.test.estimate), _blank(cell.test.low),
         _blank(cell.test.high), _blank(cell.p)]
        for cell in result.tested if cell.test is not None
    ]  # fmt: skip
    caption = (
        f"Less {result.objectives[0]}, or against zero (arrow, router). p by Holm over all "
        f"{len(rows)} tests."
    )
    return Table(
        ["row", "measure", "difference", "difference low", "difference high", "p"], rows, caption
    )


def empty_table(result: ObjectivesTable) -> Table:
    """Cells that have no value, and why."""
    rows = [[cell.objective, cell.measure, cell.empty] for cell in result.cells if cell.empty]
    return Table(["row", "measure", "why it is empty"], rows, "Empty cells.")


def wide_table(result: ObjectivesTable) -> Table:
    """A row an objective, and of each measure its value and its two bounds."""
    columns, rows = ["row"], [[name] for name in result.objectives]
    for measure in result.measures:
        columns += [measure.name, f"{measure.name} low", f"{measure.name} high"]
        for row in rows:
            value = result.at(row[0], measure).value
            ends = (None, None, None) if value is None else (value.estimate, value.low, value.high)
            row += [_blank(end) for end in ends]
    return Table(columns, rows, "Objectives by measures.")


def _seeds(result: ObjectivesTable) -> str:
    return "one seed" if result.seeds == 1 else f"{result.seeds} seeds"


def _blank(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def report(result: ObjectivesTable) -> Report:
    """The page: what is decided, the picture, the tables."""
    decided = [cell for cell in result.tested if cell.p is not None and cell.p < 0.05]
    names = [f"{cell.objective}: {cell.measure}" for cell in decided]
    finding = (
        f"{len(decided)} of {len(result.tested)} tested cells differ from "
        f"{result.objectives[0]}, or from zero, by Holm's p below 0.05."
    )
    if result.seeds < _VERDICT:
        finding = f"{_seeds(result).capitalize()}: these models only, no verdict. " + finding
    panels = []
    for measure in result.measures:
        values = [result.at(name, measure).value for name in result.objectives]
        first = values[0]
        reference = None if first is None else first.estimate
        panels.append(Panel(measure.name, values, 0.0 if measure.against == "zero" else reference))
    figure = small_multiples(
        result.objectives, panels, finding=finding,
        alt="Nine panels of dots with intervals, one row for each objective.",
        caption=f"The line is {result.objectives[0]}, or zero for arrow and router.",
    )  # fmt: skip
    asks = Table(
        ["measure", "asks", "tested against"],
        [[m.name, m.asks, result.objectives[0] if m.against == "first" else "zero"]
         for m in result.measures],
        "What each column asks.",
    )  # fmt: skip
    words = [f"These are {'; '.join(names)}."] if names else []
    section = Section("Objectives by measures", words, [figure], [*tables(result), asks])
    return Report("One table over all of it", finding, [section])


def plan_of(arguments: Sequence[str] | None = None) -> tuple[Plan, Path]:
    """The plan and the folder of results of a command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("text", nargs="+", help="files, folders or patterns; or one token store")
    parser.add_argument("--data", type=Path, help="folder with Zorro and a table of reading times")
    parser.add_argument(
        "--lab", type=Path, default=Plan.lab, help="where runs and measures are kept"
    )
    parser.add_argument("--out", type=Path, help="folder of the table (default: LAB/table)")
    parser.add_argument("--separator", help="cuts files into documents")
    parser.add_argument(
        "--objectives", nargs="+", default=Plan.objectives, help="default: all; first: reference"
    )
    parser.add_argument("--size", default=Plan.size)
    for field in fields(Plan):
        if field.type == "int":
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(name, type=int, default=field.default)
    parser.add_argument("--whole", action="store_true", help="all items of Zorro")
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    asked = vars(parser.parse_args(arguments))
    out = asked.pop("out") or asked["lab"] / "table"
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in asked.items()}
    return Plan(**values), out


def main(arguments: Sequence[str] | None = None) -> ObjectivesTable:
    """Makes the table and writes it: results.json, report.html, and two CSV files."""
    plan, out = plan_of(arguments)
    result = objectives_table(plan)
    result.save(out)
    for name, table in (("table.csv", wide_table(result)), ("tests.csv", tested_table(result))):
        (out / name).write_text(table.csv(), "utf-8")
    for name in result.objectives:
        print(f"\n{name}")
        for measure in result.measures:
            cell = result.at(name, measure)
            adjusted = "" if cell.p is None else f"  p {cell.p:.2g}"
            print(f"  {measure.name:<18} {cell.empty or shown(cell, measure)}{adjusted}")
    print(f"\n{result.summary()}\n{out}")
    return result


if __name__ == "__main__":
    main()
