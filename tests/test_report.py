"""The report: what goes in is shown as it is, and the page is the same everywhere.

The last tests open pages in Chromium where there is one: light and dark, desk and phone.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from browser import CHROMIUM, Browser
from lmlab.errors import UserError
from lmlab.pages.drawing import LONGEST_LABEL, fitting_ticks, limits, text_width, ticks, wrap
from lmlab.pages.figures import (
    ForestRow,
    Panel,
    Points,
    Series,
    dendrogram,
    forest_plot,
    heat_map,
    line_plot,
    scatter_plot,
    small_multiples,
)
from lmlab.pages.page import Figure, Part, Passage, Section, Table, render_page
from lmlab.pages.text import Rounded, cell, estimates, number, tick_labels
from lmlab.pages.theme import COLOURS, MARKERS

HOSTILE = '<script>alert(\'1\')</script> & "q" $x^2$ _a_ id="p0" url(#p0) #010102 \x00\x1b\ud800 語'
SHOWN = HOSTILE.replace("\x00\x1b\ud800", "\ufffd" * 3)
ROWS = [
    ForestRow("English docstrings", 0.0213, 0.0180, 0.0246, group="Natural text"),
    ForestRow("French", 0.0341, 0.0290, 0.0392, group="Natural text"),
    ForestRow(
        "Finnish, with a considerably longer name than the others have",
        *(0.0102, -0.0011, 0.0215),
        note="text only: one seed",
        group="Natural text",
    ),
    ForestRow("Python source", 0.0489, None, None, note="fewer than 5 clusters: no interval"),
    ForestRow("LinearLanguage, 12 bits", 0.0612, 0.0571, 0.0653, group="Synthetic"),
    ForestRow("Reversible Markov chain", -0.0003, -0.0021, 0.0015, group="Synthetic"),
]


def forest(rows=ROWS, *, finding="Backward costs more.", x_label="relative difference", **more):
    return forest_plot(rows, x_label=x_label, finding=finding, alt="Six intervals.", **more)


def test_a_logarithmic_forest_puts_a_factor_as_far_as_its_inverse():
    rows = [ForestRow("half", 0.5, 0.25, 1.0), ForestRow("double", 2.0, 1.0, 4.0)]
    figure = forest_plot(
        rows, x_label="factor", finding="", alt="Two factors.", reference=1.0, log=True
    )
    for text in ("0.500", "[0.250, 1.00]", "2.00", "[1.00, 4.00]"):
        assert f">{text}</text>" in figure.drawing
    with pytest.raises(UserError, match="row 'none'"):
        forest_plot(
            [ForestRow("none", 0.0, None, None)], x_label="factor", finding="f", alt="", log=True
        )


def curves(series=None, *, y_label="loss (nats per token)", finding="Loss falls.", **more):
    if series is None:
        steps = [100.0 * i for i in range(1, 30)]
        series = [
            Series(name, steps, [4 + s / 20 + 500 / (x + 50) for x in steps], colour=c)
            for c, name in enumerate(["forward", "backward"])
            for s in range(3)
        ]
    return line_plot(
        series, x_label="step", y_label=y_label, finding=finding, alt="Loss by step.", **more
    )


def page(*figures: Figure, title="Title", tables=(), sections=1) -> str:
    section = Section("Section", ["A paragraph."], figures, tables)
    return render_page(title, "The main finding.", [section] * sections, footer="lmlab")


def bands() -> Figure:
    x = [1e3, 1e4, 1e5, 1e6]
    y = [6.0, 4.0, 3.0, 2.5]
    low, high = [v * 0.9 for v in y], [v * 1.1 for v in y]
    return curves(
        [Series("with a band", x, y, low, high, colour=2, dashed=True)],
        log_x=True,
        log_y=True,
        horizontal=[("entropy floor", 2.2), ("unigram", 6.1)],
    )


def cloud(colours: Sequence[int] = range(6)) -> Figure:
    groups = [Points(f"group {c}", [0.1 * c, 1.0, 2.0], [1.0, c, 3.0], c) for c in colours]
    return scatter_plot(groups, x_label="x", y_label="y", finding="They differ.", alt="Points.")


class Reader(HTMLParser):
    """Collects what a browser would: ids, references, tags, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            elif key in ("href", "xlink:href", "src"):
                self.references.append(value or "")
            self.references += ["#" + name for name in re.findall(r"url\(#(.*?)\)", value or "")]

    def handle_data(self, data):
        self.text += data


def test_hostile_strings_show_as_text():
    h = HOSTILE
    figures = [
        forest([ForestRow(h, 1, 0, 2, h, h)], finding=h, x_label=h, caption=h),
        curves([Series(h, [1, 2], [1, 2])], finding=h, y_label=h, horizontal=[(h, 1.5)]),
    ]
    figures = [dataclasses.replace(f, alt=h) for f in figures]
    table = Table([h], [[h]], h)
    text = render_page(h, h, [Section(h, [h], figures, [table])] * 5, footer=h)
    reader = Reader(text)
    assert "script" not in reader.tags
    assert "<script" not in text
    assert "#010102" not in re.sub(r">[^<]*<|\"[^\"]*\"", "", text)
    # Each place shows the text whole; labels inside a drawing may be wrapped over several lines.
    assert reader.text.count(SHOWN) >= 5 * (2 + 3 * 2 + 2) + 4
    assert text.encode("utf-8")  # no lone surrogate is left
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)


def test_labels_are_not_mathematics():
    figure = forest([ForestRow("d_model $x^2$", 1, 0, 2)], x_label="$HOME_a$ cost_$")
    assert ">d_model $x^2$</text>" in figure.drawing
    assert ">$HOME_a$ cost_$</text>" in figure.drawing


def test_same_input_same_bytes_whatever_the_settings():
    code = (
        "import sys, matplotlib; sys.path.insert(0, 'tests');"
        "matplotlib.rcParams.update({'font.size': 30, 'svg.fonttype': 'path',"
        " 'axes.prop_cycle': matplotlib.cycler(color=['red'])});"
        "import test_report as t;"
        "sys.stdout.buffer.write(t.page(t.forest(), t.curves(), t.bands(), t.cloud()).encode())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert other.stdout.decode() == page(forest(), curves(), bands(), cloud())


def test_ids_are_unique_and_references_resolve():
    text = page(forest(), curves(), bands(), cloud(), forest(), sections=5)
    reader = Reader(text)
    assert len(reader.ids) == len(set(reader.ids)) > 20
    internal = {r.removeprefix("#") for r in reader.references if r.startswith("#")}
    assert internal <= set(reader.ids)


def test_page_refers_to_nothing_outside():
    text = page(forest(), curves(), bands(), cloud(), tables=[Table(["a"], [[1]], "c")])
    assert not re.search(r"https?://|//[a-z]|@import|file:", text)
    outside = {r.partition(",")[0] for r in Reader(text).references if not r.startswith("#")}
    assert outside == {"data:", "data:text/csv;charset=utf-8"}
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert "script" not in Reader(text).tags


def test_colours_are_variables():
    for figure in (forest(), curves(), bands(), cloud()):
        markup = figure.drawing
        assert not re.search(r"#[0-9a-fA-F]{3,8}\b(?!\")", markup.replace("url(#", ""))
        used = set(re.findall(r"var\(--(\w+)\)", markup))
        assert used <= set(COLOURS)
        assert "ink" in used
        assert not set(MARKERS) & set(re.findall(r"#\w{6}", markup))


def test_interval_of_none_is_a_hollow_point_with_its_note():
    markup = forest([ROWS[3]]).drawing
    assert "fill: var(--paper)" in markup
    assert "fewer than 5 clusters: no interval" in markup
    assert ">0.0489</text>" in markup
    assert "fill: var(--paper)" not in forest([ROWS[0]]).drawing


def test_a_figure_is_saved_as_a_drawing_that_needs_no_page(tmp_path):
    for figure in (curves(), bands(), cloud(), forest()):
        figure.save(tmp_path / "f.svg")
        text = (tmp_path / "f.svg").read_text("utf-8")
        root = ET.fromstring(text)
        shown = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {entry.label for entry in figure.legend} <= set(shown)
        assert "var(" not in text
        left, above, width, height = map(float, root.attrib["viewBox"].split())
        assert (left, -above) == (-8, 16 * len(figure.legend) + 8)  # a margin on all sides
        drawn_width, drawn_height = map(float, figure.drawing.split('"')[1].split()[2:])
        assert (width, height + above) == (drawn_width + 16, drawn_height + 8)
        encoded = base64.b64encode(text.encode()).decode()
        assert f'src="data:image/svg+xml;base64,{encoded}"' in figure._repr_html_()
    with pytest.raises(UserError, match=r"f\.png: a figure is written as SVG"):
        figure.save(tmp_path / "f.png")


def test_legend_has_one_entry_per_label():
    assert [entry.label for entry in curves().legend] == ["forward", "backward"]
    assert page(curves()).count('class="key"') == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: forest([ForestRow("a", float("nan"), 0, 1)]), "row 'a' is nan"),
        (lambda: forest([ForestRow("a", 1, 0, float("inf"))]), "row 'a' is inf"),
        (lambda: forest(reference=float("nan")), "the reference is nan"),
        (lambda: curves([Series("a", [], [])]), "series 'a' is empty"),
        (lambda: curves([Series("a", [1, 2], [1, float("nan")])]), "y of 'a' is nan at position 1"),
        (lambda: curves([Series("a", [0], [1])], log_x=True), "logarithmic axis"),
        (lambda: curves([Series("a", [1], [1])], log_y=True, horizontal=[("z", 0)]), "line 'z'"),
        (lambda: curves([Series("a", [1], [1], colour=99)]), "colour 99"),
    ],
)
def test_bad_figures_are_named(make, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        make()
    assert str(caught.value).startswith("figure '")


@pytest.mark.parametrize(
    "make",
    [
        lambda: forest([]),
        lambda: forest([ForestRow("a", 1, 2, 0)]),
        lambda: forest([ForestRow("a", 1, 0, None)]),
        lambda: curves([]),
        lambda: curves([Series("a", [1], [1, 2])]),
        lambda: curves([Series("a", [1], [1], low=[0])]),
        lambda: curves([Series("a", [1], [1], [0], [2, 3])]),
        lambda: cloud([]),
    ],
)
def test_figures_without_a_meaning_are_not_drawn(make):
    with pytest.raises(AssertionError):
        make()


def test_too_many_points_are_refused():
    many = Points("a", list(range(4001)), list(range(4001)))
    with pytest.raises(UserError, match="4,001 points"):
        scatter_plot([many], x_label="x", y_label="y", finding="f", alt="a")


def test_bad_tables_are_named():
    with pytest.raises(UserError, match="table 't': row 2 has 1 cells for 2 columns"):
        page(tables=[Table(["a", "b"], [[1, 2], [3]], "t")])
    with pytest.raises(UserError, match="table 't': nan is not finite"):
        page(tables=[Table(["a"], [[float("nan")]], "t")])
    with pytest.raises(UserError, match="no columns"):
        page(tables=[Table([], [], "t")])
    with pytest.raises(UserError, match="neither a text nor a number"):
        page(tables=[Table(["a"], [[None]], "t")])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (-1234, "−1,234"),
        (0.0, "0"),
        (0.0123456, "0.01235"),
        (9.99999, "10.00"),
        (12345.6, "12,346"),
        (-0.5, "−0.5000"),
        (3.41e-7, "3.410×10⁻⁷"),
        (1.5e12, "1.500×10¹²"),
        (np.float32(0.25), "0.2500"),
        (np.int64(5000), "5,000"),
    ],
)
def test_numbers_in_tables(value, shown):
    assert cell(value, where="t") == (shown, True)


def test_texts_in_tables_stay():
    assert cell("007", where="t") == ("007", False)
    text = page(tables=[Table(["a", "b"], [["x", 1], ["y", "n/a"]], "c")])
    assert '<th scope="row">y</th><td class="n">n/a</td>' in text
    assert re.search('<p class="caption"><span id="[^"]*">c</span>', text)
    assert '<th scope="col">a</th><th scope="col" class="n">b</th>' in text


def test_estimates_share_their_decimals():
    assert estimates([(0.02131, 0.018, 0.0246), (1.0, None, None)]) == [
        ("0.0213", "[0.0180, 0.0246]"),
        ("1.0000", ""),
    ]
    assert estimates([(-0.00001, -0.04, 0.04)]) == [("0.000", "[−0.040, 0.040]")]
    assert estimates([(5.0, 5.0, 5.0)])[0][0] == "5.00"
    assert estimates([(0.0, None, None)]) == [("0.0", "")]
    assert estimates([(2e-9, 1e-9, 3e-9)]) == [("2.00×10⁻⁹", "[1.00×10⁻⁹, 3.00×10⁻⁹]")]
    assert number(1e-5, 3) == "1.00×10⁻⁵"


def test_tick_labels_are_short_and_distinct():
    assert tick_labels([0, 2.5, 5], log=False) == ["0", "2.5", "5.0"]
    assert tick_labels([-50000, 0, 50000], log=False) == ["−50k", "0", "50k"]
    assert tick_labels([1e6, 1.5e6], log=False) == ["1.0M", "1.5M"]
    assert tick_labels([0, 2e-5, 4e-5], log=False) == ["0", "2×10⁻⁵", "4×10⁻⁵"]
    assert tick_labels([1e-6, 1e-3, 1, 1e3, 1e6], log=True) == ["10⁻⁶", "0.001", "1", "1k", "1M"]
    assert tick_labels([100, 1000], log=True) == ["100", "1,000"]


def test_ticks_stay_inside_and_do_not_touch():
    for low, high, log in [(-1, 1, False), (3.1, 3.9, True), (1e-9, 1e9, True), (0, 1e7, False)]:
        values = ticks(low, high, log=log, most=6)
        assert 2 <= len(values) <= 8
        assert all(low <= v <= high for v in values)
        _, labels = fitting_ticks(low, high, log=log, width=120, room=(0, 0))
        assert sum(text_width(label, 8.5) for label in labels) < 120
        assert len(set(labels)) == len(labels)
    assert ticks(-1, 1, log=False, most=6)[2] == 0
    low, high = limits([5, 5], log=False, margin=0.1)
    assert low < 5 < high


def test_wrapping_keeps_the_text_and_the_width():
    text = "a rather long label with averyveryveryverylongword and 語語語語語語語語語語"
    lines = wrap(text, 9.5, 60)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_width(line, 9.5) <= 60 for line in lines)
    assert wrap("", 9.5, 60) == []
    assert "".join(wrap("x" * 20_000, 9.5, 60)) == "x" * (LONGEST_LABEL - 1) + "…"


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_palette_is_apart_for_every_eye(scheme):
    """Contrast 3:1 to the background; CIE76 distance 15 as seen with each colour blindness."""
    # Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
    eyes = np.array(
        [
            *(1, 0, 0, 0, 1, 0, 0, 0, 1),
            *(0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216),
            *(-0.003882, -0.048116, 1.051998),
            *(0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413),
            *(-0.011820, 0.042940, 0.968881),
            *(1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602),
            *(0.004733, 0.691367, 0.303900),
        ]
    ).reshape(4, 3, 3)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )

    def linear(name):
        channels = np.array([int(COLOURS[name][scheme][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)

    def lab(rgb):
        t = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
        f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    def contrast(name):
        pair = [float(to_xyz[1] @ linear(n)) + 0.05 for n in (name, "paper")]
        return max(pair) / min(pair)

    series = [name for name in COLOURS if re.fullmatch(r"c\d", name)]
    assert all(contrast(name) >= 3 for name in series)
    assert contrast("ink") >= 7
    assert contrast("muted") >= 4.5
    for eye in eyes:
        seen = [lab(eye @ linear(name)) for name in series]
        for i, a in enumerate(seen):
            assert all(np.linalg.norm(a - b) >= 15 for b in seen[:i])


NAMED = ["the", "of, and", '"=x', "語", "a\nb", "<b>", "z"]


def named_cloud() -> Figure:
    x, y = [0.0, 0.1, 0.2, 0.1, 0.0, 0.2, 9.0], [0.0, 0.1, 0.0, 0.2, 0.1, 0.1, 9.5]
    return scatter_plot(
        [Points("tokens", x, y, 0, NAMED)], x_label="x", y_label="y", finding="One is far.", alt=""
    )


def drawn() -> list[Figure]:
    """A figure of each kind."""
    cells = [[None, 0.25], [0.75, None]]
    return [
        forest(),
        curves(horizontal=[("floor", 3.9)]),
        bands(),
        cloud(),
        named_cloud(),
        heat_map(
            ["x", "y"], cells, row_label="of", column_label="by", finding="Two cells.", alt=""
        ),
        dendrogram(["a", "b", "c"], [(0, 1, 0.5), (2, 3, 1.5)], x_label="d", finding="", alt=""),
        multiples(),
    ]


def multiples(names: tuple[str, ...] = ("one", "two", "three")) -> Figure:
    """Four panels: intervals, one row without a value, one without an interval, no value at all."""
    return small_multiples(
        names,
        [
            Panel("nats", [ROWS[0], ROWS[1], ROWS[4]], reference=0.03),
            Panel("with a gap", [ROWS[0], None, ROWS[4]]),
            Panel("no interval", [ROWS[3], ROWS[3], ROWS[3]], reference=0.0),
            Panel("empty", [None] * 3),
        ],
        finding="Three rows.",
        alt="Four panels.",
    )


def titles(figure: Figure) -> list[str]:
    return [title.text or "" for title in ET.fromstring(figure.drawing).iter("title")]


def test_what_is_drawn_says_its_value():
    rows, lines, banded, points, named, matrix, tree, panels = map(titles, drawn())
    assert rows[0] == "Natural text, English docstrings: 0.0213 [0.0180, 0.0246]"
    assert rows[3] == "Python source: 0.0489\nfewer than 5 clusters: no interval"
    assert len(rows) == len(ROWS)
    # every x of three seeds each; the loss at 100 is 4 + 0 / 20 + 500 / 150
    assert len(lines) == 29
    assert lines[0] == "step 100\nforward: 7.333, 7.383, 7.433\nbackward: 7.333, 7.383, 7.433"
    assert banded[1] == "step 10,000\nwith a band: 4.000 [3.600, 4.400]"
    assert len(points) == 3 * 6
    assert points[:2] == ["group 0: 0, 1.00", "group 0: 1.00, 0"]
    assert named[1] == "of, and: 0.100, 0.100"
    assert len(named) == len(NAMED)
    assert matrix == ["x × y: 0.2500", "y × x: 0.7500"]
    assert tree == ["0.5000: a, b", "1.500: c, a, b"]
    assert len(panels) == 3 + 2 + 3
    assert panels[0] == "nats, one: 0.0213 [0.0180, 0.0246]"
    assert panels[5] == "no interval, one: 0.0489"


def test_curves_with_many_points_tell_the_middle_ones():
    x = [float(v) for v in range(1, 5001)]
    told = titles(curves([Series("a", x, x)]))
    assert len(told) == 32
    steps = [int(text.split("\n")[0].split()[1].replace(",", "")) for text in told]
    assert np.allclose(np.diff(steps)[1:-1], 5000 * 1.04 / 32, atol=2)
    assert all(text.endswith(f"a: {number(step)}") for text, step in zip(told, steps, strict=True))


def test_the_farthest_points_have_their_names():
    shown = [e.text for e in ET.fromstring(named_cloud().drawing).iter("text")]
    assert "z" in shown
    # as far from the centre as any, but in the direction of the cloud
    along = [float(v) for v in range(20)]
    off = Points("p", [*along, 9.0], [*along, 12.0], 0, [f"p{i}" for i in range(20)] + ["off"])
    figure = scatter_plot([off], x_label="x", y_label="y", finding="", alt="")
    named = [e.text for e in ET.fromstring(figure.drawing).iter("text") if (e.text or "")[0] == "o"]
    assert named == ["off"]


def addresses(text: str) -> dict[str, str]:
    """The data links of a page, by the names of their files."""
    found = re.findall(r'class="csv" download="([^"]*)" href="([^"]*)"', text)
    assert len(found) == text.count('class="csv"')
    return {name: address.replace("&#x27;", "'").replace("&amp;", "&") for name, address in found}


def test_data_links_hold_the_data():
    figure, h = named_cloud(), HOSTILE
    table = Table([h, "n", "r"], [[h, 12345, Rounded(1 / 3, 2)], ["#%&", np.float64(0.1), 2.5]], h)
    links = addresses(page(figure, tables=[table]))
    assert set(links) == {"one-is-far.csv", "script-alert-1-script-q-x-2-a-id-p0-url-p0-010102.csv"}
    for (name, address), data in zip(links.items(), [figure.data, table], strict=True):
        assert data
        assert (data.file_name, data.csv()) == (name, unquote(address.partition(",")[2]))
        assert re.fullmatch(r"data:text/csv;charset=utf-8,[!$%()*+,./:;=?@\[\]|~\w-]*", address)
    header, *rows = csv.reader(io.StringIO(table.csv()))
    assert header == [SHOWN, "n", "r"]
    assert rows == [[SHOWN, "12345", repr(1 / 3)], ["#%&", "0.1", "2.5"]]
    assert figure.data
    assert [row[1] for row in csv.reader(io.StringIO(figure.data.csv()))] == ["name", *NAMED]


def test_figures_hold_what_they_show():
    rows, lines, banded, points, named, matrix, tree, panels = [f.data for f in drawn()]
    assert panels
    assert len(panels.rows) == 3 + 2 + 3
    assert rows and lines and banded and points and named and matrix and tree  # noqa: PT018
    assert rows.rows[0] == ["Natural text", "English docstrings", 0.0213, 0.018, 0.0246, ""]
    assert rows.rows[3][3:5] == ["", ""]
    assert len(lines.rows) == 6 * 29
    assert banded.columns[3:] == ["low", "high"]
    assert banded.rows[0] == ["with a band", 1000.0, 6.0, 5.4, 6.6]
    assert points.rows[0] == ["group 0", 0.0, 1.0]
    assert named.rows[1] == ["tokens", "of, and", 0.1, 0.1]
    assert matrix.rows == [["x", "y", 0.25], ["y", "x", 0.75]]
    assert tree.rows[1] == ["c", "a, b", 1.5]


def test_what_every_row_says_is_said_once():
    long = "docstrings:python, context 128"
    table = Table(["text", "order", "nats"], [[long, 6, 1.5], [long, 6, 2.5]], "c")
    text = page(tables=[table])
    assert text.count(long) == 1
    assert f"In every row text: {long}." in text
    assert '<th scope="row" class="n">6</th><td class="n">1.500</td>' in text
    assert table.csv().count(long) == 2
    assert page(tables=[Table(["text"], [[long], [long]], "c")]).count(f">{long}<") == 2
    note = "these documents only"
    figure = forest([ForestRow(name, 1, 0, 2, note) for name in "ab"], caption="Bars.")
    assert figure.caption == f"Bars. Every row: {note}."
    assert f">{note}<" not in figure.drawing


def test_a_page_folds_what_is_long():
    long = Table(["n"], [[i] for i in range(13)], "long")
    section = Section("Of a part", ["Words."], [forest()], [long])
    text = render_page("t", "s", [section], parts=[Part("p", "s", [section, section])])
    assert text.count('<details class="section" open>') == 2
    assert text.count('<details class="section">') == 1
    assert text.count('<details class="table">') == 3
    assert '<details class="table">' not in page(tables=[dataclasses.replace(long, rows=[[1]])])


# What is clipped or crosses another text in the drawings that are shown.
COLLISIONS = """(() => {
  const clipped = [], crossing = [];
  for (const svg of document.querySelectorAll("figure svg[role=img]")) {
    if (!svg.getClientRects().length) continue;
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent);
    const boxes = texts.map(t => t.getBoundingClientRect());
    boxes.forEach((a, i) => {
      if (a.left < box.left - 1 || a.right > box.right + 1 || a.top < box.top - 1 ||
          a.bottom > box.bottom + 1) clipped.push(texts[i].textContent);
      boxes.slice(0, i).forEach((b, j) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        // A line box is taller than its letters.
        if (wide > 1 && tall > 5)
          crossing.push(texts[i].textContent + " / " + texts[j].textContent);
      });
    });
  }
  return [clipped, crossing];
})()"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser(tmp_path: Path, browser: Browser, dark: bool):
    wide_row = ["a" * 60, 1.5, 12345678, "several words of text " * 3, 0.1, 0.2]
    table = Table(
        [f"column number {i}" for i in range(6)], [wide_row, [*wide_row[:1], *"bcdef"]], "A"
    )
    hostile = forest([ForestRow("x" * 90, 1e-7, 0, 2e-7, "n" * 90, "g" * 90)], caption="c" * 200)
    path = tmp_path / "page.html"
    text = page(*drawn(), hostile, title="t" * 80, tables=[table], sections=4)
    path.write_text(text, encoding="utf-8")
    for width in (1280, 900, 360, 320):
        browser.look(width=width, dark=dark)
        browser.open(path)
        assert browser.complaints() == []
        root = "document.documentElement"
        assert browser.value(f"{root}.scrollWidth") <= browser.value(f"{root}.clientWidth")
        assert browser.value(COLLISIONS) == [[], []]
        red = re.findall(r"\d+", browser.value("getComputedStyle(document.body).backgroundColor"))[
            0
        ]
        assert (int(red) < 60) == dark
        # the contents stay in sight, and leave the first screen to the finding
        browser.value("scrollTo(0, 3000)")
        assert browser.value("scrollY") > 1000
        assert 0 <= browser.value("document.querySelector('nav').getBoundingClientRect().top") < 60


@needs_chromium
def test_a_browser_complains_of_what_a_page_must_not_have(tmp_path: Path, browser: Browser):
    """The tests here would see a script, a request or a message, were there one."""
    path = tmp_path / "page.html"
    for more in ("<script>1</script>", '<img src="x.png">', "<style>@import 'y.css'</style>"):
        path.write_text(page(forest()).replace("</body>", f"{more}</body>"), encoding="utf-8")
        browser.open(path)
        assert browser.complaints()


@needs_chromium
def test_pointing_folding_and_saving_in_a_browser(tmp_path: Path, browser: Browser):
    rows = [[i, f"{i} % of 'x', \"y\" & #語"] for i in range(40)]
    table = Table(["n", "text"], rows, "A long table")
    passage = Passage("Colours.", [("one", 0.5), (" two", -1.0)], notes=["+0.5 nats", "−1 nats"])
    first = Section("First", ["Words."], drawn(), [table], [passage])
    path = tmp_path / "page.html"
    text = render_page("t", "s", parts=[Part("Part", "s", [first, Section("Other", ["Hidden."])])])
    path.write_text(text, encoding="utf-8")
    browser.look(width=1280)
    browser.open(path)

    # what the pointer is on has a title of its own; a strip is seen then
    def under(selector: str, number: int = 0) -> list:
        place = f"document.querySelectorAll('{selector}')[{number}]"
        browser.value(f"{place}.scrollIntoView({{block: 'center'}})")
        x, y = browser.value(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])({place}.getBoundingClientRect())"
        )
        browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return browser.value(
            "(e => { while (!e.title && !e.querySelector(':scope>title')) e = e.parentElement;"
            "const s = getComputedStyle([...document.querySelectorAll(':hover')].pop());"
            "return [e.title || e.querySelector(':scope>title').textContent, s.fillOpacity] })"
            f"(document.elementFromPoint({x}, {y}))"
        )

    assert under(".strip") == ["Natural text, English docstrings: 0.0213 [0.0180, 0.0246]", "0.09"]
    told = titles(curves())
    strips = len(ROWS)
    assert under(".strip use", 14) == [told[14], "0.09"]
    assert under("figure:nth-child(5) .tip use", 6)[0] == "z: 9.00, 9.50"
    assert under("figure:nth-child(6) .tip")[0] == "x × y: 0.2500"
    assert under(".passage span", 1)[0] == "−1 nats"
    assert strips == browser.value("document.querySelectorAll('figure:first-child .strip').length")

    # folded: not shown until opened, by hand, by a link, or for print
    seen = "document.querySelector('{}').checkVisibility()".format
    other, cells = seen("#section-1-2 p"), seen("details.table td")
    assert [browser.value(each) for each in (seen("#section-1-1 p"), other, cells)] == [
        True,
        False,
        False,
    ]
    browser.value("document.querySelector('summary.caption').click()")
    assert browser.value(cells)
    browser.value("document.querySelector('a[href=\"#section-1-2\"]').click()")
    browser.value("new Promise(requestAnimationFrame)")
    assert browser.value(other)
    browser.open(path)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert [browser.value(each) for each in (other, cells)] == [True, True]
    browser.send("Emulation.setEmulatedMedia", media="screen")

    # the file that a link saves
    browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    for earlier, (name, data) in enumerate(
        [("one-is-far.csv", named_cloud().data), ("a-long-table.csv", table)]
    ):
        assert data
        browser.value(f"document.querySelector('[download=\"{name}\"]').click()")
        browser.wait(
            lambda event: (
                event["method"] == "Page.downloadProgress"
                and event["params"]["state"] == "completed"
            ),
            earlier,
        )
        assert (tmp_path / "saved" / name).read_bytes() == data.csv().encode()
    assert browser.complaints() == []
