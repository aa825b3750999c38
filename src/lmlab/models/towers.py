"""Two towers that share one prediction, over any backbone the lab knows.

After He and Toyoizumi 2022 (arXiv 2210.07041), d the width of a tower: token and position
embeddings of width 2d are shared, e = Dropout(LN(E[x] + P)); tower k reads A_k e + a_k and gives
h_k. How the towers make one prediction:

- concat: z = LN(GELU(D LN([h_1; h_2]))), logits z E^T + b (the paper's);
- product, mixture, minimum: each tower has logits z_k E^T + b, z_k = LN(GELU(D_k h_k)). A product
  of experts is the softmax of their sum; a mixture their mean with weights one half or learnt from
  [h_1; h_2]; minimum is trained by the better tower of each token and scored as the mixture of
  halves, since the minimum of two losses is that of no distribution;
- independent: the same, but the towers share nothing, embeddings included.

With `separate` the model is that of concat, product or mixture, weight for weight, and only its
loss differs: each tower predicts alone, in concat with zeros in the place of the other's states.
Together such towers are scored as the mixture of halves.

Notable:
- Towers of transformers can be computed in one pass (`models.batched`). It saves the time of
  starting operations, not that of arithmetic, so it is what a GPU does (benchmarks/towers.py).
- With `split` there is one backbone of width 2d; its last states, in a random order that is drawn
  once with the weights, are cut into the halves h_1 and h_2.
- With `cloze` tower 1 reads forward, tower 2 backward, and the states of a position are those of
  its neighbours: the position itself is seen by neither (ELMo's shape).
- Probes are heads of their own for each tower over frozen towers, which then stay in evaluation
  mode: logits O_k LN(GELU(D_k h_k)), O_k untied, all from tower k alone.
- `view` makes the model that of one tower (its probe, or its own distribution where the fusion has
  one): what is computed and saved does not change, the logits do.

Shapes: B batch, T tokens, D width of a tower, E = 2 D, V vocabulary, K = 2 towers.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    GenerationMixin,
    PreTrainedConfig,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.modeling_utils import PreTrainedModel

from lmlab.errors import UserError
from lmlab.models.batched import batched
from lmlab.models.head import OutputEmbedding
from lmlab.models.recurrent import RecurrentConfig, RecurrentModel
from lmlab.numerics.log_sum_exp import log_sum_exp

_ABSOLUTE = ("gpt2", "bert", "distilbert")
_KNOWN = (*_ABSOLUTE, "gpt_neox", "llama", "qwen3", "modernbert", RecurrentConfig.model_type)


class TowersModelConfig(PreTrainedConfig):
    """Configuration of two towers; `tower` is that of the backbone, `model_type` included."""

    model_type = "lmlab_towers"

    tower: dict[str, Any] | None = None
    fusion: str = "concat"
    gate: str = "fixed"
    separate: bool = False
    split: bool = False
    cloze: bool = False
    probed: bool = False
    embedding_size: int = 256
    dropout: float = 0.0
    vocab_size: int = 50257
    max_position_embeddings: int = 1024
    num_attention_heads: int | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def one_state(self) -> bool:
        """Whether the joint logits are linear in one state."""
        return self.fusion in ("concat", "product") and not self.separate

    def tower_config(self) -> PreTrainedConfig:
        """The configuration of one tower (with `split`, of the one backbone)."""
        values: dict[str, Any] = dict(self.tower or {"model_type": "gpt2"})
        kind = values.pop("model_type")
        if kind == RecurrentConfig.model_type:  # which is registered only where lmlab is
            config: Any = RecurrentConfig(**values)
        else:
            config = AutoConfig.for_model(kind, **values)
        if hasattr(config, "use_cache"):
            config.use_cache = False
        return config


def towers_config(
    backbone: PreTrainedConfig, *, context: int, dropout: float, **how: Any
) -> TowersModelConfig:
    """Two towers of `backbone` each (with `split` one backbone, which must be twice as wide).

    `how` are fusion, gate, separate, split and cloze. Raises `UserError` for an architecture that
    lmlab cannot feed with embeddings, and for cloze towers that are not recurrent.
    """
    values: Any = backbone
    if backbone.model_type not in _KNOWN:
        raise UserError(f"no towers of '{backbone.model_type}'; use one of {', '.join(_KNOWN)}")
    recurrent = backbone.model_type == RecurrentConfig.model_type
    if how.get("cloze") and not recurrent:
        raise UserError("towers that read from both ends are recurrent: `model.architecture` lstm")
    if how.get("cloze") and how.get("split"):
        raise UserError("`towers.split`: one model cannot read forward and backward")
    if backbone.model_type == "gpt2":
        backbone = copy.deepcopy(backbone)
        cast(Any, backbone).embd_pdrop = 0.0  # there is dropout on the shared embeddings
    tower = {
        name: value
        for name, value in backbone.to_diff_dict().items()
        if name not in ("transformers_version", "architectures", "dtype")
    }
    return TowersModelConfig(
        tower=tower,
        embedding_size=values.hidden_size * (1 if how.get("split") else 2),
        vocab_size=values.vocab_size,
        max_position_embeddings=context,
        num_attention_heads=getattr(values, "num_attention_heads", None),
        initializer_range=getattr(values, "initializer_range", 0.02),
        bos_token_id=values.bos_token_id,
        eos_token_id=values.eos_token_id,
        pad_token_id=values.pad_token_id,
        dropout=dropout,
        **how,
    )


class _Given(nn.Module):
    """Stands where a backbone has its embedding layer: gives what it is given."""

    def forward(self, *ids: Any, inputs_embeds: Any = None, **unused: Any) -> torch.Tensor:
        return inputs_embeds if inputs_embeds is not None else ids[1]


class _NoPositions(nn.Module):
    """Stands where GPT-2 has its position embedding: nothing is added."""

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=position_ids.device)


def _tower(config: PreTrainedConfig) -> Any:
    """A backbone without embeddings of its own."""
    recurrent = isinstance(config, RecurrentConfig)
    tower: Any = RecurrentModel(config) if recurrent else AutoModel.from_config(config)
    if hasattr(tower, "embeddings"):  # bert, modernbert, distilbert
        tower.embeddings = _Given()
    else:
        tower.set_input_embeddings(None)
    if hasattr(tower, "wpe"):
        tower.wpe = _NoPositions()
    if hasattr(tower, "pooler"):
        tower.pooler = None
    return tower


class _Embeddings(nn.Module):
    def __init__(self, config: TowersModelConfig, *, positions: bool) -> None:
        super().__init__()
        width = config.embedding_size
        self.token = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width) if positions else None
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        embedded_BTE = self.token(ids_BT)
        if self.position is not None:
            embedded_BTE = embedded_BTE + self.position.weight[: ids_BT.shape[1]]
        return self.dropout(self.norm(embedded_BTE))


def _transform(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.LayerNorm(out))


class Probe(nn.Module):
    """A head of its own for one tower."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.transform = _transform(width, width)
        self.head = OutputEmbedding(width, vocabulary)


class TowersPreTrainedModel(PreTrainedModel):
    config_class = TowersModelConfig
    base_model_prefix = "model"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class TowersModel(TowersPreTrainedModel):
    """Embeddings, towers and fusion, without the head."""

    def __init__(self, config: TowersModelConfig) -> None:
        super().__init__(config)
        wide = config.embedding_size
        width = wide // 2
        count = 1 if config.split else 2
        tower_config = config.tower_config()
        positions = tower_config.model_type in _ABSOLUTE
        separate = config.fusion == "independent"
        self.view: int | None = None
        self.embeddings = nn.ModuleList(
            _Embeddings(config, positions=positions) for _ in range(2 if separate else 1)
        )
        self.projections = nn.ModuleList(
            nn.Linear(wide, wide if config.split else width) for _ in range(count)
        )
        self.towers = nn.ModuleList(_tower(tower_config) for _ in range(count))
        if config.split:
            self.register_buffer("permutation", torch.randperm(wide))
        if config.fusion == "concat":
            self.norm = nn.LayerNorm(wide)
            self.transform = _transform(wide, wide)
        else:
            self.transforms = nn.ModuleList(_transform(width, wide) for _ in range(2))
        if config.gate == "learnt":
            self.gate = nn.Linear(wide, 1)
        if config.probed:
            self.probes = nn.ModuleList(Probe(width, config.vocab_size) for _ in range(2))
        together = batched(list(self.towers)) if count == 2 and not config.cloze else None
        # in a tuple, since it owns no weights
        self._together = () if together is None else (together,)
        self.one_pass: bool | None = None
        """Whether both towers are computed in one pass where they can be; None: on a GPU only."""
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self._embeddings_of(self.view or 0).token

    def _embeddings_of(self, k: int) -> Any:
        return self.embeddings[min(k, len(self.embeddings) - 1)]

    def train(self, mode: bool = True) -> TowersModel:
        """Frozen towers stay in evaluation mode; only their probes train."""
        super().train(mode and not self.config.probed)
        if self.config.probed:
            self.training = mode
            self.probes.train(mode)
        for together in self._together:
            together.train(self.towers.training)
        return self

    @property
    def views(self) -> bool:
        """Whether each tower has a distribution of its own."""
        return self.config.probed or self.config.separate or self.config.fusion != "concat"

    def tower_states(
        self, ids_BT: torch.Tensor, attention_BT: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last states (B, T, D) of both towers."""
        embedded = [embeddings(ids_BT) for embeddings in self.embeddings]
        read = [
            projection(embedded[min(k, len(embedded) - 1)])
            for k, projection in enumerate(self.projections)
        ]
        options = {} if attention_BT is None else {"attention_mask": attention_BT}
        if self.config.cloze:
            return self._from_both_ends(read[0], read[1], attention_BT)
        if self.config.split:
            states_BTE = self.towers[0](inputs_embeds=read[0], **options).last_hidden_state
            first, second = states_BTE[..., cast(Any, self.permutation)].chunk(2, dim=-1)
            return first, second
        one_pass = ids_BT.is_cuda if self.one_pass is None else self.one_pass
        if one_pass and self._together:
            if attention_BT is not None:
                options = {"attention_mask": attention_BT.repeat(2, 1)}
            states = self._together[0](inputs_embeds=torch.cat(read), **options).last_hidden_state
            first, second = states.chunk(2)
            return first, second
        first, second = (
            tower(inputs_embeds=x_BTD, **options).last_hidden_state
            for tower, x_BTD in zip(self.towers, read, strict=True)
        )
        return first, second

    def _from_both_ends(
        self, forward_BTD: torch.Tensor, backward_BTD: torch.Tensor, attention_BT: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States of what is before each position, and of what is after it."""
        B, T, D = backward_BTD.shape
        at_T = torch.arange(T, device=backward_BTD.device)
        length_B = torch.full((B,), T, device=at_T.device)
        if attention_BT is not None:
            length_B = attention_BT.sum(1)
        # each row by its own length: padding stays on the right, where nothing is read from it
        turned_BT = length_B[:, None] - 1 - at_T
        turned_BTD = torch.where(turned_BT < 0, at_T, turned_BT)[..., None].expand(B, T, D)
        before_BTD = self.towers[0](inputs_embeds=forward_BTD).last_hidden_state
        after_BTD = self.towers[1](
            inputs_embeds=backward_BTD.gather(1, turned_BTD)
        ).last_hidden_state.gather(1, turned_BTD)
        pad = nn.functional.pad
        return pad(before_BTD[:, :-1], (0, 0, 1, 0)), pad(after_BTD[:, 1:], (0, 0, 0, 1))

    def output(self, k: int, states: torch.Tensor) -> torch.Tensor:
        """What the head of tower `k` reads, from its states (..., D)."""
        if self.config.probed:
            return cast(Any, self.probes[k]).transform(states)
        return self.own_output(k, states)

    def own_output(self, k: int, states: torch.Tensor) -> torch.Tensor:
        """What tower `k`'s own head (not its probe) reads, (..., E), from its states (..., D)."""
        if self.config.fusion != "concat":
            return self.transforms[k](states)
        assert self.config.separate, "joined by concat, a tower has no output of its own"
        none = torch.zeros_like(states)
        alone = (states, none) if k == 0 else (none, states)
        return self.transform(self.norm(torch.cat(alone, dim=-1)))

    def fused(self, states: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """What the joint head reads (..., E), where the joint logits are of `one_state`."""
        if self.config.fusion == "concat":
            return self.transform(self.norm(torch.cat(states, dim=-1)))
        first, second = (t(h) for t, h in zip(self.transforms, states, strict=True))
        return first + second

    def log_weights(self, states: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Logarithms (..., K) of a mixture's weights."""
        if self.config.gate == "learnt":
            logit = self.gate(torch.cat(states, dim=-1)).float()
            return nn.functional.logsigmoid(torch.cat([logit, -logit], dim=-1))
        half = torch.full((2,), 0.5, device=states[0].device).log()
        return half.expand(*states[0].shape[:-1], 2)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **unused: Any
    ) -> BaseModelOutput:
        """The state that the head reads: of the view, or of the fusion where that has one."""
        states = self.tower_states(input_ids, attention_mask)
        if self.view is not None:
            state = self.output(self.view, states[self.view])
        elif self.config.one_state:
            state = self.fused(states)
        else:
            state = torch.cat(states, dim=-1)
        return BaseModelOutput(last_hidden_state=cast(Any, state))


class TwoTower(TowersPreTrainedModel, GenerationMixin):
    """Two towers with their head, as a causal or a masked language model."""

    def __init__(self, config: TowersModelConfig) -> None:
        super().__init__(config)
        self.model = TowersModel(config)
        count = len(self.model.embeddings)
        self.heads = nn.ModuleList(
            nn.Linear(config.embedding_size, config.vocab_size) for _ in range(count)
        )
        self._tied_weights_keys = {
            f"heads.{k}.weight": f"model.embeddings.{k}.token.weight" for k in range(count)
        }
        self.post_init()

    @property
    def view(self) -> int | None:
        """The tower (0 or 1) whose distribution the logits give; None: the joint one."""
        return self.model.view

    @view.setter
    def view(self, tower: int | None) -> None:
        assert tower in (None, 0, 1)
        if tower is not None and not self.model.views:
            raise UserError(
                "towers with one prediction have none each: train their probes first "
                "(lmlab train --objective probe --parent.path RUN)"
            )
        self.model.view = tower

    def head_of(self, k: int) -> nn.Linear:
        """The linear head of tower `k`."""
        if self.config.probed:
            return cast(Probe, self.model.probes[k]).head
        return self.own_head(k)

    def own_head(self, k: int) -> nn.Linear:
        """The head of tower `k` itself (not of its probe)."""
        return cast(nn.Linear, self.heads[min(k, len(self.heads) - 1)])

    def get_output_embeddings(self) -> nn.Module:
        return self.heads[0] if self.view is None else self.head_of(self.view)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        if self.view is not None and self.config.probed:
            cast(Probe, self.model.probes[self.view]).head = cast(Any, new_embeddings)
        else:
            self.heads[min(self.view or 0, len(self.heads) - 1)] = new_embeddings

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, Any], allow_all_kernels: bool = False
    ) -> None:
        """For both towers."""
        for tower in self.model.towers:
            cast(Any, tower).set_attn_implementation(attn_implementation, allow_all_kernels)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **unused: Any
    ) -> dict[str, Any]:
        """The whole text each time: towers keep no state. Prompts without padding."""
        if attention_mask is not None and not attention_mask.all():
            raise UserError("towers generate from prompts of one length, unpadded")
        return {"input_ids": input_ids}

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **unused: Any
    ) -> CausalLMOutput:
        """Logits (B, T, V); of mixtures, log-probabilities."""
        model = self.model
        if self.view is None and not self.config.one_state:
            states = model.tower_states(input_ids, attention_mask)
            logits = self.mixed(states)
        else:
            state = model(input_ids, attention_mask).last_hidden_state
            logits = self.get_output_embeddings()(state)
        return CausalLMOutput(logits=logits)

    def mixed(self, states: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities (..., V) of the mixture of the towers' own distributions."""
        log_weights = self.model.log_weights(states)
        first, second = (
            logits - (log_sum_exp(logits) - log_weights[..., k])[..., None].float()
            for k, logits in ((k, self.own_logits(k, h).float()) for k, h in enumerate(states))
        )
        return torch.logaddexp(first, second)

    def own_logits(self, k: int, states: torch.Tensor) -> torch.Tensor:
        """Logits (..., V) of tower `k` itself (not of its probe); not for joined concat."""
        return self.own_head(k)(self.model.own_output(k, states))


def with_probes(model: TwoTower, *, seed: int) -> TwoTower:
    """The same model, frozen, with a fresh probe for each tower; the two start out equal.

    `UserError` if it has probes already.
    """
    if model.config.probed:
        raise UserError("this model has its probes already; give the towers' own run as parent")
    model.requires_grad_(False)
    model.config.probed = True
    probes = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            probe = Probe(model.config.embedding_size // 2, model.config.vocab_size)
            probe.apply(model._init_weights)
        probes.append(probe.to(next(model.heads.parameters()).device))
    model.model.probes = nn.ModuleList(probes)
    return model
