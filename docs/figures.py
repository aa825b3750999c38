"""Makes the pictures of the documentation: `python docs/figures.py [NAME ...] [--lab FOLDER]`.

Every picture is one function here, registered under its name by `@picture`; it writes
docs/images/NAME.svg (a figure of a result, by its own `save`) or NAME.png (a page of a result, as a
browser shows it). A function trains what it needs, or reads data that is committed in docs.

Notable:
- Models are as small as they come (`nano`, a window of 64 tokens, the standard library's
  docstrings) and trained by one thread, so one machine draws the same picture again.
- What is trained is kept in the folder of `--lab` (default lab/figures, which git ignores) and is
  not trained twice. The script works in that folder, so a picture shows `lab/forward`, never where
  this machine keeps it.
- A picture of a page needs Chromium; where there is none, those pictures are left out and named.
- A figure is drawn on its own light paper, so it can be read on a dark page too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

import lmlab
from lmlab.cli import main as command
from lmlab.extend import Series, line_plot
from lmlab.functional import two_way_interval
from lmlab.pages.page import Figure, Section, render_page
from lmlab.topics.tour.tour import Tour

IMAGES = Path(__file__).resolve().parent / "images"
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)


@dataclass(frozen=True)
class Page:
    """The top of an HTML page, as a browser of this size shows it."""

    path: Path
    width: int = 800
    height: int = 600


PICTURES: dict[str, Callable[[], Figure | Page]] = {}


def picture(function: Callable[[], Figure | Page]) -> Callable[[], Figure | Page]:
    """Registers a function under its name, with hyphens."""
    PICTURES[function.__name__.replace("_", "-")] = function
    return function


@cache
def store() -> lmlab.TokenStore:
    """The text of the how-to pages: docstrings of the standard library, in 1024 types."""
    return lmlab.prepare("docstrings:python", "lab/text", vocabulary=1024)


@cache
def run(name: str, **options: str | int | float) -> lmlab.Run:
    """A tiny run in lab/NAME, as the how-to pages train it."""
    asked = {"size": "nano", "context": 64, "steps": 150, "threads": 1, **options}
    return lmlab.train(store(), out=f"lab/{name}", **asked)


def page(name: str, html: str, *, width: int = 800, height: int = 600) -> Page:
    """A page that is written for its picture only."""
    path = Path("lab/pages") / f"{name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, "utf-8")
    return Page(path, width, height)


@picture
def compare_two() -> Figure:
    """how-to/score-and-compare: one run of each of two architectures, by kind of token."""
    return lmlab.compare([run("qwen"), run("gpt2", architecture="gpt2")], store()).figures()[2]


@picture
def training_curve() -> Figure:
    """how-to/train-on-my-text: the loss of one run."""
    return run("qwen").course().figures()[0]


@picture
def surprisal() -> Page:
    """how-to/surprisal: a sentence in colour."""
    text = "Return a list of the names in the directory, or raise an error if it does not exist."
    report = lmlab.surprisal(run("qwen"), text).report
    passages = [Section("The text", passages=report.sections[0].passages)]
    return page("surprisal", render_page(report.title, report.summary, passages), height=620)


@picture
def start_surprisal() -> Page:
    """start: the sentence of its fourth step in colour."""
    result = lmlab.surprisal(run("qwen"), "Return a list of the names in the directory.")
    return Page(result.save("lab/results/start") / "report.html", height=620)


@picture
def geometry() -> Figure:
    """how-to/geometry: how many directions the states fill, by layer."""
    return lmlab.geometry(run("qwen"), store()).figures()[0]


@picture
def tune() -> Figure:
    """how-to/choose-settings: four learning rates, three seeds each."""
    rates = [0.003, 0.01, 0.03, 0.1]
    options = {"size": "nano", "context": 64, "steps": 100, "threads": 1}
    return lmlab.tune(store(), {"learning_rate": rates}, seeds=3, **options).figures()[0]


@picture
def kinds() -> Figure:
    """how-to/is-a-better-than-b: two architectures, three seeds each."""
    models = {
        "qwen3": [run("qwen"), run("qwen-1", seed=1), run("qwen-2", seed=2)],
        "gpt2": [
            run("gpt2", architecture="gpt2"),
            run("gpt2-1", architecture="gpt2", seed=1),
            run("gpt2-2", architecture="gpt2", seed=2),
        ],
    }
    return lmlab.compare(models, store()).figures()[0]


@picture
def finetune() -> Figure:
    """how-to/finetune: is a docstring's first paragraph of a function or of a class?"""
    texts = run_block("finetune", "kinds.jsonl")
    models = [run("qwen"), run("gpt2", architecture="gpt2")]
    options = {"learning_rate": 5e-4, "epochs": 4, "length": 48, "seeds": 3}
    return lmlab.finetune(models, f"jsonl={texts}", **options).figures()[0]


@picture
def steer() -> Figure:
    """how-to/steer-and-prune: one word made half as frequent."""
    return lmlab.steer(run("qwen"), {" the": 0.5}, store()).figures()[0]


@picture
def prune() -> Figure:
    """how-to/steer-and-prune: the loss of dimensions."""
    return lmlab.prune(run("qwen"), store()).figures()[0]


@picture
def tasks() -> Figure:
    """how-to/babylm: pairs of sentences in five sets."""
    pairs = run_block("babylm", "pairs")
    return lmlab.evaluate(run("qwen"), f"blimp={pairs}").figures()[0]


@picture
def model_card() -> Page:
    """how-to/export-and-publish: how the card of an exported model begins."""
    scores = lmlab.score(run("qwen"), store()).save("lab/results/score")
    folder = Path("lab/exported")
    if not folder.exists():
        lmlab.export(run("qwen"), folder, scores=[scores])
    card = (folder / "README.md").read_text("utf-8")
    style = "white-space:pre-wrap;font:13px/1.4 monospace;margin:1.5em"
    return page("model-card", f'<pre style="{style}">{escape(card)}</pre>', height=560)


@picture
def arrow() -> Figure:
    """how-to/cluster: the small study that two workers share."""
    options = {"size": "nano", "context": 64, "seeds": 2, "tokens": 200_000}
    return lmlab.study("arrow", text=str(store().path), **options).figures()[0]


@picture
def lab_index() -> Page:
    """how-to/tidy: the list of all pages of a lab."""
    lmlab.tune(store(), {"steps": [20, 40]}, seeds=1, size="nano", context=64, threads=1)
    subprocess.run([sys.executable, "-m", "lmlab", "report", "lab"], check=True)
    return Page(Path("lab/index.html"), height=520)


def run_block(page: str, made: str) -> Path:
    """The file or folder that a how-to page makes with the Python in its shell block."""
    text = (IMAGES.parent / "how-to" / f"{page}.md").read_text("utf-8")
    (code,) = re.findall(r"^python - <<'END'\n(.*?)^END$", text, re.MULTILINE | re.DOTALL)
    folder = Path("lab/made")
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-"], input=code, text=True, check=True, cwd=folder)
    return folder / made


@cache
def toured() -> Tour:
    """All studies in small, by `lmlab tour`: five minutes where they are not there."""
    if not Path("lab/tour/results.json").is_file():
        command(["tour", "--lab", "lab"])
    result = lmlab.read("lab/tour")
    assert isinstance(result, Tour)
    return result


@picture
def tour() -> Page:
    """index: how the page of the tour begins."""
    toured()
    return Page(Path("lab/tour/report.html"), width=560, height=980)


@picture
def study_arrow() -> Figure:
    """arrow: the arrow with its interval."""
    return toured().arrow.figures()[0]


@picture
def study_arrow_counting() -> Figure:
    """arrow: what counted n-grams see."""
    return toured().arrow.figures()[1]


@picture
def study_headless() -> Figure:
    """headless: all heads against the baseline."""
    return toured().headless.figures()[0]


@picture
def study_headless_repeated() -> Figure:
    """headless: repeated and new tokens."""
    return toured().headless.figures()[1]


@picture
def study_towers() -> Figure:
    """towers: the spread of preferences, by kind of towers."""
    return toured().towers.figures()[0]


@picture
def study_decomposition() -> Figure:
    """decomposition: each model from all others."""
    return toured().decomposition.figures()[0]


@picture
def study_decomposition_pairs() -> Figure:
    """decomposition: each model from one other."""
    return toured().decomposition.figures()[3]


@picture
def study_encoding() -> Figure:
    """encoding: tokens, predicted and actual."""
    return toured().encoding.figures()[0]


@picture
def study_encoding_dimensions() -> Figure:
    """encoding: how many dimensions it takes."""
    return toured().encoding.figures()[3]


@picture
def intervals_cover() -> Figure:
    """concepts/intervals: how often three kinds of interval hold a difference that is known."""
    seeds, experiments = [2, 3, 4, 6, 8], 1000
    held = np.array([[_held(n, experiment) for experiment in range(experiments)] for n in seeds])
    ways = ("lmlab: seeds and text", "bootstrap of seeds and text", "text alone")
    per_cent = 100 * held.mean(1)
    return line_plot(
        [Series(way, seeds, list(per_cent[:, n]), colour=n) for n, way in enumerate(ways)],
        x_label="seeds",
        y_label="intervals that hold the truth, per cent",
        finding="Intervals that leave out the seeds, or draw them anew, hold the truth too seldom.",
        alt="Three curves over the number of seeds; only that of lmlab stays near 95 per cent.",
        horizontal=[("95 per cent", 95.0)],
    )


def _held(seeds: int, experiment: int, documents: int = 12) -> list[bool]:
    """Whether each kind of interval holds the mean, 0, of one made-up experiment."""
    rng = np.random.default_rng([seeds, experiment])
    values_SC = rng.normal(size=(seeds, 1)) + rng.normal(size=(1, documents))
    values_SC = values_SC + 0.3 * rng.normal(size=(seeds, documents))
    drawn_S = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=500) / seeds
    drawn_C = rng.multinomial(documents, np.full(documents, 1 / documents), size=500) / documents
    means = np.einsum("bs,sc,bc->b", drawn_S, values_SC, drawn_C)
    ends = [
        two_way_interval(values_SC).bounds,
        tuple(np.quantile(means, [0.025, 0.975])),
        two_way_interval(values_SC.mean(0)[None]).bounds,
    ]
    return [each is not None and each[0] <= 0 <= each[1] for each in ends]


def draw(name: str) -> Path | None:
    """Makes one picture and returns its file; None where there is no browser to draw it."""
    drawn = PICTURES[name]()
    if isinstance(drawn, Figure):
        drawn.save(IMAGES / f"{name}.svg")
        return IMAGES / f"{name}.svg"
    if CHROMIUM is None:
        return None
    path = IMAGES / f"{name}.png"
    subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--force-device-scale-factor=1.5", f"--window-size={drawn.width},{drawn.height}",
            f"--screenshot={path}", drawn.path.resolve().as_uri(),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    with Image.open(path) as image:  # a page has few colours, and this is a third of the bytes
        image.convert("RGB").quantize(64).save(path, optimize=True)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--lab", type=Path, default=Path("lab/figures"))
    asked = parser.parse_args(arguments)
    if unknown := set(asked.names) - set(PICTURES):
        parser.error(f"no picture {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    asked.lab.mkdir(parents=True, exist_ok=True)
    os.chdir(asked.lab)
    left_out = [name for name in asked.names or PICTURES if _drawn(name) is None]
    if left_out:
        sys.exit(f"no Chromium here: left out {', '.join(left_out)}")


def _drawn(name: str) -> Path | None:
    path = draw(name)
    if path is not None:
        print(f"docs/images/{path.name}", flush=True)
    return path


if __name__ == "__main__":
    main()
