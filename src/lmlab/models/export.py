"""A model with an output bias of ours as one that transformers knows, with the same logits.

Notable:
- LayerNorm models keep their stock architecture. Let h be the last hidden states, gamma and beta
  the final LayerNorm's, g = 1 / gamma. The normalised values sum to zero, so g . h = g . beta in
  every context: adding a multiple of g to row w of the output embedding adds a constant to logit w.
  With beta' = beta + t g and E'_w = E_w + s_w g, logit w becomes
  E_w . h + t E_w . g + s_w (g . beta + t |g|^2), so the bias b is had by
  s_w = (b_w - t E_w . g) / (g . beta + t |g|^2). t is free; it is chosen so that the denominator is
  |g|^2, far from zero. (Derivation ours.)
- A tied head becomes untied, since input and output embedding then differ.
- RMSNorm models (Llama, Qwen3) and recurrent ones have no such direction: they get a registered
  class whose head has a bias, which loads after `import lmlab.models`.

Shapes: D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lmlab.errors import UserError
from lmlab.models.biased import BIASED
from lmlab.models.head import own_bias, with_settings, with_untied_head
from lmlab.models.recurrent import RecurrentForCausalLM

_FINAL_NORM = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
_OTHER_FINAL_NORMS = {
    "gptj": "transformer.ln_f",
    "bert": "cls.predictions.transform.LayerNorm",
    "distilbert": "vocab_layer_norm",
    "modernbert": "head.norm",
    "roberta": "lm_head.layer_norm",
}


def constant_direction(model: Any) -> torch.Tensor | None:
    """g = 1 / gamma (D,) of the LayerNorm before the head: g . h is the same in every context.

    None where another norm or layer stands there, or a gain is zero.
    """
    name = {**_OTHER_FINAL_NORMS, **_FINAL_NORM}.get(model.config.model_type)
    if name is None:
        return None
    norm = model.get_submodule(name)
    if not isinstance(norm, nn.LayerNorm) or not (norm.weight.abs() > 1e-6).all():
        return None
    return 1 / norm.weight.detach().double()


@torch.no_grad()
def without_own_bias(model: Any) -> Any:
    """A model with the logits of `model`, its output bias included, whose files hold all of it.

    `model` itself is left as it is, and returned if it has no output bias of ours. The folded
    weights are computed in float64 and rounded to the model's type.

    Raises `UserError` for an architecture that lmlab cannot write a bias into, or a final norm with
    a gain of zero.
    """
    bias_V = own_bias(model)
    if bias_V is None:
        return model
    kind = model.config.model_type
    if kind in _FINAL_NORM:
        return _folded(model, bias_V)
    if kind in BIASED:
        return _rebuilt(model, bias_V, *BIASED[kind])
    if kind == "lmlab_recurrent":
        return _rebuilt(model, bias_V, type(model.config), RecurrentForCausalLM)
    raise UserError(
        f"a model of type '{kind}' cannot be exported with its output bias; lmlab knows how for "
        f"{', '.join([*_FINAL_NORM, *BIASED, 'gru and lstm'])}"
    )


def _folded(model: Any, bias_V: torch.Tensor) -> Any:
    norm = model.get_submodule(_FINAL_NORM[model.config.model_type])
    gamma_D, beta_D = norm.weight.double(), norm.bias.double()
    if not (gamma_D.abs() > 1e-6).all():
        raise UserError(
            f"the final LayerNorm has a gain of {float(gamma_D.abs().min()):.1e}; an output bias "
            "can be folded into a LayerNorm only where no gain is zero"
        )
    g_D = 1 / gamma_D
    square = g_D @ g_D
    t = 1 - (g_D @ beta_D) / square
    embedding_VD = model.get_output_embeddings().weight.double()
    s_V = (bias_V.double() - t * (embedding_VD @ g_D)) / square
    folded = with_untied_head(model, embedding_VD + s_V[:, None] * g_D)
    folded.get_submodule(_FINAL_NORM[model.config.model_type]).bias.copy_(beta_D + t * g_D)
    return folded


def _rebuilt(model: Any, bias_V: torch.Tensor, config_kind: Any, kind: Any) -> Any:
    bias = {"output_bias": True} if config_kind is type(model.config) else {}
    biased = kind(with_settings(config_kind, model.config, tie_word_embeddings=False, **bias))
    biased.load_state_dict({**model.state_dict(), "lm_head.bias": bias_V})
    return biased.to(bias_V.device).eval()
