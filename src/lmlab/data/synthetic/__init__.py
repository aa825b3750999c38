"""Synthetic sources whose entropy floor is known, the test signals of the instrument.

Each is a distribution over strings of characters, with an `alphabet` (an id is an index into it),
`sample(n, seed)` of strings as int64 ids (N, T), and `text(ids)`. `floor(...)` is the entropy in
nats per character, the true loss of the best possible model, the same in both directions: what a
trained model leaves above it is what it failed to learn. `surprisal(ids)` gives -ln P of whole
strings in nats, (N,), infinite for a string that the source never makes. A model's nats minus these
estimate its divergence from the source with far less noise than nats minus floor.
"""

from lmlab.data.synthetic.linear_language import LinearLanguage, linear_floor
from lmlab.data.synthetic.many_to_one import ManyToOne
from lmlab.data.synthetic.markov import MarkovChain
from lmlab.data.synthetic.primes import PrimeProducts
from lmlab.data.synthetic.spam import Spam

__all__ = ["LinearLanguage", "ManyToOne", "MarkovChain", "PrimeProducts", "Spam", "linear_floor"]
