"""What a model is trained to do: the objectives by name, and their options. Imports no torch.

An objective is a reading (what the model sees of a text, and what it has to predict) and a
criterion (how its predictions are held against the text). The classes of both are registered in
`lmlab.objectives`; here every pair that can be asked for has its name. Objectives from outside of
lmlab (`lmlab.extend`) stand in `ADDED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from lmlab.config.numbers import Options, above_zero
from lmlab.errors import UserError

ReadingName = Literal["causal", "masked", "mixed", "cloze", "whole-text"]
CriterionName = Literal["softmax", "contrastive", "fused-towers", "tower-probes", "labels"]


class Pair(NamedTuple):
    """The two parts of an objective, by their names."""

    reading: str
    criterion: str


OBJECTIVES: dict[str, Pair] = {
    "causal": Pair("causal", "softmax"),
    "headless": Pair("causal", "contrastive"),
    "masked": Pair("masked", "softmax"),
    "headless-masked": Pair("masked", "contrastive"),
    "mixed": Pair("mixed", "softmax"),
    "towers": Pair("causal", "fused-towers"),
    "towers-masked": Pair("masked", "fused-towers"),
    "towers-cloze": Pair("cloze", "fused-towers"),
    "probe": Pair("causal", "tower-probes"),
    "probe-masked": Pair("masked", "tower-probes"),
    "probe-cloze": Pair("cloze", "tower-probes"),
    "classification": Pair("whole-text", "labels"),
    "cloze": Pair("cloze", "softmax"),
}
_READINGS = get_args(ReadingName)
ADDED: dict[str, Pair] = {}
"""Those from outside of lmlab that this process has registered."""
_NAMES: dict[tuple[str, str], str] = {pair: name for name, pair in OBJECTIVES.items()}
OPTIONS_OF = {
    "headless": {"contrastive"},
    "masking": {"masked", "mixed"},
    "mixed": {"mixed"},
    "towers": {"fused-towers"},
}
"""Groups of options, and the readings or criteria that have them."""


class UnknownObjective(UserError):
    """An objective that is not lmlab's, and that this process has not registered."""


class AddedObjective(str):
    """The name of an objective from outside, as the type of an option."""

    @classmethod
    def from_plain(cls, value: object, *, where: str) -> str:
        if value not in ADDED:
            raise UserError(f"{where}: {value!r} is not registered")
        return str(value)


if TYPE_CHECKING:
    ObjectiveName = str
    TrainedObjective = str
else:
    # "cloze" is how trained towers are scored; nothing is trained so
    ObjectiveName = Literal[tuple(name for name in OBJECTIVES if name != "cloze")]
    TrainedObjective = ObjectiveName | AddedObjective


def pair_of(name: object) -> Pair:
    """The reading and the criterion of an objective. `UnknownObjective` for an unknown name."""
    pair = OBJECTIVES.get(str(name)) or ADDED.get(str(name))
    if pair is None:
        raise UnknownObjective(
            f"unknown objective {name!r}; this lmlab knows {', '.join([*OBJECTIVES, *ADDED])}. One "
            "of your own is known after lmlab.extend.register_objective, in every process anew; a "
            "model of it that lmlab.export wrote is read without"
        )
    return pair


def reads_as(reading: str) -> ReadingName:
    """Which of lmlab's readings one is, or is a kind of: those from outside are causal."""
    return cast(ReadingName, reading) if reading in _READINGS else "causal"


def objective_name(reading: str, criterion: str) -> str:
    """The name of a pair, as `--objective` takes it. `UserError` for a pair without a name."""
    added: dict[tuple[str, str], str] = {pair: name for name, pair in ADDED.items()}
    name = (_NAMES | added).get((reading, criterion))
    if name is None:
        raise UserError(f"no objective reads a text as {reading} and has the criterion {criterion}")
    return name


OutputBias = Literal["none", "fixed", "learnt"]
CandidateLaw = Literal["batch", "other-windows", "unigram", "mixture"]


@dataclass(frozen=True)
class HeadlessConfig(Options, prefix="headless."):
    """The contrastive loss of a headless model, and the candidates that a target is told from."""

    temperature: float = 1.0
    cosine: bool = False
    """Divide hidden states and embeddings by their norms; wants a temperature well below 1."""
    duplicates: Literal["count", "unique"] = "count"
    """count: a target that occurs twice is two negatives (as published); unique: one."""
    detach_targets: bool = False
    """No gradient to the embeddings from their part as targets and negatives."""
    cross_entropy: float = 0.0
    """Share of full cross-entropy (with the log-unigram bias) in the loss; 0 is headless alone."""
    candidates: CandidateLaw = "batch"
    """batch: the micro-batch's targets (as published), a share of 1 / windows of them from a row's
    own window, which biases the model against what repeats; other-windows: those of the others;
    unigram: independent draws from the training split's tokens, without bias; mixture: targets and
    draws, weighted so that every row's candidates follow the unigram distribution."""
    draws: int | None = None
    """Of unigram and mixture: how many are drawn for a micro-batch (default: as many as it has
    targets). Of batch: so many of its targets are candidates (default: all)."""

    def __post_init__(self) -> None:
        above_zero(self, "temperature")
        if self.draws is not None and self.candidates == "other-windows":
            raise UserError(
                "`headless.draws`: the candidates other-windows are all targets of those; leave it "
                "out, or use `headless.candidates` batch, unigram or mixture"
            )
        if self.duplicates == "unique" and not self.is_published_law:
            raise UserError(
                "`headless.duplicates` unique is for `headless.candidates` batch without draws: "
                "other laws need every candidate counted"
            )
        if self.cross_entropy >= 1:
            raise UserError(
                f"`headless.cross_entropy` {self.cross_entropy} must be at least 0 and below 1; "
                "for cross-entropy alone use `objective` causal or masked"
            )

    @property
    def is_published_law(self) -> bool:
        """Whether the candidates are all targets of the micro-batch."""
        return self.candidates == "batch" and self.draws is None

    @property
    def needs_prior(self) -> bool:
        """Whether the candidates follow from the log-unigram distribution."""
        return self.candidates in ("unigram", "mixture")


@dataclass(frozen=True)
class MaskingConfig(Options, prefix="masking."):
    """Which tokens a masked model has to predict, and what it sees in their place.

    The defaults are BERT's (Devlin et al. 2019, section 3.1). What is neither masked nor replaced
    stays as it is, and is predicted all the same.
    """

    rate: float = 0.15
    """Share of a window's tokens that are predicted (special tokens never are)."""
    mask: float = 0.8
    """Share of those that the model sees as the mask token."""
    random: float = 0.1
    """Share of those that the model sees as a random token."""
    whole_words: bool = False
    """Choose whole words: all tokens of a word, or none."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"`masking.rate` {self.rate} must be above 0 and at most 1")
        if self.mask + self.random > 1:
            raise UserError(
                f"`masking.mask` {self.mask} and `masking.random` {self.random} are shares of the "
                "predicted tokens: not negative, and at most 1 together"
            )


@dataclass(frozen=True)
class MixedConfig(Options, prefix="mixed."):
    """Which windows a mixed model fills masks in; it reads the others from the left."""

    masked: float = 0.5
    """Their share; at each step every window is drawn anew."""

    def __post_init__(self) -> None:
        if not 0 < self.masked < 1:
            raise UserError(
                f"`mixed.masked` {self.masked} must be above 0 and below 1; for one kind alone use "
                "`objective` causal or masked"
            )
