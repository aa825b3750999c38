"""Colours and style sheet of the page.

Notable:
- Every colour of the page and its figures is one CSS variable with a light and a dark value; the
  figures are drawn once, in marker colours that `svg.tidy` turns into these variables.
- The series colours are apart from one another under the three kinds of colour blindness, and at
  least 3:1 from the background in both schemes (a test computes both).
- Printing uses the light scheme.
"""

from __future__ import annotations

# name: (light, dark)
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fcfcfa", "#17191c"),
    "box": ("#f1f3f1", "#202428"),
    "ink": ("#1d2023", "#e6e6e2"),
    "muted": ("#5c6166", "#a0a6ab"),
    "rule": ("#dcdeda", "#363b40"),
    "c0": ("#0b4fa0", "#4a8fe8"),
    "c1": ("#b0341c", "#f5613c"),
    "c2": ("#028a76", "#2fc17f"),
    "c3": ("#742f78", "#d994d9"),
    "c4": ("#c07c00", "#e5da52"),
    "c5": ("#323538", "#c9d0d4"),
}
SERIES_COLOURS = sum(name.startswith("c") for name in COLOURS)

# What matplotlib is told to draw in, and the variable it stands for.
MARKERS: dict[str, str] = {f"#0101{i:02x}": name for i, name in enumerate(COLOURS)}
_BY_NAME = {name: marker for marker, name in MARKERS.items()}


def marker(name: str) -> str:
    """The colour to give matplotlib where the page's variable `name` is meant."""
    return _BY_NAME[name]


def _variables(scheme: int) -> str:
    return "".join(f"--{name}:{values[scheme]};" for name, values in COLOURS.items())


PASSAGE_LEVELS = 5
"""Steps of colour in a passage of text."""


def _passage_levels() -> str:
    return "".join(
        f".{kind}{level}{{background:color-mix(in srgb,var(--{colour}) {11 * level}%,transparent)"
        f"{underline}}}"
        for kind, colour, underline in (
            ("a", "c0", ""),
            ("b", "c1", ";text-decoration:underline dotted var(--c1) 2px"),
        )
        for level in range(1, PASSAGE_LEVELS + 1)
    )


CSS = f"""
:root{{color-scheme:light dark;{_variables(0)}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%;text-size-adjust:100%}}
body{{margin:0;background:var(--paper);color:var(--ink);overflow-wrap:break-word;
font:1rem/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
body>*{{max-width:46rem;margin-inline:auto;padding-inline:1rem}}
h1{{font-size:1.9rem;line-height:1.2;letter-spacing:-.01em;margin:0 0 1.25rem;text-wrap:balance}}
h2{{font-size:1.3rem;line-height:1.3;margin:3.5rem 0 .75rem;text-wrap:balance}}
h3{{font-size:1.15rem;line-height:1.3;margin:2.5rem 0 .75rem;text-wrap:balance}}
.part{{margin-top:4.5rem;border-top:1px solid var(--rule)}}
.part>h2{{font-size:1.5rem;margin:2rem 0 1rem}}
.part>.summary{{font-size:1rem}}
p{{margin:0 0 1rem}}
a{{color:var(--c0)}}
header{{padding-top:3rem}}
.summary{{background:var(--box);border-inline-start:4px solid var(--c0);border-radius:4px;
padding:1rem 1.25rem;font-size:1.1rem;line-height:1.5}}
.summary p:last-child{{margin:0}}
nav ul{{list-style:none;margin:1.5rem 0 0;padding:0;columns:2 14rem;font-size:.95rem}}
nav li{{break-inside:avoid}}
nav ul ul{{margin:.15rem 0 .9rem;columns:1;font-size:.875rem}}
nav ul ul a{{color:var(--muted)}}
figure{{margin:2rem 0 2.5rem}}
.finding{{font-weight:600;line-height:1.45;margin:0 0 .6rem}}
.legend{{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.4rem;margin:0 0 .6rem;padding:0;
font-size:.875rem;color:var(--muted)}}
.legend li{{display:flex;align-items:flex-start;gap:.5rem;min-width:0}}
.legend li span{{min-width:0}}
figure svg{{display:block;width:100%;height:auto}}
figure svg.key{{flex:none;width:26px;height:12px;margin-top:.32rem}}
figure svg *{{stroke-linejoin:round;stroke-linecap:butt}}
figure svg text{{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
sans-serif!important;font-variant-numeric:tabular-nums;white-space:pre}}
.halo text{{paint-order:stroke;stroke:var(--paper);stroke-width:3px}}
.narrow{{display:none;max-width:26rem}}
@media (max-width:37.5rem){{.wide{{display:none}}.narrow{{display:block}}
h1{{font-size:1.6rem}}header{{padding-top:1.75rem}}}}
figcaption,caption,footer{{font-size:.875rem;line-height:1.5;color:var(--muted)}}
figcaption{{margin-top:.6rem}}
.passage{{white-space:pre-wrap;line-height:1.9;font-family:Georgia,"Times New Roman",serif;
font-size:1.05rem;background:var(--box);border-radius:4px;padding:.75rem 1rem}}
.passage span{{border-radius:3px;text-underline-offset:3px}}{_passage_levels()}
.scroll{{container-type:inline-size;overflow-x:auto;margin:2rem 0 2.5rem;max-width:100%}}
table{{border-collapse:collapse;min-width:100%;font-size:.9375rem;line-height:1.4}}
caption{{position:sticky;left:0;max-width:100cqi;text-align:start;padding-bottom:.6rem;color:var(--ink);font-weight:600;font-size:1rem}}
th,td{{text-align:start;font-weight:400;padding:.4rem 1.25rem .4rem 0;vertical-align:baseline;
min-width:6rem;border-bottom:1px solid var(--rule);overflow-wrap:normal}}
th:last-child,td:last-child{{padding-inline-end:0}}
thead th{{color:var(--muted);font-size:.875rem;border-bottom-color:var(--muted);
vertical-align:bottom}}
.n{{text-align:end;min-width:5rem;font-variant-numeric:tabular-nums;white-space:nowrap}}
thead .n{{white-space:normal}}
footer{{margin-top:4rem;padding-bottom:3rem}}
footer p{{border-top:1px solid var(--rule);padding-top:1rem;white-space:pre-line}}
@media print{{figure,.scroll{{break-inside:avoid}}}}
""".replace("\n", "")
