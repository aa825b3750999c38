"""How options are written on a command line: names, their order, and what users type instead.

An option of a section may be written with its section (`--optimizer.learning-rate`) or, where only
one section has it, without (`--learning-rate`), as the keywords of Python are (`from_keywords`).
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from lmlab.errors import UserError

Place = tuple[str, ...]

ELSEWHERE: Mapping[str, Sequence[str]] = {
    name: (words,) if isinstance(words, str) else words
    for names, words in {
        "lr max_lr": "learning_rate",
        "batch_size bs train_batch_size per_device_train_batch_size": "batch",
        "per_device_eval_batch_size eval_batch_size": "batch",
        "gradient_accumulation_steps": "micro_batch",
        "num_train_epochs n_epochs num_epochs epoch": "epochs",
        "max_steps max_iters num_steps n_steps iters iterations step": "steps",
        "max_tokens num_tokens n_tokens max_new_tokens": "tokens",
        "n_layer n_layers num_layers num_hidden_layers depth layer": "layers",
        "n_head n_heads num_heads num_attention_heads head_count": "heads",
        "n_embd d_model hidden_size hidden dim embedding_dim": "width",
        "block_size seq_len seq_length sequence_length max_length max_seq_length n_positions "
        "n_ctx ctx context_length context_size": "context",
        "vocab_size vocab n_vocab": "vocabulary",
        "model_size model_name": "size",
        "output_dir out_dir output outdir save_dir o": "out",
        "data dataset dataset_name data_dir train_file input file files corpus corpora source "
        "texts": ("text", "store"),
        "model_name_or_path model_path checkpoint ckpt init_from pretrained run name_or_path":
            ("model", "path"),
        "seed num_seeds n_seeds seeds": ("seeds", "seed"),
        "warmup_ratio warmup_steps warmup_iters": "warmup",
        "lr_scheduler_type scheduler lr_schedule": "kind",
        "optim": "optimizer.name",
        "wd": "weight_decay",
        "grad_clip max_grad_norm clip_grad": "clip",
        "adam_beta1 adam_beta2 beta1 beta2": "betas",
        "adam_epsilon eps": "epsilon",
        "eval_steps eval_interval eval_every logging_steps log_interval": "evaluate_every",
        "eval_iters": "evaluation_windows",
        "save_steps save_every save_interval": "every",
        "save_total_limit": "keep",
        "bf16 fp16 precision torch_dtype": "dtype",
        "torch_compile": "compile",
        "num_return_sequences num_samples n_samples n": "count",
        "temp": "temperature",
        "topk": "top_k",
        "use_cpu no_cuda gpu cuda": "device",
        "num_workers num_threads n_threads": "threads",
        "max_samples max_train_samples num_fewshot": "limit",
        "task": "tasks",
        "arch model_type": "architecture",
        "direction reverse backward": "order",
        "loss": "objective",
        "tie_word_embeddings tie_weights": "tied",
        "resume resume_from_checkpoint": (),
    }.items()
    for name in names.split()
}  # fmt: skip
"""What the Hugging Face Trainer, nanoGPT and others call an option of ours, or used to."""


@dataclass(frozen=True)
class Names:
    """The names of a configuration's options."""

    hints: Mapping[Place, Any]
    """The type of every option by its place, those of sections after the configuration's own."""
    known: Mapping[str, Sequence[Place]]
    """Places by name, one for a name that is clear."""

    def find(self, name: str) -> Place:
        """The place of a name with underscores. Raises `UserError` if there is none or several."""
        dotted = tuple(name.split("."))
        if dotted in self.hints:
            return dotted
        places = self.known.get(name, ())
        if len(places) == 1:
            return places[0]
        if places:
            ways = " or ".join(f"`{'.'.join(place)}`" for place in places)
            raise UserError(f"option `{name}` could be {ways}; write which")
        raise UserError(f"unknown option `{name}`{self._hint(name)}")

    def switched(self, name: str) -> tuple[Place, bool]:
        """As `find`, and whether the name says `no_` before that of a switch."""
        section, dot, last = name.rpartition(".")
        if last.startswith("no_"):
            with suppress(UserError):
                place = self.find(section + dot + last.removeprefix("no_"))
                if takes(self.hints[place]) == 0:
                    return place, True
        return self.find(name), False

    def short(self, place: Place) -> str:
        """The shortest name of a place."""
        return place[-1] if self.known[place[-1]] == [place] else ".".join(place)

    def _hint(self, name: str) -> str:
        last = name.rpartition(".")[2]
        if last.startswith("resume"):
            return "; the same command goes on with a run that was stopped"
        spoken = [each for each in ELSEWHERE.get(last, ()) if self._has(each)]
        near = spoken or difflib.get_close_matches(name, [*self.known], n=1, cutoff=0.6)
        return f"; did you mean `{near[0]}`?" if near else ""

    def _has(self, name: str) -> bool:
        return name in self.known or tuple(name.split(".")) in self.hints


def path_taken(words: list[str], name: str) -> Path | None:
    """The path that is given to an option beside those of a configuration, taken out of the words
    with its name; None where it is not given."""
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == name:
            if not equals and at + 1 == len(words):
                raise UserError(f"{name} needs the path of a TOML file")
            path = Path(value if equals else words[at + 1])
            del words[at : at + (1 if equals else 2)]
            return path
    return None


_THOUSANDS = re.compile(r"(\d+(?:\.\d+)?)([KMB])", re.ASCII | re.IGNORECASE)


class Word(str):
    """A word of a command line; where a number or a switch is wanted, it says one. A whole number
    may be written 100K, 10M or 1.5B."""

    def meant(self, hint: Any) -> Any:
        if hint is bool:
            return {"true": True, "false": False}.get(self.lower(), str(self))
        if hint is int and (number := _THOUSANDS.fullmatch(self)):
            value = Decimal(number[1]) * 1000 ** ("KMB".index(number[2].upper()) + 1)
            return int(value) if value == int(value) else str(self)
        with suppress(ValueError):
            return hint(self) if hint in (int, float) else str(self)
        return str(self)


def names_of(kind: type) -> Names:
    """The names of the options of a dataclass."""
    hints = _hints(kind)
    known: dict[str, list[Place]] = {}
    for place in hints:
        same = known.setdefault(place[-1], [])
        if place[-1:] not in same:  # a field of its own hides those of its sections
            same.append(place)
    for place in hints:
        if len(place) > 1:
            known.setdefault("_".join(place), [place])
    return Names(hints, known)


def _hints(kind: type) -> dict[Place, Any]:
    hints = typing.get_type_hints(kind)
    names = [f.name for f in fields(kind) if f.init]
    sections = [name for name in names if is_dataclass(hints[name])]
    return {(name,): hints[name] for name in names if name not in sections} | {
        (name, *place): hint for name in sections for place, hint in _hints(hints[name]).items()
    }


def words_by_place(
    kind: type, words: Sequence[str], positional: Sequence[str]
) -> dict[Place, list[Word]]:
    """The words of a command line by the option they are for, also those of `positional`, which may
    stand without a name, in this order, wherever no option takes them.

    A switch says true or false. An option that is a table, `--over NAME VALUES...`, may be given
    several times; the place of an entry is the table's and its name. Raises `UserError` for an
    unknown option (naming the nearest), a word too many and an entry that is given twice.
    """
    names = names_of(kind)
    rest, bare, given = [Word(word) for word in words], [], {}
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            bare.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        place, negated = names.switched(name.replace("-", "_"))
        if negated and equals:
            raise UserError(f"`{name}` takes no value")
        own = [Word(value)] if equals else []
        count = 0 if equals else takes(names.hints[place])
        while rest and count and not rest[0].startswith("--"):
            own.append(rest.pop(0))
            count -= 1
        if takes(names.hints[place]) == 0 and not own:
            own.append(Word(not negated))
        if is_table(names.hints[place]):
            place, own = (*place, *own[:1]), own[1:]
            if not own or place in given:
                raise UserError(f"`{place[0]}` takes a name and its values, each name once")
        if place in given and takes(names.hints[place]) > 2:  # a list goes on
            own = [*given[place], *own]
        given[place] = own
    for name in positional:
        place = names.find(name)
        count = 0 if place in given else min(len(bare), takes(names.hints[place]))
        if count:
            given[place] = bare[:count]
            del bare[:count]
    if bare:
        raise UserError(f"{bare[0]!r}: no option takes this word")
    return given


def is_table(hint: Any) -> bool:
    """Whether an option of this type has entries by name."""
    return typing.get_origin(hint) is dict


def takes(hint: Any) -> int:
    """How many words an option of this type takes at most."""
    options = [hint]
    if is_table(hint):
        return 1 << 30
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [each for each in typing.get_args(hint) if each is not type(None)]
    if len(options) > 1:  # one thing or another
        return max(map(takes, options))
    if typing.get_origin(options[0]) is tuple:
        items = typing.get_args(options[0])
        return 1 << 30 if Ellipsis in items else len(items)
    return 0 if options[0] is bool else 1
