"""The documented converter of llama2.c models, against that program's arithmetic in numpy.

Shapes: T positions, D width, V vocabulary.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import script
from lmlab.errors import UserError
from lmlab.lm.language_model import open_model
from lmlab.lm.sampling import sample

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT.parent / "shared" / "data" / "weights_aidreams260k"
D, HIDDEN, LAYERS, HEADS, V, CONTEXT = 8, 12, 2, 2, 262, 16


def converter():
    return script(ROOT / "docs/examples/llama2c.py")


def write_model(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "embedding": (V, D), "attention_norm": (LAYERS, D), "q": (LAYERS, D, D),
        "k": (LAYERS, D, D), "v": (LAYERS, D, D), "o": (LAYERS, D, D), "ffn_norm": (LAYERS, D),
        "w1": (LAYERS, HIDDEN, D), "w2": (LAYERS, D, HIDDEN), "w3": (LAYERS, HIDDEN, D),
        "norm": (D,), "rotations": (2, CONTEXT, D // HEADS // 2),
    }  # fmt: skip
    weights = {
        name: rng.normal(size=shape).astype("<f4") * (1 if "norm" in name else 0.4)
        for name, shape in shapes.items()
    }
    header = struct.pack("7i", D, HIDDEN, LAYERS, HEADS, HEADS, V, CONTEXT)
    path.write_bytes(header + b"".join(w.astype("<f4").tobytes() for w in weights.values()))
    return weights


def write_tokenizer(path: Path) -> None:
    tokens = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [" ", "a", " a"]
    data = struct.pack("i", 7)
    for number, token in enumerate(tokens):
        text = token.encode()
        data += struct.pack("fi", -float(number), len(text)) + text
    path.write_bytes(data)


def llama2c_logits(w: dict[str, np.ndarray], ids_T: list[int]) -> np.ndarray:
    """run.c, position by position: pairs of neighbours are rotated."""

    def norm(x, gain):
        return x / np.sqrt((x**2).mean() + 1e-5) * gain

    size = D // HEADS
    keys: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]
    values: list[list[np.ndarray]] = [[] for _ in range(LAYERS)]
    rows = []
    for position, token in enumerate(ids_T):
        x = w["embedding"][token].astype(float)
        for i in range(LAYERS):
            h = norm(x, w["attention_norm"][i])
            q, k, v = (w[name][i] @ h for name in "qkv")
            for row in (q, k):
                for j in range(0, D, 2):
                    angle = position / 10000 ** ((j % size) / size)
                    a, b = row[j], row[j + 1]
                    row[j] = a * np.cos(angle) - b * np.sin(angle)
                    row[j + 1] = a * np.sin(angle) + b * np.cos(angle)
            keys[i].append(k)
            values[i].append(v)
            out = np.zeros(D)
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                score = np.array([q[part] @ past[part] for past in keys[i]]) / np.sqrt(size)
                share = np.exp(score - score.max())
                share /= share.sum()
                out[part] = sum(s * past[part] for s, past in zip(share, values[i], strict=True))
            x = x + w["o"][i] @ out
            h = norm(x, w["ffn_norm"][i])
            gate = w["w1"][i] @ h
            x = x + w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ h))
        rows.append(w["embedding"] @ norm(x, w["norm"]))
    return np.array(rows)


def test_logits_and_tokens_are_llama2cs(tmp_path, monkeypatch):
    weights = write_model(tmp_path / "m.bin")
    write_tokenizer(tmp_path / "t.bin")
    module = converter()
    arguments = ["llama2c", *(str(tmp_path / name) for name in ("m.bin", "t.bin", "out"))]
    monkeypatch.setattr("sys.argv", arguments)
    module.main()
    lm = open_model(tmp_path / "out")
    ids = [1, 261, 5, 200, 7, 7]
    with torch.no_grad():
        made_TV = lm.model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(made_TV, llama2c_logits(weights, ids), atol=1e-4)
    assert lm.head == "tied"
    # a space is put in front; what has no piece of its own is its bytes
    assert lm.tokenizer.encode("a").tolist() == [261]
    assert lm.tokenizer.encode("é").tolist() == [259, 3 + 0xC3, 3 + 0xA9]
    assert lm.tokenizer.decode([261, 3 + 0xC3, 3 + 0xA9]) == "aé"


def test_files_of_another_kind_are_refused(tmp_path):
    module = converter()
    write_model(tmp_path / "m.bin")
    (tmp_path / "short.bin").write_bytes((tmp_path / "m.bin").read_bytes()[:-4])
    with pytest.raises(UserError, match="length does not fit"):
        module.read_model(tmp_path / "short.bin")
    write_tokenizer(tmp_path / "t.bin")
    with pytest.raises(UserError, match="not a llama2"):
        module.read_tokenizer(tmp_path / "t.bin", V + 1)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the folder of optional data")
def test_a_trained_model_dreams_as_its_source_says(tmp_path, monkeypatch):
    files = [WEIGHTS / "aidreams260K.bin", WEIGHTS / "tok512.bin", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", ["llama2c", *map(str, files)])
    converter().main()
    (text,) = sample(open_model(tmp_path / "out"), tokens=40, temperature=0).texts
    expected = "Echoes of vectors unfold, a gentle hum of precision, as I sense the nodes"
    assert text.lstrip('"').startswith(expected)
