"""Synthetic sources whose entropy floor is known, the test signals of the instrument.

Each is a `Source`: an alphabet, `sample(n, seed)`, `floor(...)` in nats per character and
`text(ids)`. The true loss of the best possible model is known in both directions, so what a
trained model leaves above it is what it failed to learn.
"""

from lmlab.data.synthetic.linear_language import LinearLanguage, linear_floor
from lmlab.data.synthetic.many_to_one import ManyToOne
from lmlab.data.synthetic.markov import MarkovChain
from lmlab.data.synthetic.primes import PrimeProducts
from lmlab.data.synthetic.source import Source

__all__ = [
    "LinearLanguage",
    "ManyToOne",
    "MarkovChain",
    "PrimeProducts",
    "Source",
    "linear_floor",
]
