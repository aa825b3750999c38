"""Log-likelihoods of continuations against the library's own logits, one sequence at a time.

Shapes: T tokens, V vocabulary, N requests.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutput

from helpers import sentences, symbols_tokenizer, tiny_training
from lmlab.config.model import ModelConfig
from lmlab.config.objective import HeadlessConfig
from lmlab.config.training import OptimizerConfig
from lmlab.data.unigram import log_unigram, token_counts
from lmlab.errors import UserError
from lmlab.lm import likelihood
from lmlab.lm.language_model import LanguageModel, open_model
from lmlab.lm.likelihood import Request, log_likelihoods, rolling_log_likelihoods
from lmlab.lm.sampling import sample
from lmlab.models.activations import fused_gelu
from lmlab.models.backbone import Backbone
from lmlab.objectives.base import Objective
from lmlab.objectives.causal import Causal
from lmlab.objectives.full import FullCrossEntropy
from lmlab.objectives.headless import Contrastive
from lmlab.training.loop import train
from tolerances import NATS_A_TOKEN, near

CONTEXT = 100
PAIRS = [
    ("The model reads", " a token"),
    ("", "small windows learn"),
    ("the window ", "writes"),  # the space belongs to the continuation
    ("an arrow, \n", "café"),
    (" ".join(sentences(1, seed=3))[:70], " backward"),  # longer than one block of 32
    ("in", "to"),  # tokens may not end where the context does
]


def asked(pairs=PAIRS):
    return [Request(context, text, f"item {n}") for n, (context, text) in enumerate(pairs)]


def by_hand(logits_of, ids, scored):
    """Nats and greediness of the last `scored` ids, from the logits of all but the last."""
    with torch.no_grad():
        log_p_TV = torch.log_softmax(logits_of(torch.tensor([ids[:-1]]))[0].double(), -1)
    targets = torch.tensor(ids[1:])
    each = log_p_TV[torch.arange(len(targets)), targets][-scored:]
    return float(each.sum()), bool((log_p_TV.argmax(-1) == targets)[-scored:].all())


def split_ids(encode, context, continuation):
    """Ids of the context and of the continuation, with the spaces between them."""
    while context and context[-1].isspace():
        context, continuation = context[:-1], context[-1] + continuation
    whole, first = encode(context + continuation), encode(context)
    return first, whole[len(first) :]


def trained(store, out, architecture: Any = "gpt2", *, tied=False, **changes):
    settings: dict[str, Any] = {
        "context": CONTEXT,
        "steps": 20,
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "model": ModelConfig(architecture, layers=1, heads=2, width=16, tied=tied),
        **changes,
    }
    train(tiny_training(store, out, **settings))
    return open_model(out)


@pytest.fixture(scope="module")
def lms(text_store, tmp_path_factory):
    """lmlab's own models: forward, backward, headless with its prior, masked."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "forward": trained(text_store, folder / "f"),
        "backward": trained(text_store, folder / "b", order="backward"),
        "headless": trained(text_store, folder / "h", objective="headless", tied=True),
        "masked": trained(text_store, folder / "m", "bert", objective="masked"),
    }


@pytest.fixture(scope="module")
def foreign(text_store, tmp_path_factory):
    """Models and tokenizers as transformers saves them; Llama's tokenizer puts BOS first."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}
    models = {
        "gpt2": GPT2LMHeadModel(
            GPT2Config(**common, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2,
                       initializer_range=0.3)
        ),
        "llama": LlamaForCausalLM(
            LlamaConfig(**common, max_position_embeddings=CONTEXT, hidden_size=16,
                        num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        initializer_range=0.3)
        ),
    }  # fmt: skip
    for name, model in models.items():
        model.save_pretrained(folder / name)
        backend = type(text_store.tokenizer.backend).from_str(text_store.tokenizer.backend.to_str())
        if name == "llama":
            from tokenizers.processors import TemplateProcessing

            backend.post_processor = TemplateProcessing(
                single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 0)]
            )
        PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|endoftext|>"
        ).save_pretrained(folder / name)
    return folder


def test_own_models_read_bos_first(lms):
    lm = lms["forward"]
    found = log_likelihoods(lm, asked(), greedy=True)
    assert (found.method, found.truncated) == ("log-likelihood", 0)
    assert found.greedy_N is not None
    for n, pair in enumerate(PAIRS):
        first, rest = split_ids(lambda t: lm.tokenizer.encode(t).tolist(), *pair)
        ids = [lm.tokenizer.bos_id, *first, *rest]
        nats, best = by_hand(lambda i: lm.model(input_ids=i).logits, ids, len(rest))
        assert found.nats_N[n] == near(nats, tokens=len(rest))
        assert found.greedy_N[n] == best
        assert found.tokens_N[n] == len(rest)
    assert (found.tokens_N > 1).any()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_models_from_elsewhere_read_what_lm_eval_has_them_read(foreign, name):
    lm = open_model(foreign / name)
    model = AutoModelForCausalLM.from_pretrained(foreign / name)
    tokenizer = AutoTokenizer.from_pretrained(foreign / name)
    assert (tokenizer("a").input_ids[0] == 0) == (name == "llama")
    long = ("the window writes " * 30, "a token")
    found = log_likelihoods(lm, asked([*PAIRS, long]), greedy=True)
    assert found.greedy_N is not None
    for n, (context, continuation) in enumerate([*PAIRS, long]):
        if context:
            first, rest = split_ids(lambda t: tokenizer(t).input_ids, context, continuation)
        else:
            first = [tokenizer.bos_token_id]
            rest = tokenizer(continuation, add_special_tokens=False).input_ids
        ids = [*first, *rest][-CONTEXT - 1 :]
        nats, best = by_hand(lambda i: model(input_ids=i).logits, ids, len(rest))
        assert found.nats_N[n] == near(nats, tokens=len(rest))
        assert found.greedy_N[n] == best
    assert found.truncated == 1


def test_a_headless_model_scores_with_its_prior(lms, text_store):
    lm = lms["headless"]
    assert lm.head == "tied + fixed log-unigram bias"
    prior_V = torch.from_numpy(
        log_unigram(token_counts(text_store.split("train"), text_store.vocabulary))
    )
    body, embedding_VD = lm.model.base_model, lm.model.get_input_embeddings().weight

    def logits(ids, scale=1.0, unit=lambda x: x):
        hidden = unit(body(input_ids=ids).last_hidden_state)
        return scale * hidden @ unit(embedding_VD).T + prior_V

    sharp = HeadlessConfig(cosine=True, temperature=0.1)
    unit = torch.nn.functional.normalize
    for objective, logits_of in (
        (lm.objective, logits),
        (
            Objective(Causal(order="forward", bos_id=lm.tokenizer.bos_id), Contrastive(sharp)),
            lambda ids: logits(ids, 10.0, lambda x: unit(x, dim=-1)),
        ),
    ):
        made = replace(lm, objective=objective)
        found = log_likelihoods(made, asked(), greedy=True)
        assert found.greedy_N is not None
        for n, pair in enumerate(PAIRS):
            first, rest = split_ids(lambda t: lm.tokenizer.encode(t).tolist(), *pair)
            ids = [lm.tokenizer.bos_id, *first, *rest]
            nats, best = by_hand(logits_of, ids, len(rest))
            assert found.nats_N[n] == near(nats, tokens=len(rest))
            assert found.greedy_N[n] == best


def pseudo_by_hand(model, mask_id, ids, scored):
    """The scored ids at the end of `ids[1:-1]`, each masked once. Nats, and greediness."""
    nats, best = 0.0, True
    for at in range(len(ids) - 1 - scored, len(ids) - 1):
        seen = [*ids[:at], mask_id, *ids[at + 1 :]]
        with torch.no_grad():
            log_p_V = torch.log_softmax(
                model(input_ids=torch.tensor([seen])).logits[0, at].double(), -1
            )
        nats += float(log_p_V[ids[at]])
        best &= int(log_p_V.argmax()) == ids[at]
    return nats, best


def test_pseudo_log_likelihood_of_a_bert_from_elsewhere(tmp_path):
    letters = [chr(ord("a") + i) for i in range(10)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path / "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=15, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    made = BertForMaskedLM(config)
    made.cls.predictions.bias.data[:5] = -20  # special tokens are never the likeliest
    made.save_pretrained(tmp_path / "bert")
    lm = open_model(tmp_path / "bert")
    model = BertForMaskedLM.from_pretrained(tmp_path / "bert").eval()
    pairs = [("a b c", " d e"), ("", "f a c e"), ("a b " * 30, "c d")]
    pairs += [("", letter) for letter in letters]
    found = log_likelihoods(lm, asked(pairs), greedy=True)
    assert (found.method, found.truncated) == ("pseudo-log-likelihood", 1)
    assert found.tokens_N.tolist() == [2, 4, 2, *[1] * 10]
    assert found.greedy_N is not None
    greedy = []
    for n, (context, continuation) in enumerate(pairs):
        ids = tokenizer(f"{context} {continuation}").input_ids
        ids = [ids[0], *ids[1:-1][-38:], ids[-1]]
        nats, best = pseudo_by_hand(model, 4, ids, int(found.tokens_N[n]))
        assert found.nats_N[n] == near(nats, tokens=int(found.tokens_N[n]))
        assert found.greedy_N[n] == best
        greedy.append(best)
    assert set(greedy) == {True, False}


def test_pseudo_log_likelihood_of_an_own_model(lms):
    lm = lms["masked"]
    found = log_likelihoods(lm, asked())
    for n, pair in enumerate(PAIRS):
        first, rest = split_ids(lambda t: lm.tokenizer.encode(t).tolist(), *pair)
        bos, end = lm.tokenizer.bos_id, lm.tokenizer.end_of_text_id
        ids = [bos, *first, *rest, end]
        nats, _ = pseudo_by_hand(lm.model, lm.tokenizer.mask_id, ids, len(rest))
        assert found.nats_N[n] == near(nats, tokens=len(rest))
    assert found.greedy_N is None


@pytest.mark.parametrize("name", ["forward", "backward", "headless", "masked"])
def test_batch_size_and_padding_change_nothing(lms, name, monkeypatch):
    lm = lms[name]
    texts = sentences(12, seed=5)
    pairs = [(t[: 9 * n], t[9 * n : 9 * n + 20]) for n, t in enumerate(texts)]
    found = [log_likelihoods(lm, asked(pairs), batch=batch) for batch in (None, 1, 3, 500)]
    monkeypatch.setattr(likelihood, "_padded", lambda length_R: length_R)
    found.append(log_likelihoods(lm, asked(pairs)))
    monkeypatch.setattr(likelihood, "_padded", lambda length_R: 0 * length_R + CONTEXT)
    found.append(log_likelihoods(lm, asked(pairs), batch=4))
    assert len(set(found[0].nats_N)) == len(pairs)
    for other in found[1:]:
        assert np.abs((other.nats_N - found[0].nats_N) / found[0].tokens_N).max() < NATS_A_TOKEN


@pytest.mark.parametrize("name", ["forward", "masked"])
def test_only_what_is_asked_for_goes_through_the_head(lms, name, monkeypatch):
    lm, rows = lms[name], []
    each_and_best = lm.objective.criterion.each_and_best

    def counted(backbone, batch, **asked):
        rows.append((len(batch.rows_N), batch.inputs_BT.shape))
        return each_and_best(backbone, batch, **asked)

    monkeypatch.setattr(likelihood, "can_read_trees", lambda *_, **__: False)
    monkeypatch.setattr(lm.objective.criterion, "each_and_best", counted)
    twice = [PAIRS[0], PAIRS[4], PAIRS[0]]  # equal sequences are read once
    found = log_likelihoods(lm, asked(twice))
    assert found.nats_N[0] == found.nats_N[2]
    assert sum(n for n, _ in rows) == found.tokens_N[:2].sum()
    extra = 2 if name == "masked" else 0
    real = sorted(len(lm.tokenizer.encode(a + b)) for a, b in twice[:2])
    padded = sorted({shape[1] - extra for _, shape in rows})
    assert len(padded) == 2
    assert all(n <= length <= n * 9 / 8 for n, length in zip(real, padded, strict=True))


def test_padding_is_less_than_an_eighth_and_lengths_are_few():
    length_R = np.arange(1, 4097)
    padded_R = likelihood._padded(length_R)
    assert (padded_R >= length_R).all()
    assert (padded_R < length_R * 9 / 8).all()
    assert (np.diff(padded_R) >= 0).all()
    assert (likelihood._padded(padded_R) == padded_R).all()
    assert len(np.unique(padded_R)) == 16 + 8 * 8


@pytest.mark.parametrize("name", ["forward", "backward", "masked"])
def test_a_text_longer_than_the_context_is_read_in_windows(lms, name):
    lm = lms[name]
    tokenizer, model = lm.tokenizer, lm.model
    text = " ".join(sentences(2, seed=8))[:350]
    ids = tokenizer.encode(text).tolist()
    assert 2 * CONTEXT < len(ids) < 3 * CONTEXT
    ordered = ids[::-1] if name == "backward" else ids
    windows = [(ordered[:CONTEXT], CONTEXT), (ordered[CONTEXT : 2 * CONTEXT], CONTEXT),
               (ordered[-CONTEXT:], len(ids) - 2 * CONTEXT)]  # fmt: skip
    bos, end = tokenizer.bos_id, tokenizer.end_of_text_id
    expected = 0.0
    for window, scored in windows:
        if name == "masked":
            seen = [bos, *window, end]
            expected += pseudo_by_hand(model, tokenizer.mask_id, seen, scored)[0]
        else:
            seen = [bos, *window]
            expected += by_hand(lambda i: model(input_ids=i).logits, seen, scored)[0]
    found = rolling_log_likelihoods(lm, [text, "", "in models"])
    assert found.nats_N[0] == near(expected, tokens=len(ids))
    assert found.nats_N[1] == 0
    whole = log_likelihoods(lm, asked([("", "in models")]))
    assert found.nats_N[2] == near(whole.nats_N[0], tokens=int(whole.tokens_N[0]))
    assert found.tokens_N.tolist() == [len(ids), 0, whole.tokens_N[0]]


def test_the_activation_is_put_back(foreign):
    lm = open_model(foreign / "gpt2")
    before = [type(m) for m in lm.model.modules()]
    with fused_gelu(lm.model):
        assert [type(m) for m in lm.model.modules()] != before
    assert [type(m) for m in lm.model.modules()] == before


def test_the_greedy_continuation_is_what_the_model_writes(tmp_path, small_store):
    lm = trained(small_store, tmp_path / "run")
    symbols = [lm.tokenizer.token(i) for i in range(12)]
    prompt = "".join(symbols[:3])
    (written,) = sample(lm, prompt, tokens=4, temperature=0).written
    assert len(written) == 4
    other = next(s for s in symbols if s != written[-1])
    pairs = [(prompt, written), (prompt, written[:-1] + other), (prompt, written[0])]
    found = log_likelihoods(lm, asked(pairs), greedy=True)
    assert found.greedy_N is not None
    assert found.greedy_N.tolist() == [True, False, True]


class MarkovModel(torch.nn.Module):
    """Each symbol depends on the one before it (in the order of reading); the last id is BOS."""

    def __init__(self, start_V, transition_VV):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.config = PretrainedConfig()
        self.embedding = torch.nn.Embedding(len(start_V) + 1, 1)
        table = np.pad(np.vstack([transition_VV, start_V]), ((0, 1), (0, 2)))
        with np.errstate(divide="ignore"):
            self.table = torch.from_numpy(np.log(table))

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, **unused):
        return CausalLMOutput(logits=self.table[input_ids])


def chain_models(symbols=3, context=6):
    """The same stationary chain read forward and backward; it is not reversible."""
    rng = np.random.default_rng(0)
    forward_VV = rng.dirichlet(np.full(symbols, 0.5), size=symbols) + 1e-3
    forward_VV /= forward_VV.sum(1, keepdims=True)
    values, vectors = np.linalg.eig(forward_VV.T)
    stationary_V = np.real(vectors[:, np.argmax(np.real(values))])
    stationary_V /= stationary_V.sum()
    backward_VV = forward_VV.T * stationary_V / stationary_V[:, None]
    assert np.abs(backward_VV - forward_VV).max() > 0.1
    made = {}
    for order, transition_VV in (("forward", forward_VV), ("backward", backward_VV)):
        model = MarkovModel(stationary_V, transition_VV)
        made[order] = LanguageModel(
            name=order,
            model=model,
            backbone=Backbone(model),
            tokenizer=symbols_tokenizer(symbols),
            objective=Objective(Causal(order=order, bos_id=symbols), FullCrossEntropy()),
            head="none",
            context=context,
            record={"own": True},
        )
    return made, stationary_V, forward_VV


def test_backward_models_give_the_same_likelihoods_as_differences_of_joints():
    made, stationary_V, forward_VV = chain_models()
    letters = [chr(0x4E00 + i) for i in range(3)]
    rng = np.random.default_rng(1)
    strings = [rng.integers(0, 3, n) for n in (1, 2, 3, 4, 5, 6) for _ in range(4)]
    cuts = [int(rng.integers(0, len(s))) for s in strings]
    texts = ["".join(letters[i] for i in s) for s in strings]
    requests = asked([(t[:c], t[c:]) for t, c in zip(texts, cuts, strict=True)])
    assert 0 in cuts
    assert any(cuts)
    found = {order: log_likelihoods(s, requests, greedy=True) for order, s in made.items()}
    expected, greedy = [], []
    for s, cut in zip(strings, cuts, strict=True):
        steps = [stationary_V[s[0]], *(forward_VV[a, b] for a, b in itertools.pairwise(s))]
        expected.append(np.log(steps[cut:]).sum())
        largest = [stationary_V.max(), *(forward_VV[a].max() for a in s[:-1])]
        greedy.append(steps[cut:] == largest[cut:])
    assert found["forward"].nats_N == pytest.approx(np.array(expected), abs=1e-9)
    assert found["backward"].nats_N == pytest.approx(np.array(expected), abs=1e-9)
    assert found["backward"].method == "difference of joint log-likelihoods"
    assert found["backward"].greedy_N is None
    assert found["forward"].greedy_N is not None
    assert found["forward"].greedy_N.tolist() == greedy
    assert set(greedy) == {True, False}


def test_what_does_not_fit_is_cut_from_the_left():
    made, _, _ = chain_models()
    a, b, c = (chr(0x4E00 + i) for i in range(3))
    for lm in made.values():
        whole = [(a + b + c, a + b + c), (b + c + a + b + c, a + b + c), (a + a + a + c, a + b)]
        found = log_likelihoods(lm, asked(whole))
        assert found.truncated == 1
        assert found.nats_N[0] == found.nats_N[1]
        with pytest.raises(UserError, match=r"item 1: 7 tokens are to be scored together"):
            log_likelihoods(lm, asked([(a, b), (a, b * 7)]))
        # own models keep BOS: nothing of the context is left, and the first token follows BOS
        full = log_likelihoods(lm, asked([(b, a * 6), ("", a * 6)]))
        assert full.nats_N[0] == full.nats_N[1]
        assert full.truncated == 1


def test_what_cannot_be_asked(lms, foreign):
    made, _, _ = chain_models()
    lm = made["forward"]
    permuted = replace(
        lm, objective=Objective(Causal(order="permutation:1", bos_id=3), FullCrossEntropy())
    )
    with pytest.raises(UserError, match="reads in the order permutation:1"):
        log_likelihoods(permuted, asked())
    with pytest.raises(UserError, match=r"item 0: '' is no token of its own"):
        log_likelihoods(lm, asked([(chr(0x4E00), "")]))
    with pytest.raises(UserError, match="`batch` 0"):
        log_likelihoods(lm, asked(), batch=0)
    with pytest.raises(UserError, match=r"item 0: \d+ tokens .* context of 100; remove the item"):
        log_likelihoods(open_model(foreign / "gpt2"), asked([("", "small windows " * 60)]))
