"""Surprisal of words against sums over all documents of a tiny model, and the nats of texts.

Shapes: T tokens, V vocabulary, N positions, W words.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

import lmlab
from helpers import tiny_training
from lmlab.cli import main
from lmlab.config.model import ModelConfig
from lmlab.data.order import BACKWARD, FORWARD
from lmlab.data.tokenizers import TextTokenizer, character_tokenizer
from lmlab.errors import UserError
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.lm.likelihood import Request, log_likelihoods
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.topics.surprisal.surprisal import surprisal
from lmlab.topics.surprisal.texts import Text, read_texts, texts_of_words
from lmlab.topics.surprisal.words import edges_of, word_spans
from lmlab.training.loop import train

TOKENS = 5  # of the longest document of `Finite`


class Finite(nn.Module):
    """A causal model in float64 whose documents have at most 5 tokens, so that all can be summed.

    The next token depends on the last one and on the position.
    """

    def __init__(self, tokenizer: TextTokenizer, seed: int) -> None:
        super().__init__()
        vocabulary, end = tokenizer.vocabulary, tokenizer.end_of_text_id
        shape = (64, vocabulary, vocabulary)
        logits_TVV = 1.5 * np.random.default_rng(seed).standard_normal(shape)
        logits_TVV[:, :, tokenizer.bos_id] = -1e9
        logits_TVV[TOKENS:, :, np.arange(vocabulary) != end] = -1e9
        self.logits_TVV = nn.Parameter(torch.from_numpy(logits_TVV), requires_grad=False)
        self.embedding = nn.Embedding(vocabulary, 2)
        self.config = SimpleNamespace(model_type="lmlab_finite", name_or_path="finite")

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        position_T = torch.arange(input_ids.shape[1])
        return SimpleNamespace(logits=self.logits_TVV[position_T, input_ids])


def finite(tokenizer: TextTokenizer, order: str = FORWARD, *, seed: int = 0) -> LanguageModel:
    model = Finite(tokenizer, seed)
    return LanguageModel(
        name="finite", model=model, backbone=Backbone(model), tokenizer=tokenizer,
        objective=Objective(Causal(order=order, bos_id=tokenizer.bos_id), FullCrossEntropy()),
        head="untied", context=40, record={"format": "test"},
    )  # fmt: skip


def documents(lm: LanguageModel) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every document, in the order of reading, with its probability."""
    p_TVV = torch.softmax(lm.model.logits_TVV, dim=2).numpy()
    bos, end = lm.tokenizer.bos_id, lm.tokenizer.end_of_text_id
    open_ = [((), 1.0)]
    while open_:
        ids, p = open_.pop()
        p_V = p_TVV[len(ids), ids[-1] if ids else bos]
        yield ids, p * p_V[end]
        if len(ids) < TOKENS:
            open_ += [((*ids, i), p * p_V[i]) for i in range(len(p_V)) if i not in (bos, end)]


def with_ends(backend: Tokenizer) -> TextTokenizer:
    backend.add_special_tokens(["<|bos|>", "<|endoftext|>"])
    bos, end = backend.token_to_id("<|bos|>"), backend.token_to_id("<|endoftext|>")
    assert bos is not None
    assert end is not None
    return TextTokenizer(backend, bos_id=bos, end_of_text_id=end)


def leading_blank() -> TextTokenizer:
    """Byte-level: words of a and b, each text in one way."""
    return with_ends(byte_level(["a", "b", "Ġ", "Ġa", "Ġb", ",", "Ċ"], [("Ġ", "a"), ("Ġ", "b")]))


def byte_level(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def trailing_blank() -> TextTokenizer:
    """The mirror image: merges learnt on reversed text."""
    own = leading_blank()
    return TextTokenizer(
        own.backend, bos_id=own.bos_id, end_of_text_id=own.end_of_text_id, reversed_text=True
    )


def sentence_piece() -> TextTokenizer:
    backend = Tokenizer(models.BPE(
        vocab={t: i for i, t in enumerate(["▁", "a", "b", "▁a", "▁b", ",", "\n"])},
        merges=[("▁", "a"), ("▁", "b")],
    ))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return with_ends(backend)


def word_piece() -> TextTokenizer:
    backend = Tokenizer(models.WordPiece(
        {"a": 0, "b": 1, "##a": 2, "##b": 3, ",": 4, "[UNK]": 5}, unk_token="[UNK]"
    ))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return with_ends(backend)


def end_of_word() -> TextTokenizer:
    """As GPT and CLIP: a word's last token says so."""
    tokens = ["a", "b", ",", "a</w>", "b</w>", ",</w>"]
    backend = Tokenizer(models.BPE(
        vocab={t: i for i, t in enumerate(tokens)}, merges=[], end_of_word_suffix="</w>"
    ))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder()
    return with_ends(backend)


def characters() -> TextTokenizer:
    return character_tokenizer(["a", "b", " ", ",", "\n"])


def whole_words() -> TextTokenizer:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "ab": 2, "?": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return with_ends(backend)


def over_blanks() -> TextTokenizer:
    """Tokens that span words."""
    backend = Tokenizer(models.BPE(
        vocab={t: i for i, t in enumerate(["a", "b", " ", ",", "\n", " a", "b a"])},
        merges=[(" ", "a"), ("b", " a")],
    ))  # fmt: skip
    return with_ends(backend)


TOKENIZERS = {
    each.__name__: each
    for each in (leading_blank, trailing_blank, sentence_piece, word_piece, end_of_word, characters,
                 whole_words, over_blanks)
}  # fmt: skip
TEXTS = st.text("ab ,\n", min_size=1, max_size=12).filter(str.strip)


def letters(tokens: list[str]) -> TextTokenizer:
    """A text is spelt in one way: a blank, if there is one, and a letter are a token."""
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}))
    blank = {True: r"[ab] ?", False: r" ?[ab]"}[tokens[-1].endswith(" ")]
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(blank), "isolated")
    backend.decoder = decoders.Fuse()
    return with_ends(backend)


BLANK_FIRST, BLANK_LAST, MARKS = r"\s*\S+", r"\S+\s*", r"\s*(?:[ab]+|,)"
CASES: dict[str, tuple[Callable[[], TextTokenizer], str, str, str]] = {
    "blank before": (lambda: letters(["a", "b", " a", " b"]), FORWARD, BLANK_FIRST, "ab ba a"),
    "blank before, backward": (
        lambda: letters(["a", "b", " a", " b"]), BACKWARD, BLANK_FIRST, "ab ba"),
    "blank behind": (lambda: letters(["a", "b", "a ", "b "]), FORWARD, BLANK_LAST, "ab ba"),
    "blank behind, backward": (
        lambda: letters(["a", "b", "a ", "b "]), BACKWARD, BLANK_LAST, "ab ba a"),
    "characters": (lambda: character_tokenizer("ab "), FORWARD, BLANK_FIRST, "a  b"),
    "characters, backward": (lambda: character_tokenizer("ab "), BACKWARD, BLANK_LAST, "b a "),
    "marks apart": (lambda: character_tokenizer("ab ,"), FORWARD, MARKS, "b, a"),
    "word pieces": (word_piece, FORWARD, BLANK_FIRST, "ab ab"),
    "word pieces, backward": (word_piece, BACKWARD, BLANK_FIRST, "ab ab"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_word_has_the_probability_of_all_documents_that_go_on_with_it(case):
    """Of those whose words begin as the text's do. The sum over all documents knows no tokens."""
    build, order, pattern, written = CASES[case]
    lm, marks = finite(build(), order), "apart" if pattern == MARKS else "attached"

    def pieces(ids: Sequence[int]) -> list[str]:
        in_text = ids if order == FORWARD else ids[::-1]
        found = re.findall(pattern, "".join(spelt(lm.tokenizer, i) for i in in_text))
        return found if order == FORWARD else found[::-1]

    begins: dict[tuple[str, ...], float] = defaultdict(float)
    for ids, p in documents(lm):
        words = pieces(ids)
        for count in range(len(words) + 1):
            begins[tuple(words[:count])] += p
    assert begins[()] == pytest.approx(1, abs=1e-12)
    (text,) = surprisal([lm], [Text("t", written)], marks=marks).texts
    ids = lm.tokenizer.encode(written).tolist()
    words = pieces(ids if order == FORWARD else ids[::-1])
    units = text.units if order == FORWARD else text.units[::-1]
    assert [unit.text for unit in units] == [word.strip() for word in words]
    for number, unit in enumerate(units):
        expected = begins[tuple(words[: number + 1])] / begins[tuple(words[:number])]
        assert unit.nats[0] == pytest.approx(-math.log(expected), abs=1e-10), unit.text
    corrected = [unit.nats[0] - unit.uncorrected[0] for unit in units]
    assert case == "word pieces, backward" or max(map(abs, corrected)) > 1e-3  # it sees something


def spelt(tokenizer: TextTokenizer, token: int) -> str:
    """The text of a token, with a blank before those that begin a word piece."""
    name = tokenizer.backend.id_to_token(token) or ""
    if tokenizer.backend.id_to_token(2) != "##a":
        return name
    return name.removeprefix("##") if name.startswith("##") else f" {name}"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("order", [FORWARD, BACKWARD])
@settings(
    deadline=None,
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(written=TEXTS, marks=st.sampled_from(["attached", "apart"]), data=st.data())
def test_words_and_what_is_left_add_up_to_the_text(name, order, written, marks, data):
    """With tokens of any kind; the log-likelihood is looked up in the model's table."""
    lm = _model(name, order)
    overlap = data.draw(st.integers(0, 7))
    ids = lm.tokenizer.encode(written)
    if not len(ids):
        return
    whole = surprisal([lm], [Text("t", written)], marks=marks)
    (text,), (total,) = whole.texts, whole.texts[0].totals
    read = [lm.tokenizer.bos_id, *(ids if order == FORWARD else ids[::-1])]
    log_p_TVV = torch.log_softmax(lm.model.logits_TVV, dim=2).numpy()
    in_all = -sum(log_p_TVV[t, a, b] for t, (a, b) in enumerate(itertools.pairwise(read)))
    assert total.nats == pytest.approx(in_all, abs=1e-9)
    assert total.tokens == len(ids)
    nats = sum(unit.nats[0] for unit in text.units)
    assert nats + total.start + total.end == pytest.approx(total.nats, abs=1e-9)
    alone = sum(unit.uncorrected[0] for unit in text.units)
    blanks = len(ids) - sum(unit.tokens[0] for unit in text.units)  # behind the last word
    assert blanks or alone == pytest.approx(total.nats, abs=1e-9)
    spans = [(unit.start, unit.stop) for unit in text.units]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert "".join("".join(text.text[a:b].split()) for a, b in spans) == "".join(written.split())
    tokens = surprisal([lm], [Text("t", written)], unit="token").texts[0]
    assert sum(unit.nats[0] for unit in tokens.units) == pytest.approx(total.nats, abs=1e-9)
    short = surprisal([lm], [Text("t", written)], marks=marks, context=8, overlap=overlap)
    assert [u.text for u in short.texts[0].units] == [u.text for u in text.units]


_models: dict[tuple[str, str], LanguageModel] = {}


def _model(name: str, order: str) -> LanguageModel:
    if (name, order) not in _models:
        lm = finite(TOKENIZERS[name](), order)
        logits_TVV = lm.model.logits_TVV
        logits_TVV[TOKENS:] = logits_TVV[:TOKENS].repeat(12, 1, 1)[: 64 - TOKENS]  # of any length
        _models[name, order] = lm
    return _models[name, order]


@pytest.fixture(scope="module")
def trained(text_store, tmp_path_factory):
    """Runs of lmlab with windows of 8 tokens."""
    folder = tmp_path_factory.mktemp("runs")
    kinds: dict[str, dict[str, Any]] = {
        "forward": {},
        "backward": {"order": BACKWARD},
        "headless": {
            "objective": "headless", "model": ModelConfig(layers=1, heads=2, width=16, tied=True)
        },
        "masked": {
            "objective": "masked", "model": ModelConfig("bert", layers=1, heads=2, width=16)
        },
    }  # fmt: skip
    for name, options in kinds.items():
        train(tiny_training(text_store, folder / name, **options))
    return folder


WRITTEN = "The quick model reads every token, and writes some.\nLast of all: entropy naïve 東京!"


@pytest.mark.parametrize("order", [FORWARD, BACKWARD])
@pytest.mark.parametrize("overlap", [0, 3, None])
def test_each_token_of_a_long_text_is_read_in_its_window(trained, order, overlap):
    lm = open_model(trained / order)
    result = surprisal([lm], [Text("t", WRITTEN)], unit="token", overlap=overlap)
    ids, again = lm.tokenizer.encode(WRITTEN), 4 if overlap is None else overlap
    read = ids if order == FORWARD else ids[::-1]
    expected, start = [], 0
    while start < len(read):
        first = max(0, start - again)
        window = read[first : first + 8]
        with torch.no_grad():
            inputs = torch.tensor([[lm.tokenizer.bos_id, *window[:-1]]])
            log_p_TV = torch.log_softmax(lm.model(inputs).logits[0].double(), -1)
        of_window = -log_p_TV[torch.arange(len(window)), torch.tensor(window.copy())]
        expected += of_window[start - first :].tolist()
        start = first + len(window)
    found = [unit.nats[0] for unit in result.texts[0].units]
    assert (found if order == FORWARD else found[::-1]) == pytest.approx(expected, abs=1e-5)


def test_a_headless_model_is_read_with_its_head(trained):
    text = "token"
    for head in ("own", "raw"):
        lm = lmlab.load(trained / "headless", head=head)
        (total,) = lmlab.surprisal(lm, text).texts[0].totals
        asked = -log_likelihoods(lm, [Request("", text, "t")]).nats_N[0]
        assert total.nats == pytest.approx(asked, abs=1e-5)
        ids = torch.tensor([[lm.tokenizer.bos_id, *lm.tokenizer.encode(text)]])
        with torch.no_grad():
            p_V = torch.softmax(lm.model(ids).logits[0, -1].double(), -1)
        edges = edges_of(lm.tokenizer, FORWARD, "attached")
        assert total.end == pytest.approx(math.log(float(p_V[edges.begins_V].sum())), abs=1e-5)


def test_a_masked_model_does_not_see_the_rest_of_a_word(trained):
    """Kauf and Ivanova: each token with all later tokens of its word masked."""
    lm = open_model(trained / "masked")
    text = "every entropy"
    ids, tokenizer = lm.tokenizer.encode(text), lm.tokenizer
    ends = [0]
    for word in text.replace(" ", "| ").split("|"):
        ends.append(ends[-1] + len(tokenizer.encode(word)))
    assert ends[-1] == len(ids)
    assert max(np.diff(ends)) > 2
    result = surprisal([lm], [Text("t", text)], context=len(ids))
    expected = []
    for first, last in itertools.pairwise(ends):
        nats = 0.0
        for at in range(first, last):
            seen = [tokenizer.bos_id, *ids, tokenizer.end_of_text_id]
            seen[at + 1 : last + 1] = [tokenizer.mask_id] * (last - at)
            with torch.no_grad():
                logits_TV = lm.model(torch.tensor([seen])).logits[0].double()
            nats -= float(torch.log_softmax(logits_TV[at + 1], -1)[ids[at]])
        expected.append(nats)
    assert [u.nats[0] for u in result.texts[0].units] == pytest.approx(expected, abs=1e-5)
    assert result.texts[0].totals[0].end == 0
    long = surprisal([lm], [Text("t", WRITTEN)], context=8)
    assert len(long.texts[0].units) == len(WRITTEN.split())


def test_two_models_are_compared_by_words_that_both_can_tell_apart():
    lm, other = finite(leading_blank()), finite(over_blanks())
    (text,) = surprisal([lm, other], [Text("t", "ab ab b b ab")]).texts
    assert [unit.text for unit in text.units] == ["ab ab", "b", "b ab"]
    for number in (0, 1):
        nats = sum(unit.nats[number] for unit in text.units)
        assert nats + text.totals[number].end == pytest.approx(text.totals[number].nats)
    alone = surprisal([lm], [Text("t", "ab ab b b ab")]).texts[0]
    assert sum(u.nats[0] for u in alone.units) == pytest.approx(sum(u.nats[0] for u in text.units))
    with pytest.raises(UserError, match="different tokenizers; compare them by words"):
        surprisal([lm, other], [Text("t", "ab")], unit="token")


def test_marks_apart():
    text = "«Don't,» she said-- well-known (U.S.)..."
    words = [text[a:b] for a, b in word_spans(text, "apart")]
    assert words == [
        "«", "Don't", ",", "»", "she", "said", "-", "-", "well-known", "(", "U.S", ".", ")", ".",
        ".", ".",
    ]  # fmt: skip
    assert [text[a:b] for a, b in word_spans(text, "attached")] == text.split()


def test_the_command_writes_csv_and_page_and_reads_all_kinds_of_text(
    trained, tmp_path, capsys, monkeypatch
):
    table, plain = tmp_path / "items.csv", tmp_path / "plain.txt"
    table.write_text(
        'id,text,regions\none,"The model reads, slowly.","The model|reads,|slowly."\n'
        "two,every token,\n", "utf-8"
    )  # fmt: skip
    plain.write_text("some text\n", "utf-8")
    out = tmp_path / "out"
    model, other = str(trained / "forward"), str(trained / "backward")
    assert main(["surprisal", model, str(table), str(plain), "--against", other,
                 "--measure", "bits", "--out", str(out)]) == 0  # fmt: skip
    assert "A word surprises" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((out / "surprisal.csv").read_text("utf-8"))))
    assert [row["word"] for row in rows] == (
        ["The", "model", "reads,", "slowly.", "every", "token", "some", "text"]
    )
    assert [row["region"] for row in rows] == [*"1123", *"0000"]
    assert [row["text"] for row in rows][-3:] == ["two", "plain.txt", "plain.txt"]
    result = lmlab.read(out)
    first = result.texts[0].units[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert float(rows[0]["difference"]) == pytest.approx(
        (first.nats[0] - first.nats[1]) / np.log(2)
    )
    page = (out / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert 'title="' in page
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve text".encode())))
    assert main(["surprisal", model, "--out", str(out)]) == 0
    assert "naïve" in capsys.readouterr().out


def test_texts_of_words(tmp_path):
    assert [t.text for t in texts_of_words(["The", "cat", "sat"])] == ["The cat sat"]
    assert [t.text for t in texts_of_words(["The cat", "sat"])] == ["The cat", "sat"]
    (tmp_path / "a.txt").write_text("a b\n")
    with pytest.raises(UserError, match="is no file, and"):
        texts_of_words([str(tmp_path / "a.txt"), "cat"])
    with pytest.raises(UserError, match="no such file"):
        texts_of_words([str(tmp_path / "b.csv")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("id,words\n1,a b\n", "no column 'text'"),
        ("id,text\n1,a\n1,b\n", "an id stands at two texts"),
        ("id,text\n1,\n", "row 1 has no text"),
        ("id,text,regions\n1,a b c,a|c\n", "row 1: region 2 .* is not how the text goes on"),
        ("id,text,regions\n1,a b c,a|b\n", "regions end before the text does: ' c'"),
        ("id,text,regions\n1,a b,a||b\n", "region 2 is empty"),
    ],
)
def test_a_table_that_does_not_fit_together_is_named(tmp_path, rows, message):
    (tmp_path / "x.csv").write_text(rows)
    with pytest.raises(UserError, match=message):
        read_texts(tmp_path / "x.csv")


def test_a_region_begins_with_a_word(trained, tmp_path):
    (tmp_path / "x.csv").write_text("id,text,regions\n1,every token,every to|ken\n")
    with pytest.raises(UserError, match="a region begins within 'token'"):
        lmlab.surprisal(trained / "forward", tmp_path / "x.csv")


def test_an_overlap_leaves_room(trained):
    with pytest.raises(UserError, match="`overlap` 8 must be below the 8 tokens"):
        lmlab.surprisal(trained / "forward", "a text", overlap=8)
