"""What the encoding study measures: models that were trained in different ways, each analysed."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmlab.numerics.random_effects import Interval
from lmlab.results import Result
from lmlab.studies.rates import Rates
from lmlab.topics.counting.baseline import AgainstCounting
from lmlab.topics.encoding.dynamics import Dynamics
from lmlab.topics.encoding.edits import Method
from lmlab.topics.encoding.of_model import EncodingResult
from lmlab.topics.encoding.options import EncodingStudyConfig
from lmlab.topics.encoding.pruning_curves import PruneResult
from lmlab.topics.encoding.written_prior import WrittenPrior

EDITS: tuple[tuple[str, Method, bool], ...] = (
    ("as predicted by the encoding", "minimum_norm", False),
    ("minimum norm, solved", "minimum_norm", True),
    ("least variance, solved", "whitened", True),
    ("logit bias (yardstick)", "bias", False),
)
"""Name, method, and whether the size is solved, of the edits that single tokens are steered by."""


@dataclass(frozen=True)
class SteeredToken:
    """One token steered alone, by one factor and one kind of edit, on one text."""

    token: str
    count: int
    """In the training split."""
    factor: float
    """Asked for."""
    method: Method
    solved: bool
    """Whether the edit's size was solved for the estimation text; else it is as predicted."""
    text: str
    realised: Interval
    kl: float
    """Mean KL(before || after) over contexts, nats."""
    nats: float
    """Change of the nats per token of the text."""


@dataclass(frozen=True)
class AnalysedModel:
    """One model with one of its heads; of the embedding alone (`raw`) the encoding only."""

    name: str
    """Of the way to train it (`options.ARM_NAMES`)."""
    label: str
    raw: bool
    """Whether the output bias that lmlab gave the model is left out."""
    run: str
    encoding: EncodingResult
    dynamics: Dynamics | None
    """None too where the study does not watch its models."""
    steering: tuple[SteeredToken, ...]
    pruning: PruneResult | None
    written_prior: tuple[WrittenPrior, ...]
    """Of a headless model."""


@dataclass(frozen=True)
class OneVocabulary:
    """All models of one vocabulary; the first is shown in full."""

    vocabulary: int
    store: str
    models: tuple[AnalysedModel, ...]
    counting: AgainstCounting | None = None
    """The models with their own heads against counted n-grams; None of older results."""


@dataclass(frozen=True)
class EncodingStudy(Result, kind="encoding"):
    """How output embeddings hold token probability, in models of different objectives."""

    corpus: str
    config: EncodingStudyConfig
    parts: tuple[OneVocabulary, ...]
    rates: dict[str, Rates] = field(default_factory=dict)
    """Of each vocabulary and arm, where several were tried."""
