"""What an exported model says of itself: a model card, and how a text has to be given to it.

The card is README.md with the front matter that the Hub reads. It says what the model is, what it
was trained on and for how long, the scores that it is given, and the lines of Python that load it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from lmlab.config import read_toml
from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.store import TokenStore
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, which_tower
from lmlab.models.build import parameters
from lmlab.pages.page import Table
from lmlab.pages.text import cell, one_line
from lmlab.run_folders.checkpoint import read_json_file, usable_checkpoint
from lmlab.run_folders.journal import read_journal
from lmlab.run_folders.rundir import stored_config
from lmlab.run_folders.words import words_seen


def reads_otherwise(lm: LanguageModel) -> dict[str, str]:
    """What config.json and generation_config.json say of a model that does not read a text's ids as
    its tokenizer gives them; nothing for any other."""
    backward, reversed_text = lm.order == BACKWARD, lm.tokenizer.reversed_text
    if lm.order not in (FORWARD, BACKWARD):
        how = (
            f"the ids of a text in the order {lm.order} of lmlab, behind BOS; read it with lmlab "
            "(lmlab.load)"
        )
    elif backward and reversed_text:
        how = "tokenizer(text[::-1]): its tokenizer was learnt from reversed text"
    elif backward:
        how = "BOS, then the ids of a text from last to first"
    elif reversed_text:
        how = (
            "BOS, then tokenizer(text[::-1], add_special_tokens=False) from last to first: its "
            "tokenizer was learnt from reversed text"
        )
    else:
        return {}
    generates = ". What it generates stands before the text" if backward else ""
    return {"lmlab_order": lm.order, "lmlab_reads": f"{how}{generates}"}


class Scores(NamedTuple):
    """A result that was measured of the model, as the card shows it."""

    title: str
    tables: Sequence[Table]


def model_card(
    lm: LanguageModel,
    model: Any,
    name: str,
    *,
    record: Mapping[str, Any],
    own_code: bool,
    scores: Sequence[Scores] = (),
) -> str:
    """README.md of the folder (or REPOSITORY@REVISION) `name` that holds `model`, made of `lm`, a
    model of lmlab; `record` is the folder's lmlab.json."""
    masked = not lm.objective.reading.autoregressive
    reads = reads_otherwise(lm)
    order = "" if lm.order == FORWARD else f", {lm.order}"
    tags = ["lmlab", lm.objective.name, *([lm.order.partition(":")[0]] if order else [])]
    task = "fill-mask" if masked else "text-generation"
    surround = "between BOS and the end-of-text token" if masked else "behind BOS"
    lines = [
        "---", "library_name: transformers", f"pipeline_tag: {task}",
        "tags:", *(f"- {tag}" for tag in dict.fromkeys(tags)), "---", "",
        f"# {one_line(name)}", "",
        f"A language model trained with lmlab {version('lmlab')}: {type(model).__name__} of "
        f"{parameters(model):,} weights, objective {lm.objective.name}{order}; its output "
        f"embedding is {record['head']}. It was trained on windows of {lm.context:,} tokens, "
        f"and reads a text {surround}, which its tokenizer adds.",
    ]  # fmt: skip
    if lm.order == BACKWARD:
        lines += ["", "**It reads backward**: each token is predicted from those behind it."]
    if reads:
        lines += ["", f"It has to be given: {reads['lmlab_reads']}."]
    for changed in ("pruned", "steered"):
        if f"{changed}_from" in record:
            lines += ["", f"**It was {changed}** after it was trained (results.json)."]
    lines += ["", "## Data and budget", "", *_training(lm)]
    lines += ["", "## Scores", "", *_scores(lm, scores)]
    place, _, revision = name.partition("@") if "published_as" in record else (name, "", "")
    loading = _loading(lm, place, revision, masked=masked, own_code=own_code)
    lines += ["", "## How to load it", "", *loading]
    return "\n".join(lines) + "\n"


def _training(lm: LanguageModel) -> list[str]:
    settings, checkpoint = lm.record.get("training", {}), _checkpoint(lm)
    lines = []
    store = _store(checkpoint, settings.get("store_fingerprint"))
    if store is None:
        lines += [f"- Text: a token store that is not here ({settings.get('store_fingerprint')})"]
    else:
        train = store.splits["train"]
        lines += [
            f"- Text: {_sources(store)}",
            f"- Training split: {train.documents:,} documents, "
            + (f"{train.words.count:,} words, " if train.words else "")
            + f"{train.text_bytes:,} bytes, {train.tokens:,} tokens of a vocabulary of "
            f"{store.vocabulary:,}",
        ]
    seen = None
    if (checkpoint / "state.json").is_file():
        seen = read_json_file(checkpoint / "state.json").get("tokens")
    steps = lm.record.get("step")
    budget = "- Budget: unknown" if steps is None else f"- Budget: {steps:,} steps"
    if "batch" in settings:
        budget += f" of {settings['batch']:,} windows"
    if isinstance(seen, int):
        budget += f", {seen:,} tokens predicted"
        if store is not None and lm.objective.reading.name == "causal":  # predicts all it reads
            budget += f", {seen / store.splits['train'].tokens:.3g} passes over the split"
    if store is not None and store.splits["train"].words and "batch" in settings:
        config = stored_config(checkpoint.parent.parent)
        budget += f"; {words_seen(config, store.split('train'), steps or 0):,} words seen"
    lines.append(budget)
    if optimizer := settings.get("optimizer"):
        lines.append(
            f"- {optimizer['name']}, learning rate {optimizer['learning_rate']:g}, seed "
            f"{settings.get('seed')}"
        )
    if lm.record.get("parent"):
        lines.append(f"- It went on from another model ({Path(lm.record['parent']).name})")
    return lines


def _checkpoint(lm: LanguageModel) -> Path:
    return usable_checkpoint(which_tower(Path(lm.name))[0])


def _store(checkpoint: Path, fingerprint: str | None) -> TokenStore | None:
    """The store that a run was trained on, where it still lies there."""
    config = checkpoint.parent.parent / "config.toml"
    if not config.is_file():
        return None
    try:
        store = TokenStore(Path(read_toml(config).get("store", "")))
    except UserError:
        return None
    return store if store.fingerprint == fingerprint else None


def _sources(store: TokenStore) -> str:
    """The names of what the text was read from; no place of this machine."""
    names: list[str] = []
    for source in store.manifest["request"].get("sources", ()):
        for part in source if isinstance(source, list) else [source]:
            names.append(one_line(source_name(part)))
    if not names:
        return "made by lmlab"
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def source_name(part: Any) -> str:
    """The name of a source, by how `prepare` records it."""
    if not isinstance(part, dict):
        return str(part)[:80]
    if "file" in part:
        return Path(part["file"]).name
    if "hub" in part:
        return part["hub"] if part["revision"] is None else f"{part['hub']}@{part['revision']}"
    return ", ".join(part)  # the default corpus, and the versions that it is of


def _scores(lm: LanguageModel, scores: Sequence[Scores]) -> list[str]:
    lines: list[str] = []
    journal = _checkpoint(lm).parent.parent / "journal.jsonl"
    at = [
        record["validation_nats_per_token"]
        for record in (read_journal(journal) if journal.is_file() else ())
        if record.get("step") == lm.record.get("step") and "validation_nats_per_token" in record
    ]
    if at:
        lines += [
            f"Validation loss while it was trained: {at[-1]:.4f} nats per token of its own "
            "tokenizer, on a sample of windows, without an interval.", "",
        ]  # fmt: skip
    for title, tables in scores:
        lines += [f"### {one_line(title)}", ""]
        for table in tables:
            lines += [*_markdown(table), ""]
    if not scores:
        lines.append("No other score was given to `lmlab export` (`--scores FOLDER...`).")
    elif lines[-1] == "":
        lines.pop()
    return lines


def _markdown(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(one_line(c).replace("|", "\\|") for c in cells) + " |"

    values = [[cell(v, where=table.caption)[0] for v in cells] for cells in table.rows]
    dashes = ["---"] * len(table.columns)
    return [row(table.columns), row(dashes), *map(row, values), "", one_line(table.caption)]


def _loading(
    lm: LanguageModel, name: str, revision: str, *, masked: bool, own_code: bool
) -> list[str]:
    kind = "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"
    options = f', revision="{revision}"' if revision else ""
    options += ", trust_remote_code=True" if own_code else ""
    reversed_text = lm.tokenizer.reversed_text
    text = "text[::-1]" if reversed_text else "text"
    ids = f"tokenizer({text}).input_ids"
    if lm.objective.reading.ends and reversed_text:
        ids = f"{ids}[:1] + {ids}[-2:0:-1] + {ids}[-1:]"
    elif (lm.order == BACKWARD) != reversed_text:
        ids = f"{ids}[:1] + {ids}[:0:-1]"
    lines = [
        "```python",
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}"{options})',
        f'model = {kind}.from_pretrained("{name}"{options})',
    ]
    if lm.order in (FORWARD, BACKWARD):
        lines += [f"ids = {ids}  # special tokens included"]
    lmlab_name = f"{name}@{revision}" if revision else name
    lines += ["```", ""]
    lines += [f'With lmlab: `lmlab.load("{lmlab_name}")`, which runs no code of the folder.']
    if own_code:
        lines += [
            "", "transformers has no class for this model: the Python files beside it are lmlab's "
            "own, and run where `trust_remote_code=True` allows it.",
        ]  # fmt: skip
    lines += [
        "", "Text that spells a special token is read as that token by transformers (unless the "
        "tokenizer is given `split_special_tokens=True`), and as text by lmlab.",
    ]  # fmt: skip
    return lines
