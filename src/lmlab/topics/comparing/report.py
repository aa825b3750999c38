"""Tables, figures and page of `lmlab compare`. Every figure stands under its finding in words."""

from __future__ import annotations

from collections.abc import Sequence

from lmlab.numerics.random_effects import Interval
from lmlab.pages.figures import ForestRow, forest_plot
from lmlab.pages.page import Figure, Section, Table
from lmlab.pages.report import Report
from lmlab.pages.text import Rounded, number
from lmlab.pages.wording import amount_of_text, bits_cell, bounds_text, capital, signed
from lmlab.topics.comparing.compare import ModelsCompared
from lmlab.topics.comparing.of_tasks import ComparedOnTask
from lmlab.topics.comparing.of_text import BITS, NATS, ComparedOnText, Divided, PartOfText
from lmlab.topics.comparing.ranking import Pair, Ranking, design_words

_MOST_DOCUMENTS = 25  # of a figure; of more, those that contribute most
_WAYS = {
    "class": "by class of token",
    "frequency": "by frequency, in tenths of the text",
    "position": "by position in the window, counted from its left",
}


def report(result: ModelsCompared) -> Report:
    """Title, finding and sections of the page."""
    sections: list[Section] = []
    findings: list[str] = []
    if (text := result.text) is not None:
        findings += [_finding(text.ranking), _weakness(text), *map(_sentence, text.notes)]
        sections += [
            Section(
                "The models",
                [_MODELS],
                figures=_ranking_figures(text.ranking),
                tables=[_models_table(text), pairs_table(text.ranking)],
            ),
            *_parts_sections(text),
        ]
    for task in result.tasks:
        findings += [f"{task.task}: {_finding(ranking)}" for ranking in task.rankings]
        if weak := design_words(min(r.runs for r in task.rankings), None):
            findings.append(weak)
        sections.append(_task_section(task))
    sections.append(Section("Methods", _methods(result)))
    return Report(
        f"Compared: {', '.join(result.kinds)}",
        "\n\n".join(dict.fromkeys(filter(None, findings))),
        sections,
    )


_MODELS = (
    "A place is what the pairs that are told apart leave open, all together with 95 %. Intervals "
    "of models are each one's own; differences are far more exact, for they are paired by text."
)


def tables(result: ModelsCompared) -> list[Table]:
    """The models and all pairs; documents, tokens and types; then each task."""
    found: list[Table] = []
    if (text := result.text) is not None:
        found += [_models_table(text), pairs_table(text.ranking)]
        for divided in text.divided:
            found += [_documents_table(text, divided)]
            found += _tokens_tables(text, divided)
    for task in result.tasks:
        for ranking in task.rankings:
            found += [_kinds_table(task, ranking), pairs_table(ranking)]
    return found


def _sentence(text: str) -> str:
    return f"{capital(text)}."


def _finding(ranking: Ranking) -> str:
    """What two kinds differ by, or how several stand."""
    if len(ranking.names) == 2:
        return _sentence(_pair_words(ranking, ranking.pairs[0]))
    order = ", ".join(
        f"{name} {number(value.estimate)}"
        for name, value in zip(ranking.names, ranking.values, strict=True)
    )
    decided = [pair for pair in ranking.pairs if pair.is_decided]
    said = f"By {ranking.measure}, the best first: {order}. "
    if not decided:
        return f"{said}No pair of these is decided, all {len(ranking.pairs)} taken together."
    told = f"{len(decided)} of {len(ranking.pairs)} pairs are told apart, all taken together"
    if not ranking.is_general:
        return f"{said}{told}, of these models on this text or these items: no verdict on others."
    best = [name for name, (_, last) in zip(ranking.names, ranking.places, strict=True)
            if last == 1]  # fmt: skip
    which = f"{best[0]} is best" if best else "which is best is not decided"
    return f"{said}{told}; {which}."


def _pair_words(ranking: Ranking, pair: Pair) -> str:
    """The verdict of a pair with its number."""
    unit = f" {ranking.measure}"
    bounds = bounds_text(pair.adjusted.bounds, number)
    over = "" if pair.adjusted.bounds is None else ", 95 %"
    more = "more" if ranking.lower_is_better else "less"
    lead = number(pair.lead.estimate)
    return f"{pair.verdict} ({pair.worse} has {lead}{unit} {more}, {bounds}{over})"


def _weakness(text: ComparedOnText) -> str:
    return design_words(text.ranking.runs, text.documents)


def _models_table(text: ComparedOnText) -> Table:
    ranking, by_name = text.ranking, {kind.name: kind for kind in text.kinds}
    other = NATS if ranking.measure == BITS else BITS
    here = "" if ranking.is_general else ", of these models on this text"
    rows: list[list[str | float | int]] = []
    for name, value, runs, places in zip(
        ranking.names, ranking.values, ranking.by_run, ranking.places, strict=True
    ):
        kind = by_name[name]
        rows.append(
            [
                name,
                _places(places),
                Rounded(value.estimate, 4),
                bounds_text(value.bounds, "{:.4f}".format),
                *([Rounded(kind.nats_per_token, 4)] if ranking.measure == BITS else []),
                *([] if ranking.measure == BITS else [bits_cell(kind.bits_per_byte)]),
                kind.reading,
                ", ".join(f"{run:.4f}" for run in runs),
            ]
        )
    return Table(
        ["model", "place", ranking.measure, "95 % interval", other, "reads", "each run"],
        rows,
        f"The models, the best first; places together with 95 %{here}.",
    )  # fmt: skip


def _places(places: tuple[int, int]) -> str:
    best, worst = places
    return str(best) if best == worst else f"{best}–{worst}"


def pairs_table(ranking: Ranking) -> Table:
    """Every pair of kinds."""
    several = len(ranking.pairs) > 1
    tested = any(pair.discordant for pair in ranking.pairs)
    columns = ["pair", "difference", "95 % interval"]
    columns += ["all pairs together, 95 %"] * several
    columns += ["items only one has right", "p (McNemar)"] * tested
    rows = []
    for pair in ranking.pairs:
        sign = 1 if ranking.lower_is_better else -1
        row: list[str | float | int] = [
            f"{pair.worse} − {pair.better}",
            Rounded(sign * pair.lead.estimate, 4),
        ]
        row += [_signed_bounds(pair.lead, sign)]
        row += [_signed_bounds(pair.adjusted, sign)] * several
        found = pair.discordant
        if tested and found is None:
            row += ["", "none"]
        elif found is not None:
            row += [f"{pair.better} {found.better:,}, {pair.worse} {found.worse:,}"]
            row += [number(found.p, 2)]
        rows.append([*row, pair.verdict])
    return Table([*columns, "finding"], rows, f"Differences in {ranking.measure}, paired by "
                 f"{'text' if ranking.measure in _OF_TEXT else 'item'}.")  # fmt: skip


_OF_TEXT = (BITS, NATS)


def _signed_bounds(interval: Interval, sign: int) -> str:
    if interval.bounds is None:
        return "no interval"
    low, high = sorted(sign * end for end in interval.bounds)
    return f"[{signed(low, 4)}, {signed(high, 4)}]"


def _ranking_figures(ranking: Ranking) -> list[Figure]:
    first, *more = ranking.pairs
    pairs = forest_plot(
        [
            ForestRow.of(f"{pair.worse} against {pair.better}", pair.adjusted)
            for pair in ranking.pairs
        ],
        x_label=f"{ranking.measure}, lead of the better one",
        finding=_finding(ranking),
        alt="The difference of each pair of models with its interval; zero is marked.",
        caption=f"Bars: 95 % intervals{', for all pairs together (Bonferroni)' * bool(more)}. "
        f"{capital(_over(first.adjusted))}.",
    )
    if len(ranking.names) == 2:
        return [pairs]
    kinds = forest_plot(
        [ForestRow.of(n, value) for n, value in zip(ranking.names, ranking.values, strict=True)],
        x_label=ranking.measure,
        finding=f"{capital(ranking.measure)} of each model by itself.",
        alt="The value of each model with its interval.",
        caption="Bars: 95 % intervals, each model's own. That two of them overlap says nothing of "
        "the difference, which is paired.",
        reference=None,
    )
    return [pairs, kinds]


def _over(interval: Interval) -> str:
    """What an interval is over."""
    return {
        "seeds and text": f"over seeds and {interval.documents:,} documents",
        "text only": f"over {interval.documents:,} documents, for these models",
        "seeds, these documents only": "over seeds and sections of these documents only",
        "these documents only": "over sections of these documents only, for these models",
    }.get(interval.basis, "there is no interval")


def _parts_sections(text: ComparedOnText) -> list[Section]:
    sections = []
    for divided in text.divided:
        which = f"{divided.worse} against {divided.better}"
        documents = [_documents_figure(text, divided)] if divided.by("document") else []
        sections.append(
            Section(f"Which documents: {which}", [], documents, [_documents_table(text, divided)])
        )
        if tables := _tokens_tables(text, divided):
            figures = [_way_figure(divided, way) for way in _WAYS if divided.by(way)]
            sections.append(
                Section(
                    f"Which tokens: {which}",
                    [
                        *_other_orders(text, divided),
                        "Each bar is the difference per token within its part, whatever its size; "
                        "the contribution, in the tables, is what the part has of the whole "
                        "difference. The text was looked at in many ways: intervals here are each "
                        "for its row alone, and none is a verdict.",
                    ],
                    figures,
                    tables,
                )
            )
    return sections


def _other_orders(text: ComparedOnText, divided: Divided) -> list[str]:
    reads = {kind.name: kind.reading for kind in text.kinds}
    ours, theirs = reads[divided.better], reads[divided.worse]
    if ours == theirs:
        return []
    return [
        f"{divided.better} reads {ours}, {divided.worse} {theirs}: they see other tokens before "
        "each one, so the parts show that too. Of two orders only the sum over all tokens is of "
        "the same joint probability."
    ]


def _most(parts: Sequence[PartOfText]) -> PartOfText:
    return max(parts, key=lambda part: part.contribution)


def _documents_figure(text: ComparedOnText, divided: Divided) -> Figure:
    parts = divided.by("document")
    shown = sorted(parts, key=lambda part: -abs(part.contribution))[:_MOST_DOCUMENTS]
    against = sum(part.difference.estimate < 0 for part in parts)
    most = _most(parts)
    finding = (
        f"{divided.better} is ahead of {divided.worse} in {len(parts) - against} of {len(parts)} "
        f"documents; {most.name} contributes most."
    )
    left_out = len(parts) - len(shown)
    return forest_plot(
        [_row(part) for part in sorted(shown, key=lambda part: -part.difference.estimate)],
        x_label=f"{text.ranking.measure}, {divided.worse} − {divided.better}",
        finding=finding,
        alt="The difference in each document; zero is marked.",
        caption="Bars: 95 % intervals over sections of a document, for it alone; none where it has "
        "fewer than 5."
        + (f" Those that contribute most; {left_out:,} more are in the table." if left_out else ""),
    )


def _row(part: PartOfText) -> ForestRow:
    return ForestRow.of(part.name, part.difference, note="")


def _way_figure(divided: Divided, way: str) -> Figure:
    parts = divided.by(way)
    most = _most(parts)
    share = _share(most, parts)
    return forest_plot(
        [_row(part) for part in parts],
        x_label=f"nats per token, {divided.worse} − {divided.better}",
        finding=f"{capital(_WAYS[way])}: the part “{most.name}” contributes most to the lead of "
        f"{divided.better}{share}.",
        alt=f"The difference {_WAYS[way]}; zero is marked.",
        caption="Bars: 95 % intervals, each for its row alone.",
    )


def _share(part: PartOfText, parts: Sequence[PartOfText]) -> str:
    """What a part has of the whole, where shares of it mean something."""
    whole = sum(each.contribution for each in parts)
    if whole <= 0 or any(each.contribution < -0.2 * whole for each in parts):
        return ""
    return f" ({100 * part.contribution / whole:.0f} % of it)"


def _part_rows(parts: Sequence[PartOfText]) -> list[list[str | float | int]]:
    return [
        [
            part.name,
            part.size,
            Rounded(part.difference.estimate, 4),
            _signed_bounds(part.difference, 1),
            Rounded(part.contribution, 5),
        ]
        for part in parts
    ]


def _documents_table(text: ComparedOnText, divided: Divided) -> Table:
    size = "bytes" if text.tokenizers > 1 else "tokens"
    parts = sorted(divided.by("document"), key=lambda part: -abs(part.contribution))
    return Table(
        ["document", size, "difference", "95 % interval", "contribution"],
        _part_rows(parts),
        f"Documents: {divided.worse} − {divided.better}, {text.ranking.measure}; what contributes "
        "most stands first.",
    )


def _tokens_tables(text: ComparedOnText, divided: Divided) -> list[Table]:
    which = f"{divided.worse} − {divided.better}, nats per token"
    found = [
        Table(
            [way, "tokens", "difference", "95 % interval", "contribution"],
            _part_rows(divided.by(way)),
            f"Tokens {_WAYS[way]}: {which}."
            + (f" Frequencies are counts in {text.counted_in}." if way == "frequency" else ""),
        )
        for way in _WAYS
        if divided.by(way)
    ]
    if divided.types:
        found.append(
            Table(
                ["token", "count", "difference", "contribution"],
                [
                    [repr(t.text), t.count, Rounded(t.difference, 3), Rounded(t.contribution, 5)]
                    for t in divided.types
                ],
                f"Types of token that contribute most, and most against: {which}. Chosen for what "
                "they are here, so look at them on other text before you believe one.",
            )
        )
    return found


def _task_section(task: ComparedOnTask) -> Section:
    unit = "" if task.sets is None else f" in {task.sets:,} sets"
    return Section(
        f"Task: {task.task}",
        [f"{task.items:,} items{unit} of {task.source}.", *map(_sentence, task.notes)],
        [_task_figure(ranking) for ranking in task.rankings],
        [table for r in task.rankings for table in (_kinds_table(task, r), pairs_table(r))],
    )


def _task_figure(ranking: Ranking) -> Figure:
    several = len(ranking.pairs) > 1
    return forest_plot(
        [
            ForestRow.of(f"{pair.worse} against {pair.better}", pair.adjusted)
            for pair in ranking.pairs
        ],
        x_label=f"{ranking.measure}, lead of the better one",
        finding=_finding(ranking),
        alt="The difference of each pair of models with its interval; zero is marked.",
        caption="Bars: 95 % intervals over items or sets of them"
        + (", for all pairs together (Bonferroni)." if several else "."),
    )


def _kinds_table(task: ComparedOnTask, ranking: Ranking) -> Table:
    rows = [
        [name, _places(places), Rounded(value.estimate, 4), bounds_text(value.bounds, number)]
        for name, places, value in zip(ranking.names, ranking.places, ranking.values, strict=True)
    ]
    return Table(
        ["model", "place", ranking.measure, "95 % interval"],
        rows,
        f"{task.task} of {task.source}, the best first.",
    )


def _methods(result: ModelsCompared) -> list[str]:
    methods = []
    if (text := result.text) is not None:
        where = f"the {text.split} split of {text.text}" if text.split else text.text
        over = amount_of_text(text.documents, text.cluster_unit)
        same = (
            f"the same windows of up to {text.context:,} tokens"
            if text.tokenizers == 1
            else f"the same documents, each in windows of up to {text.context:,} of its own tokens"
        )
        sample = "" if text.whole else " (a random sample of its windows)"
        methods.append(
            f"All models score {same} of {where}{sample}: {text.tokens:,} tokens of "
            f"{text.kinds[0].name}, each once. The unit of text: {over}."
        )
        for kind in text.kinds:
            methods.append(
                f"{kind.name}: {', '.join(kind.models)}; reads {kind.reading}, head {kind.head}; "
                f"scored {kind.conditions}."
            )
    methods.append(
        "Intervals are two-way random effects over runs and text or items, Student t; runs of two "
        "kinds are no pairs, each kind has a variance of its own (Welch), and the text is shared. "
        "With one run of a kind they are over text or items only, for these models. All pairs of a "
        "measure are one family: each adjusted interval has the level 1 − 0.05 / pairs "
        "(Bonferroni), so that all hold together with 95 %. Tukey's range would take the pairs to "
        "be equally exact, which a shared text does not make them."
    )
    return methods
