"""Tokenizers: text to ids and back, one shared by both directions.

Kinds: byte-level BPE trained on the training split, plain bytes, characters (synthetic sources),
any saved or Hub tokenizer, and the paper's control, BPE trained on reversed text.

Notable:
- Two ids stand apart from text: BOS, which begins every window, and the end-of-text token, which
  joins documents. Text that spells a special token is encoded as ordinary text.
- `reversed_text`: the text is reversed by code points before encoding and the ids are reversed
  after, so that ids always run in reading order and only the *merges* were learnt backwards.
- The fingerprint is a digest of everything that decides the ids; stores and checkpoints carry it.
- Masked models get a mask token when they are trained (`with_mask`), as one more id after all
  others. No text has it, so the fingerprint stays: one store serves every objective.
- A byte-level tokenizer (GPT-2's rule) begins a word at the first blank behind a letter or sign.
  So a long text is cut there before it is encoded or learnt from, since `tokenizers` takes far more
  memory than the text has bytes; and each word of many texts is encoded once (`_encode`). The ids
  are the same. Tokenizers with other rules get the whole text.
- A tokenizer from elsewhere may lose text: characters become <unk>, capitals small, accents are
  composed. `losses` compares each text with what its ids spell (`TextLoss`). Those that lmlab
  builds lose nothing.
- Saved as `tokenizer.json` and `tokenizer_config.json`, which plain transformers reads. A saved
  model's has a post-processor that adds what training puts around a text (`Surround`), so that
  whoever calls it feeds the model what it was trained on. A store's has none of ours: one store
  serves every objective, and its files are part of its fingerprint. lmlab itself never asks a
  tokenizer of its own for special tokens, and the fingerprint is that of the tokenizer without the
  addition.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lmlab.config import digest
from lmlab.config.hub import where_from
from lmlab.config.numbers import Options
from lmlab.durable import from_json
from lmlab.errors import UserError
from lmlab.progress import say

BOS = "<|bos|>"
END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"


@dataclass(frozen=True)
class TokenizerConfig(Options, prefix="tokenizer."):
    """How text becomes ids."""

    kind: Literal["bpe", "bytes", "characters", "pretrained"] = "bpe"
    """bpe and characters are learnt from the training split; pretrained is loaded from `name`."""
    vocabulary: int = 8192
    """Size of the learnt BPE vocabulary, special tokens included."""
    reversed_text: bool = False
    """Learn and apply BPE on reversed text (the control of Papadopoulos et al. 2024)."""
    name: str | None = None
    """Folder or Hub name of a pretrained tokenizer; or a store or run, for the one it has."""

    def __post_init__(self) -> None:
        if self.kind == "pretrained" and not self.name:
            raise UserError(
                "`tokenizer.kind` pretrained needs `tokenizer.name` (folder or Hub name)"
            )
        if self.kind != "pretrained" and self.name:
            raise UserError(
                f"`tokenizer.name` is for `tokenizer.kind` pretrained, not for {self.kind}"
            )
        if self.kind == "bpe" and self.vocabulary < 258:
            raise UserError(
                f"`tokenizer.vocabulary` {self.vocabulary}: byte-level BPE needs at least 258 (256 "
                "bytes and 2 special tokens); use `tokenizer.kind` bytes for no merges"
            )


@dataclass(frozen=True)
class TextLoss:
    """What a tokenizer lost of documents: what their ids spell is not the text that was read.

    Bits per byte divide by the bytes of the text that was read, so with a loss they are those of
    another text.
    """

    documents: int = 0
    """Those whose ids spell something else."""
    bytes: int = 0
    """UTF-8 bytes of characters that do not come back, at least (an occurrence each)."""
    unknown: int = 0
    """Tokens that stand for whatever the vocabulary lacks (<unk>)."""

    def __add__(self, other: TextLoss) -> TextLoss:
        return TextLoss(
            self.documents + other.documents,
            self.bytes + other.bytes,
            self.unknown + other.unknown,
        )

    def __bool__(self) -> bool:
        return bool(self.documents or self.unknown)


def loss_note(
    loss: TextLoss,
    *,
    documents: int,
    text_bytes: int,
    unit: str = "documents",
    meaning: str,
) -> str:
    """A sentence on what was lost of so many documents (or another `unit`) and bytes, and what that
    means."""
    unknown = f", {loss.unknown:,} tokens are <unk>" if loss.unknown else ""
    return (
        f"the tokenizer loses text: {loss.documents:,} of {documents:,} {unit} do not come "
        f"back from their tokens, at least {loss.bytes / max(text_bytes, 1):.2%} of the bytes"
        f"{unknown}; {meaning}"
    )


@dataclass(frozen=True)
class Surround:
    """What training puts around a text, and how long the whole may be."""

    ends: bool
    """Whether the end-of-text token stands behind it; BOS always stands before it."""
    longest: int
    """Tokens, special ones counted."""
    segments: bool = False
    """Whether the model embeds which of two texts a token is of."""


_GROUP = 400_000  # characters
_PIECE = 20_000  # characters
_KNOWN = 2_000_000  # characters of words whose ids are kept: some 50 MB
_WORD = re.compile(r"[ \n\r\t]*[^ \n\r\t]+|[ \n\r\t]+")
_ODD_BLANK = re.compile(r"[^\S \n\r\t]")  # of which Python and `tokenizers` may think otherwise
_BEFORE_BLANK = re.compile(r"\S(?=[ \n])")
_T = TypeVar("_T")


def groups(items: Iterable[_T], characters: Callable[[_T], int]) -> Iterator[list[_T]]:
    """Runs of items of just 400,000 characters or more in all (the last run: of less)."""
    group: list[_T] = []
    total = 0
    for item in items:
        group.append(item)
        total += characters(item)
        if total >= _GROUP:
            yield group
            group, total = [], 0
    if group:
        yield group


def cut_at_blanks(text: str) -> Iterator[str]:
    """Pieces of a text that begin with a blank or line end behind a letter or sign, of about
    20,000 characters: a byte-level tokenizer cuts words there too."""
    start = 0
    while len(text) - start > _PIECE and (cut := _BEFORE_BLANK.search(text, start + _PIECE)):
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]


class TextTokenizer:
    """A `tokenizers.Tokenizer` with lmlab's conventions.

    Attributes: `backend`, `bos_id`, `end_of_text_id`, `mask_id` (None without one),
    `reversed_text`, `vocabulary` (the highest id and one), `ids` (those that are tokens, in order),
    `fingerprint`.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        bos_id: int,
        end_of_text_id: int,
        mask_id: int | None = None,
        reversed_text: bool = False,
        undressed: str | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True  # "<|bos|>" in a document is text like any other
        self.backend = backend
        self.bos_id, self.end_of_text_id = bos_id, end_of_text_id
        self.mask_id = mask_id
        self.reversed_text = reversed_text
        self._undressed = undressed
        """As JSON, the post-processor that the backend had before ours; None if it still has it."""
        self._words: dict[str, bytes] = {}  # ids of words that were encoded
        self._room = _KNOWN
        self.ids = np.array(sorted({*backend.get_vocab(with_added_tokens=True).values()}))
        self.vocabulary = int(self.ids[-1]) + 1

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides the ids of text."""
        described = self._described()
        described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] != MASK]
        return digest(
            {
                "tokenizer": described,
                "bos": self.bos_id,
                "end_of_text": self.end_of_text_id,
                "reversed_text": self.reversed_text,
            }
        )

    def _described(self) -> dict[str, Any]:
        """The backend as JSON has it, without a post-processor of ours."""
        described = json.loads(self.backend.to_str())
        if self._undressed is not None:
            described["post_processor"] = json.loads(self._undressed)
        return described

    def with_mask(self) -> TextTokenizer:
        """This tokenizer if it has a mask token, else one that does, with the same fingerprint."""
        if self.mask_id is not None:
            return self
        backend = Tokenizer.from_str(self.backend.to_str())
        backend.add_special_tokens([MASK])
        mask_id = backend.token_to_id(MASK)
        assert mask_id is not None, "it was just added"
        if mask_id in self.ids:
            raise UserError(
                "this tokenizer's ids have gaps, so that a mask token would get the id of "
                f"{self.backend.id_to_token(mask_id)!r}; number its vocabulary "
                "without gaps, or give it a mask token of its own"
            )
        return TextTokenizer(
            backend, bos_id=self.bos_id, end_of_text_id=self.end_of_text_id, mask_id=mask_id,
            reversed_text=self.reversed_text, undressed=self._undressed,
        )  # fmt: skip

    @property
    def special_ids(self) -> list[int]:
        """Ids that stand for no text."""
        added = self.backend.get_added_tokens_decoder()
        return sorted(i for i, token in added.items() if token.special)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (int64) of each text in reading order, without special tokens; uses all cores."""
        if self.reversed_text:
            texts = [text[::-1] for text in texts]
        parts: list[list[np.ndarray]] = [[] for _ in texts]
        try:
            for group in groups(self._pieces(texts), lambda part: len(part[1])):
                ids_of = self._encode([piece for _, piece in group])
                for (number, _), ids in zip(group, ids_of, strict=True):
                    parts[number].append(ids)
        except Exception as error:  # `tokenizers` has no class of its own for this
            known = set(self.backend.get_vocab())
            unknown = sorted({c for text in texts for c in text} - known)
            raise UserError(
                f"the tokenizer cannot encode this text ({error}); characters outside its "
                f"alphabet: {unknown[:10]!r}"
            ) from error
        ids = [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]
        return [i[::-1] for i in ids] if self.reversed_text else ids

    def _pieces(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Pieces of the texts, each behind the number of its text, that give the same ids."""
        for number, text in enumerate(texts):
            if len(text) > _PIECE and self._cuts_at_blanks:
                yield from ((number, piece) for piece in cut_at_blanks(text))
            else:
                yield number, text

    def _encode(self, pieces: list[str]) -> list[np.ndarray]:
        """Ids of each piece; of many, put together from those of their words, which come again."""
        if sum(map(len, pieces)) < _PIECE or not self._cuts_at_blanks:
            encoded = self.backend.encode_batch_fast(pieces, add_special_tokens=False)
            return [np.asarray(each.ids, dtype=np.int64) for each in encoded]
        cut = [[piece] if _ODD_BLANK.search(piece) else _WORD.findall(piece) for piece in pieces]
        known = self._words
        new = list(set[str]().union(*cut).difference(known))
        encoded = self.backend.encode_batch_fast(new, add_special_tokens=False)
        known.update((w, array("I", e.ids).tobytes()) for w, e in zip(new, encoded, strict=True))
        self._room -= sum(map(len, new))
        if self._room < 0:
            self._words, self._room = {}, _KNOWN
        joined = (b"".join(map(known.__getitem__, words)) for words in cut)
        return [np.frombuffer(ids, dtype=np.uintc).astype(np.int64) for ids in joined]

    @cached_property
    def _cuts_at_blanks(self) -> bool:
        """Whether words, as the tokenizer has them, begin at a blank or before it: GPT-2's rule."""
        described = json.loads(self.backend.to_str())
        cut = described["pre_tokenizer"] or {}
        return (
            cut.get("type") == "ByteLevel"
            and cut.get("use_regex", True)
            and not cut["add_prefix_space"]
            and described["normalizer"] is None
            and not described["model"].get("dropout")
            and all(token["special"] for token in described["added_tokens"])
        )

    def encode_with_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids (n,) as `encode_batch`, and the characters [start, stop) of each, (n, 2) int64."""
        read = [text[::-1] for text in texts] if self.reversed_text else list(texts)
        encoded = []
        for text, encoding in zip(
            texts, self.backend.encode_batch(read, add_special_tokens=False), strict=True
        ):
            ids = np.asarray(encoding.ids, dtype=np.int64)
            spans = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            if self.reversed_text:
                ids, spans = ids[::-1], len(text) - spans[::-1, ::-1]
            encoded.append((ids, spans))
        return encoded

    def encode(self, text: str) -> np.ndarray:
        """Ids (int64) of one text in reading order, without special tokens."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of ids in reading order; special tokens are left out."""
        plain = [int(i) for i in ids]
        if self.reversed_text:
            return self.backend.decode(plain[::-1], skip_special_tokens=True)[::-1]
        return self.backend.decode(plain, skip_special_tokens=True)

    @cached_property
    def bytes_V(self) -> np.ndarray | None:
        """UTF-8 bytes of text that each id stands for, (V,) int64, special tokens none; None where
        an id's text depends on what is around it (SentencePiece, WordPiece, an added first blank).
        """
        parts = json.loads(self.backend.to_str())
        coding = [parts["pre_tokenizer"], *(parts["pre_tokenizer"] or {}).get("pretokenizers", [])]
        kind = (parts["decoder"] or {}).get("type")
        if parts["normalizer"] or any((part or {}).get("add_prefix_space") for part in coding):
            return None
        if kind == "ByteLevel":  # a character of a token's name is a byte
            sizes = {i: len(name) for name, i in self.backend.get_vocab().items()}
            added = self.backend.get_added_tokens_decoder()
            sizes |= {i: len(token.content.encode("utf-8")) for i, token in added.items()}
        elif kind == "Fuse" and parts["model"]["type"] == "WordLevel":
            sizes = {i: len(name.encode("utf-8")) for name, i in self.backend.get_vocab().items()}
        else:
            return None
        bytes_V = np.zeros(self.vocabulary, dtype=np.int64)
        bytes_V[list(sizes)] = list(sizes.values())
        bytes_V[self.special_ids] = 0
        return bytes_V

    @cached_property
    def unknown_id(self) -> int | None:
        """The id that stands for whatever the vocabulary lacks; None without one."""
        model = json.loads(self.backend.to_str())["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self.backend.token_to_id(token)

    def losses(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> list[TextLoss]:
        """What is lost of each text, whose ids (as of `encode_batch`) are given."""
        unknown = -1 if self.unknown_id is None else self.unknown_id
        known = [each[each != unknown] for each in ids]
        ordered = [each[::-1] for each in known] if self.reversed_text else known
        spelt = self.backend.decode_batch(
            [each.tolist() for each in ordered], skip_special_tokens=True
        )
        if self.reversed_text:
            spelt = [text[::-1] for text in spelt]
        losses: list[TextLoss] = []
        for text, back, of_text, kept in zip(texts, spelt, ids, known, strict=True):
            gone = len(of_text) - len(kept)
            if text == back and not gone:
                losses.append(TextLoss())
                continue
            lost = (Counter(text) - Counter(back)).items()
            size = sum(len(c.encode("utf-8")) * count for c, count in lost)
            losses.append(TextLoss(1, size, gone))
        return losses

    @property
    def begins_with(self) -> str:
        """The token that stands before each window in place of text, and its id."""
        return f"{self.backend.id_to_token(self.bos_id)} (id {self.bos_id})"

    def token(self, token_id: int) -> str:
        """The text of one token, as it adds to a text before it.

        A SentencePiece decoder takes the first blank from whatever it is given: here it stays.
        """
        text = self.backend.decode([int(token_id)], skip_special_tokens=False)
        name = self.backend.id_to_token(int(token_id)) or ""
        if name.startswith("▁") and "▁" not in text:  # not a letter of the text's own
            return name.replace("▁", " ")
        return text

    def files(self, surround: Surround | None = None) -> dict[str, bytes]:
        """`tokenizer.json` and `tokenizer_config.json` as bytes, of a model with what `surround`
        says around a text."""
        bos, end = (self.backend.id_to_token(i) for i in (self.bos_id, self.end_of_text_id))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": end,
            "pad_token": end,
            "clean_up_tokenization_spaces": False,
            "lmlab_reversed_text": self.reversed_text,
        }
        if self.mask_id is not None:
            config["mask_token"] = self.backend.id_to_token(self.mask_id)
        if surround is None and self._undressed is None:
            saved = self.backend.to_str(pretty=True)
        else:
            described = self._described()
            if surround is not None:
                config |= {
                    "model_max_length": surround.longest,
                    **({"cls_token": bos, "sep_token": end} if surround.ends else {}),
                    **({"model_input_names": list(_SEGMENTED)} if surround.segments else {}),
                    _UNDRESSED: described["post_processor"],
                }
                described["post_processor"] = self._post_processor(
                    surround, described["post_processor"]
                )
            saved = Tokenizer.from_str(json.dumps(described)).to_str(pretty=True)
        return {
            "tokenizer.json": saved.encode("utf-8"),
            "tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode("utf-8"),
        }

    def _post_processor(self, surround: Surround, before: Any) -> dict[str, Any]:
        """BOS text END, of a pair BOS text END other END (the last END only where it `ends`), in
        the JSON of `tokenizers`; `before` is the post-processor whose place it takes."""
        bos, end = (self.backend.id_to_token(i) for i in (self.bos_id, self.end_of_text_id))

        def special(token: str | None, segment: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": token, "type_id": segment}}

        def text(name: str, segment: int) -> dict[str, Any]:
            return {"Sequence": {"id": name, "type_id": segment}}

        first, last = [special(bos, 0), text("A", 0)], [text("B", 1)]
        if surround.ends:
            last.append(special(end, 1))
        around = {
            "type": "TemplateProcessing",
            "single": [*first, special(end, 0)] if surround.ends else first,
            "pair": [*first, special(end, 0), *last],
            "special_tokens": {
                token: {"id": token, "ids": [i], "tokens": [token]}
                for token, i in ((bos, self.bos_id), (end, self.end_of_text_id))
            },
        }
        offsets = _offsets_only(before)
        if not offsets:
            return around
        return {"type": "Sequence", "processors": [*offsets, around]}


_UNDRESSED = "lmlab_post_processor"
_SEGMENTED = ("input_ids", "token_type_ids", "attention_mask")


def _offsets_only(post_processor: Any) -> list[dict[str, Any]]:
    """What a post-processor (as JSON) does to the characters of tokens, without the tokens that it
    adds: GPT-2's and RoBERTa's leave blanks out of them."""
    kind = (post_processor or {}).get("type")
    if kind == "Sequence":
        return [part for each in post_processor["processors"] for part in _offsets_only(each)]
    if kind == "ByteLevel":
        return [post_processor]
    if kind == "RobertaProcessing":
        names = ("add_prefix_space", "trim_offsets")
        kept = {name: post_processor[name] for name in names}
        return [{"type": "ByteLevel", **kept, "use_regex": True}]
    return []


def load_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer that `TextTokenizer.files` saved in `folder`.

    Raises `UserError` where the files are missing or damaged.
    """
    try:
        backend = Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
        config = from_json((folder / "tokenizer_config.json").read_bytes())
        bos, end = (backend.token_to_id(config[k]) for k in ("bos_token", "eos_token"))
        mask = backend.token_to_id(config["mask_token"]) if "mask_token" in config else None
        reversed_text = bool(config["lmlab_reversed_text"])
        undressed = json.dumps(config[_UNDRESSED]) if _UNDRESSED in config else None
    except FileNotFoundError as error:
        raise UserError(f"{folder}: tokenizer file missing: {error.filename}") from error
    except Exception as error:  # `tokenizers` raises plain Exception for damaged files
        raise UserError(f"{folder}: the tokenizer files are damaged: {error}") from error
    if bos is None or end is None:
        raise UserError(f"{folder}: the tokenizer files are damaged: special tokens are missing")
    return TextTokenizer(
        backend, bos_id=bos, end_of_text_id=end, mask_id=mask, reversed_text=reversed_text,
        undressed=undressed,
    )  # fmt: skip


def is_own_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds a tokenizer that lmlab saved."""
    try:
        config = from_json((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "lmlab_reversed_text" in config


def pretrained_tokenizer(name: str) -> TextTokenizer:
    """A saved or Hub tokenizer, or that of a store or run. BOS falls back to CLS, then to the
    end-of-text token."""
    path = Path(name)
    for place in (path, path / "tokenizer", *sorted(path.glob("checkpoints/step-*"))):
        if is_own_tokenizer(place):
            return load_tokenizer(place)
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(**where_from(name), trust_remote_code=False)
    except Exception as error:
        raise UserError(f"tokenizer '{name}' cannot be loaded: {error}") from error
    tokenizer = from_transformers(name, loaded)
    _say_other_reading(name, loaded.backend_tokenizer, type(loaded).__name__)
    return tokenizer


def from_transformers(name: str, loaded: Any) -> TextTokenizer:
    """A tokenizer object of transformers, `name` in errors.

    Raises `UserError` for one that is not fast, or has no token to join documents.
    """
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(f"tokenizer '{name}' has no fast (tokenizers) form, which lmlab needs")
    end = _first(loaded.eos_token_id, loaded.sep_token_id, loaded.pad_token_id)
    bos = _first(loaded.bos_token_id, loaded.cls_token_id, end)
    if bos is None or end is None:
        raise UserError(
            f"tokenizer '{name}' has neither an end-of-text nor a separator token to join documents"
        )
    return TextTokenizer(
        Tokenizer.from_str(backend.to_str()),
        bos_id=bos,
        end_of_text_id=end,
        mask_id=loaded.mask_token_id,
    )


_SAMPLE = "It's 1234 words -- of the (usual) kinds:\n  caf\u00e9, na\u00efve."
"""Text on which tokenizers differ that cut words, numbers, blanks or accents in other ways."""


def _say_other_reading(name: str, backend: Tokenizer, kind: str) -> None:
    """Says where transformers gives a folder's tokenizer the rules of the model's architecture
    (Qwen2, and others that it lists), which make other ids than its own `tokenizer.json`."""
    try:
        own = Tokenizer.from_file(str(Path(name) / "tokenizer.json"))
    except Exception:  # not a folder with such a file, which `tokenizers` has no class of error for
        return
    own.no_truncation()
    theirs = backend.encode(_SAMPLE, add_special_tokens=False).ids
    if theirs != own.encode(_SAMPLE, add_special_tokens=False).ids:
        say(
            f"{name}: transformers reads its tokenizer as a {kind}, which makes other ids of text "
            "than its tokenizer.json does. lmlab follows transformers; a model that was trained on "
            "the ids of tokenizer.json does not know these, and its scores mean nothing"
        )


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


def build_tokenizer(config: TokenizerConfig, training_texts: Iterable[str]) -> TextTokenizer:
    """The tokenizer that `config` asks for; `training_texts` is read only where it is learnt."""
    if config.kind == "pretrained":
        assert config.name is not None
        return pretrained_tokenizer(config.name)
    if config.kind == "characters":
        return character_tokenizer(sorted({c for text in training_texts for c in text}))
    if config.kind == "bytes":
        vocabulary = {token: i for i, token in enumerate(_ALPHABET)}
        return _with_ids(_byte_level(models.BPE(vocab=vocabulary, merges=[])))
    return train_bpe(training_texts, config.vocabulary, reversed_text=config.reversed_text)


_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def _byte_level(model: models.BPE) -> Tokenizer:
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_ids(backend: Tokenizer, *, reversed_text: bool = False) -> TextTokenizer:
    backend.add_special_tokens([BOS, END_OF_TEXT])
    bos, end = backend.token_to_id(BOS), backend.token_to_id(END_OF_TEXT)
    assert bos is not None
    assert end is not None
    return TextTokenizer(backend, bos_id=bos, end_of_text_id=end, reversed_text=reversed_text)


def train_bpe(
    texts: Iterable[str], vocabulary: int, *, reversed_text: bool = False
) -> TextTokenizer:
    """Byte-level BPE of `vocabulary` ids in all (fewer where the text has no more merges)."""
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, END_OF_TEXT],
        initial_alphabet=_ALPHABET,
        show_progress=False,
    )
    read = (
        piece for text in texts for piece in cut_at_blanks(text[::-1] if reversed_text else text)
    )
    backend.train_from_iterator(read, trainer=trainer)
    return _with_ids(backend, reversed_text=reversed_text)


def character_tokenizer(alphabet: Sequence[str]) -> TextTokenizer:
    """One id a character: ids 0.. in the order of `alphabet`, then BOS and end of text.

    A character outside the alphabet is a `UserError` at encoding.
    """
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    if len(vocabulary) != len(alphabet) or any(len(c) != 1 for c in alphabet):
        raise UserError("a character alphabet must be distinct single characters")
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return _with_ids(backend)
