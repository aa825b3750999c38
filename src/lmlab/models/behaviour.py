"""What a model is, asked of the model itself with a few short inputs; no name decides.

- Causal or bidirectional: a later token that moves an earlier output means bidirectional.
- Repeatable: reading the same again, in a batch with others, gives the same again.
- Padding: tokens put behind a text (hidden by the attention mask, where the model is
  bidirectional) leave its outputs as they were.
- Length: the rows of a learnt table of absolute positions, less those that it never reads (RoBERTa
  and its relatives count from the padding id, OPT from 2), seen as the model looks them up; and
  what its configuration declares, under any of the usual names.

Notable:
- Six forward passes over at most 16 tokens, in evaluation mode.
- Ids are drawn by a seed of its own, without those that a configuration names: a padding id moves
  positions, an image's id asks for an image.
- What counts as moved is held against what a token moves at its own position, and against rounding.

Shapes: B batch, T tokens, V vocabulary or width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from lmlab.errors import UserError

ASSUMED_LENGTH = 1024
"""Tokens of a window where nothing bounds a model's input."""
_SEED = 0x9B0BE
_TOKENS = 16
_FILLER = 4
_MOVED = 1e-5
"""Share of a token's own effect from which on another output counts as moved."""
_DRAWN = 1e-3
"""Share of a token's own effect from which on a second reading counts as another one."""
_ROUNDINGS = 64
"""So many rounding errors of the largest output are still rounding."""
_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "seq_length",
    "seq_len",
    "context_length",
    "max_context_length",
    "max_target_positions",
)

Read = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Behaviour:
    """What short inputs show of a model."""

    bidirectional: bool
    """A later token moves an earlier output."""
    repeatable: bool
    """The same input gives the same output, whatever else is in the batch, and nothing is drawn."""
    takes_padding: bool
    """Padding behind a text changes nothing before it."""
    table: Table | None
    """Its table of absolute positions; None where it looks none up."""


@dataclass(frozen=True)
class Table:
    """A learnt table of absolute positions: `rows` of them, the first token at row `first`."""

    rows: int
    first: int


@dataclass(frozen=True)
class InputLength:
    """Tokens, special ones counted, that fit a model; None where nothing bounds them."""

    tokens: int | None
    basis: str
    """Where that stands, in words."""


@torch.no_grad()
def behaviour(model: Any) -> Behaviour:
    """Tries the model out, and leaves it as it was.

    Raises `UserError` where it cannot read a short text, or its outputs are not finite.
    """
    try:
        with evaluating(model):
            return _tried(model)
    except UserError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError,
            TypeError, ValueError) as error:  # fmt: skip
        raise UserError(
            f"{type(model).__name__} cannot read a text of {_TOKENS} tokens: "
            f"{type(error).__name__}: {error}"
        ) from error


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode, for the duration."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def input_length(model: Any, table: Table | None) -> InputLength:
    """How long a model's input may be: what its table of positions holds and its configuration
    declares, the smaller of the two."""
    declared = declared_length(model.config)
    if table is not None and (declared is None or table.rows - table.first <= declared[1]):
        offset = f", of which it reads those from {table.first} on" if table.first else ""
        return InputLength(table.rows - table.first, f"its table of {table.rows} positions{offset}")
    if declared is not None:
        return InputLength(declared[1], f"{declared[0]} of its configuration")
    return InputLength(None, "no table of positions, and no length in its configuration")


def probe_ids(model: Any, count: int) -> torch.Tensor:
    """`count` ids (T,) of the model's vocabulary, different where there are enough, without those
    that its configuration names."""
    rows = len(model.get_input_embeddings().weight)
    named = set(_named_ids(model.config.to_dict()))
    usual = np.array([i for i in range(rows) if i not in named])
    ids = usual if len(usual) > 1 else np.arange(rows)
    drawn = np.random.default_rng(_SEED).permutation(ids)
    return torch.from_numpy(np.resize(drawn, count)).to(next(model.parameters()).device)


def _named_ids(values: Mapping[str, Any]) -> Iterator[int]:
    """Ids of special tokens and placeholders in a configuration, nested ones too."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _named_ids(value)
        elif "token" in str(name) and str(name).endswith(("_id", "_ids", "_index")):
            yield from (i for i in np.ravel(value).tolist() if isinstance(i, int))


def _tried(model: Any) -> Behaviour:
    read = _reader(model)
    ids_T = probe_ids(model, _TOKENS)
    table = _table(model, read, ids_T)
    declared = declared_length(model.config)
    length = min(
        _TOKENS,
        _TOKENS if table is None else table.rows - table.first,
        _TOKENS if declared is None else declared[1],
    )
    ids_T = ids_T[:length]
    alone_TV = read(ids_T[None])[0]
    check_finite(model, alone_TV)
    other_T = ids_T.roll(1)
    cuts = sorted({max(1, length // 2), length - 1})
    rows_BT = torch.stack([ids_T, *(torch.cat([ids_T[:at], other_T[at:]]) for at in cuts)])
    again_TV, *changed_TV = read(rows_BT)
    rounding = _ROUNDINGS * torch.finfo(alone_TV.dtype).eps * float(alone_TV.abs().max())
    effects = [
        (_apart(again_TV[:at], other_TV[:at]), _apart(again_TV[at:], other_TV[at:]))
        for at, other_TV in zip(cuts, changed_TV, strict=True)
    ]
    bidirectional = any(earlier > _MOVED * own + rounding for earlier, own in effects)
    largest = max(own for _, own in effects)
    padding_apart = _padding_apart(read, ids_T, masked=bidirectional)
    return Behaviour(
        bidirectional=bidirectional,
        repeatable=_apart(alone_TV, again_TV) <= _DRAWN * largest + rounding
        and not _draws(read, ids_T[None]),
        takes_padding=padding_apart <= _MOVED * largest + rounding,
        table=table,
    )


def _reader(model: Any) -> Read:
    """Logits, or last hidden states of a body, float32 at least: (B, T, V)."""
    if type(model).__name__.endswith("Classification"):  # gives one output a text
        model = model.base_model
    uncached = uncached_option(model)

    def read(ids_BT: torch.Tensor, attention_BT: torch.Tensor | None = None) -> torch.Tensor:
        mask = {} if attention_BT is None else {"attention_mask": attention_BT}
        output = model(input_ids=ids_BT, **mask, **uncached)
        output_BTV = output.logits if "logits" in output else output.last_hidden_state
        # a token may be impossible: a logit of minus infinity
        lowest = torch.finfo(output_BTV.dtype).min / 4
        return output_BTV.masked_fill(output_BTV == -torch.inf, lowest)

    return read


def _draws(read: Read, ids_1T: torch.Tensor) -> bool:
    """Whether reading draws from the global generator, which is put back. A model that seeds it
    each time (Reformer with a `hash_seed`) leaves it as it did before."""
    on = [ids_1T.device] if ids_1T.device.type == "cuda" else []

    def state() -> torch.Tensor:
        return torch.cuda.get_rng_state(on[0]) if on else torch.get_rng_state()

    with torch.random.fork_rng(devices=on):
        before = state()
        read(ids_1T)
        if torch.equal(before, once := state()):
            return False
        read(ids_1T)
        return not torch.equal(once, state())


def uncached_option(module: Any) -> dict[str, bool]:
    """`use_cache=False` for a module that takes it, or hands all that it is given to one within
    (BART's decoder): a cache that nobody reads is waste."""
    parameters = inspect.signature(module.forward).parameters
    rest = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    hands_on = {p.kind for p in parameters.values()} == rest
    return {"use_cache": False} if "use_cache" in parameters or hands_on else {}


def check_finite(model: Any, output_TV: torch.Tensor) -> None:
    """`UserError` unless all outputs of a text are finite."""
    wrong_T = ~output_TV.isfinite().all(dim=-1)
    if not wrong_T.any():
        return
    at = int(wrong_T.nonzero()[0])
    weights = [n for n, p in model.named_parameters() if not bool(p.isfinite().all())]
    reason = (
        f"weight '{weights[0]}' holds values that are not finite"
        if weights
        else "its weights are finite, so something overflows on the way"
    )
    raise UserError(
        f"{type(model).__name__}: its logits are not finite at position {at} of a text of "
        f"{len(output_TV)} tokens; {reason}"
    )


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def padding_is_harmless(model: Any, length: int, padded: int, *, bidirectional: bool) -> bool:
    """Whether a text of `length` random ids has the same last hidden states when it is padded to
    `padded`: some models choose what they attend to by the length of the row (BigBird).

    Raises `UserError` for a model that draws random numbers as it reads.
    """
    body = getattr(model, "base_model", model)
    with evaluating(body):
        read, ids_1T = _reader(body), probe_ids(model, padded)[None]
        alone_TV = read(ids_1T[:, :length])[0]
        attention_1T = (torch.arange(padded, device=ids_1T.device) < length).long()[None]
        filled_1TV = read(ids_1T, attention_1T if bidirectional else None)
        change_TV = filled_1TV[0, :length] - alone_TV
        harmless = float(change_TV.norm()) <= _MOVED * float(alone_TV.norm())
        drawn = not harmless and _draws(read, ids_1T)
    if drawn:
        raise UserError(
            f"{type(model).__name__} draws random numbers when it reads {padded} tokens, so no "
            "score of such a text could be repeated"
        )
    return harmless


def _padding_apart(read: Read, ids_T: torch.Tensor, *, masked: bool) -> float:
    """How far padding moves the outputs of a text before it; infinite where it cannot be hidden."""
    kept = max(1, len(ids_T) - _FILLER)
    text_1T, filled_1T = ids_T[None, :kept], ids_T[None].clone()
    filled_1T[:, kept:] = ids_T[0]
    attention_1T = torch.ones_like(filled_1T)
    attention_1T[:, kept:] = 0
    try:
        filled_1TV = read(filled_1T, attention_1T if masked else None)
    except TypeError:  # it knows no attention mask
        return float("inf")
    return _apart(read(text_1T)[0], filled_1TV[0, :kept])


class _Lookups(TorchFunctionMode):
    """Notes the table of every lookup whose indices count up by one along the tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.tables: list[Table] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.nn.functional.embedding, torch.embedding):
            first, second = args[0], args[1] if len(args) > 1 else kwargs["weight"]
            weight, indices = (second, first) if second.is_floating_point() else (first, second)
            # one row of them; some models pad it themselves (Longformer)
            if indices.numel() == indices.shape[-1] >= self.tokens:
                first_T = indices.flatten()[: self.tokens]
                if bool((first_T.diff() == 1).all()):
                    self.tables.append(Table(len(weight), int(first_T[0])))
        return func(*args, **kwargs)


def _table(model: Any, read: Read, ids_T: torch.Tensor) -> Table | None:
    """The smallest table of absolute positions that the model looks up."""
    # falling ids, so that the text itself does not count up
    text_1T = ids_T[:3].sort(descending=True).values[None]
    while True:
        with _Lookups(text_1T.shape[1]) as lookups:
            try:
                read(text_1T)
            except (IndexError, RuntimeError):  # a table of fewer positions
                if text_1T.shape[1] == 1:
                    raise
                text_1T = text_1T[:, :-1]
                continue
        break
    return min(lookups.tables, key=lambda t: t.rows - t.first, default=None)


def declared_length(config: Any) -> tuple[str, int] | None:
    """A length in a configuration of text, and its name."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _LENGTHS:
        value = getattr(text, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return name, value
    return None
