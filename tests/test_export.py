"""Exported models: the same logits, in another process, without lmlab where they are stock."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from lmlab.config.model import ModelConfig
from lmlab.errors import UserError
from lmlab.models.build import build_config, build_model
from lmlab.models.export import without_own_bias
from lmlab.models.files import model_files
from lmlab.models.head import attach_bias, own_bias
from tolerances import NATS_A_TOKEN

V = 40


def biased(architecture: Any, *, tied=True) -> Any:
    """A model with weights as far from fresh ones as training would take them."""
    config = ModelConfig(architecture, layers=2, heads=None if architecture == "gru" else 2,
                         width=16, tied=tied, initializer_range=0.3)  # fmt: skip
    model = build_model(
        build_config(config, vocabulary=V, context=12, bos_id=38, end_of_text_id=39), seed=0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(torch.randn(16, generator=generator) * 0.3)
                module.bias.add_(torch.randn(16, generator=generator) * 0.5)
    attach_bias(model, torch.randn(V, generator=generator) * 3 - 8, learnt=False)
    return model.eval()


@torch.no_grad()
def logits(model):
    ids = torch.randint(V, (3, 12), generator=torch.Generator().manual_seed(2))
    return model(input_ids=ids).logits


def save(model, folder):
    folder.mkdir()
    for name, data in model_files(model).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "qwen3", "gru"])
def test_exported_logits_are_the_models_own(architecture, tied):
    model = biased(architecture, tied=tied)
    expected = logits(model)
    made = without_own_bias(model)
    torch.testing.assert_close(logits(made), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits(model), expected, atol=0, rtol=0)  # left as it was
    assert own_bias(made) is None
    if architecture in ("gpt2", "neox"):
        assert type(made) is type(model)
        assert made.get_output_embeddings().bias is None


@pytest.mark.parametrize("architecture", ["gpt2", "neox"])
def test_the_fold_is_exact(architecture):
    model = biased(architecture).double()
    torch.testing.assert_close(logits(without_own_bias(model)), logits(model), atol=1e-12, rtol=0)


LOAD = """
import sys
folders = sys.argv[2:]
if sys.argv[1] == "with-lmlab":
    import lmlab.models
import torch
from transformers import AutoModelForCausalLM
for folder in folders:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ids = torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        made = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(made, torch.load(folder + "/expected.pt"), atol=2e-5, rtol=1e-5)
    model.generate(ids[:1, :4], max_new_tokens=2, do_sample=False, pad_token_id=39)
assert ("lmlab" in sys.modules) == (sys.argv[1] == "with-lmlab")
"""


@pytest.mark.parametrize(
    ("how", "kinds"), [("alone", ["gpt2", "neox"]), ("with-lmlab", ["llama", "qwen3", "gru"])]
)
def test_exported_models_load_in_another_process(tmp_path, how, kinds):
    folders = []
    for kind in kinds:
        model = biased(kind)
        folders.append(save(without_own_bias(model), tmp_path / kind))
        torch.save(logits(model), folders[-1] / "expected.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, how, *map(str, folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_files_leave_the_bias_out_and_nothing_else(tmp_path):
    model = biased("gpt2")
    stock = AutoModelForCausalLM.from_pretrained(save(model, tmp_path / "m")).eval()
    bias_V = own_bias(model)
    assert bias_V is not None
    torch.testing.assert_close(logits(stock) + bias_V, logits(model), atol=NATS_A_TOKEN, rtol=0)


def test_what_cannot_be_exported():
    plain: Any = build_model(
        build_config(
            ModelConfig(layers=1, heads=2, width=16),
            vocabulary=V, context=4, bos_id=0, end_of_text_id=1,
        ),
        seed=0,
    )  # fmt: skip
    assert without_own_bias(plain) is plain
    model = biased("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight[3] = 0
    with pytest.raises(UserError, match="gain"):
        without_own_bias(model)
    other = copy.deepcopy(biased("gpt2"))
    other.config.model_type = "unheard_of"
    with pytest.raises(UserError, match="'unheard_of' cannot be exported"):
        without_own_bias(other)
    for bias_V, message in (
        (torch.zeros(V), "of ours already"),
        (torch.zeros(3), "of ours already"),
    ):
        with pytest.raises(UserError, match=message):
            attach_bias(model, bias_V, learnt=False)
    with pytest.raises(UserError, match="does not fit a vocabulary"):
        attach_bias(plain, torch.zeros(3), learnt=False)
