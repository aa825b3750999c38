"""What kind of token each id of a vocabulary is: a rough grammar of types, from their text alone.

Every id is in one class:

- closed class: a whole word of `CLOSED`, English determiners, pronouns, prepositions, conjunctions,
  auxiliaries, particles and question words, in any case;
- other words: letters that begin a word (the token starts with a space, or in a vocabulary of
  pieces marked ## it is unmarked), most of them of the open classes;
- pieces: letters that go on with a word;
- digits, punctuation, space: tokens with a digit, without letter or digit, of white space alone;
- bytes: parts of a character that mean nothing alone.

Notable: a token that begins a word may be a whole word or its first piece; text alone cannot say.
Parts of speech need more than a type, so "other words" holds nouns, verbs, adjectives and names.
"""

from __future__ import annotations

import numpy as np

from lmlab.data.tokenizers import TextTokenizer

CLASSES = (
    "closed class", "other words", "pieces", "digits", "punctuation", "space", "bytes",
)  # fmt: skip

_CLOSED = """
a an the this that these those each every either neither some any no all both half such what which
whose much many more most few fewer less least several enough another other own same
i me my mine myself we us our ours ourselves you your yours yourself yourselves thou thee thy thine
ye he him his himself she her hers herself it its itself they them their theirs themselves one
oneself someone somebody something anyone anybody anything everyone everybody everything noone
nobody nothing none who whom whoever whatever whichever
of in to for with on at from by about as into like through after over between out against during
without before under around among upon within along across behind beyond near toward towards above
below beneath beside besides despite except inside outside off onto past per since till until up
down amid amidst amongst throughout unto via
and or but nor so yet if because although though while whereas unless whether than lest once when
where why how whenever wherever however therefore thus hence then
be am is are was were been being have has had having do does did doing done will would shall should
can could may might must ought cannot
not never ever also too only just even still already again there here now very quite rather
"""
CLOSED = frozenset(_CLOSED.split())


def token_classes(tokenizer: TextTokenizer, vocabulary: int) -> np.ndarray:
    """The number in `CLASSES` of each id (V,); special tokens count as bytes."""
    names = [tokenizer.backend.id_to_token(i) or "" for i in range(vocabulary)]
    marked = any(name.startswith("##") for name in names)
    special = set(tokenizer.special_ids)
    return np.array(
        [
            CLASSES.index("bytes" if i in special else _class(tokenizer.token(i), name, marked))
            for i, name in enumerate(names)
        ]
    )


def _class(text: str, name: str, marked: bool) -> str:
    if "\ufffd" in text or not text:
        return "bytes"
    if text.isspace():
        return "space"
    goes_on = name.startswith("##") if marked else not text[0].isspace()
    plain = text.removeprefix("##").strip() if marked else text.strip()
    if any(c.isdigit() for c in plain):
        return "digits"
    if not any(c.isalpha() for c in plain):
        return "punctuation"
    if goes_on:
        return "pieces"
    return "closed class" if plain.lower() in CLOSED else "other words"
