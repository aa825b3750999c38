"""Functions of tensors and arrays: what lmlab computes, without files, models' names or commands.

>>> import numpy as np
>>> import lmlab.functional as F
>>> backward_N = np.array([10.2, 10.1, 9.9, 10.3, 10.0])
>>> F.arrow_of_time(np.full(5, 10.0), backward_N, np.arange(5)).relative > 0
True
"""

from lmlab.data.synthetic.linear_language import LinearLanguage
from lmlab.data.synthetic.markov import MarkovChain
from lmlab.data.synthetic.primes import PrimeProducts
from lmlab.numerics.random_effects import two_way_difference, two_way_interval
from lmlab.numerics.scatter import Scatter
from lmlab.objectives.contrastive import contrastive_loss
from lmlab.objectives.cross_entropy import linear_cross_entropy
from lmlab.topics.arrow.arrow import arrow_of_time
from lmlab.topics.arrow.documents import arrows_by_document
from lmlab.topics.decomposition.decomposition import decompose, leave_one_out
from lmlab.topics.encoding.encoding import fit_encoding
from lmlab.topics.encoding.steering import steer as steering
from lmlab.topics.encoding.token_probability import mean_token_probability

__all__ = [
    "LinearLanguage",
    "MarkovChain",
    "PrimeProducts",
    "Scatter",
    "arrow_of_time",
    "arrows_by_document",
    "contrastive_loss",
    "decompose",
    "fit_encoding",
    "leave_one_out",
    "linear_cross_entropy",
    "mean_token_probability",
    "steering",
    "two_way_difference",
    "two_way_interval",
]
