"""Every constant that decides the bytes of a compact model, of its file and of its C, in one value.

It is apart from :mod:`eigenmill.reduce.format`, because what ``reduce`` writes does not depend on it. It does not
travel: training, packing and exporting are done in one process, which looks up :func:`current`. The constants of the
packed file belong to its magic bytes, by which a reader knows them; they are never another value under the same magic,
and modules take them from :data:`FORMAT_1` once. Recipes, searches and teachers keep what they have done under keys
that hold a version of their own (``VERSION`` in ``distill`` and in ``jobs.recipes.steps``): a change here is a change
there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """The constants. The defaults are those of format 1, and of the magic bytes ``EMILL`` 1 to 3."""

    # What models learn from, and how they are trained.

    counted: int = 1 << 16
    """Values of a category that are counted at a time: far more than a vocabulary keeps."""
    entry_bytes: int = 64
    """Bytes that these may have on average, in UTF-8, so that their memory is bounded."""
    outlier: float = 8.0
    """Codes reach as far as the data does, but no farther than so many standard deviations from the mean."""
    piece_bytes: int = 16 << 20
    """Size of a piece that training holds in memory; it shapes the order of the rows."""
    refresh: int = 100
    """Steps of training after which the price of bits follows the frequencies of the weights."""
    grid: int = 64
    """How many steps of the weights are tried per layer."""
    quantile: float = 0.9999
    """Of a layer's results: what lies above saturates."""
    score_step: float = 1 / 16
    """Of a class's score, as a logit: biases of the last layer are rounded to at most a quarter of it."""
    patience: int = 3
    """Trials in a row that may bring nothing better within the limits before a search ends."""
    least_penalty: float = 1e-8
    """Smallest price of a bit that a search tries: below it, none is felt."""
    most_penalty: float = 1e-2
    """Largest price of a bit that a search tries: above it, nothing is learnt."""

    # The exported C.

    lanes: int = 16
    """Inputs of a loop are a multiple of it: compilers then turn the loop into vector instructions at -O2."""

    # The packed file.

    multiplier_bits: int = 15
    """Bits of the multiplier between two layers: its product with a sum below 2**47 stays below 2**62."""
    cosine_unit: int = 64
    """What a constant wave of a cosine transform is; all others then fit into 8 bits, as in HEVC."""
    precision: int = 12
    """Probabilities of the range coder are whole multiples of 2**-12."""
    whole: int = 1 << 24
    """The range coder gives out bytes when its range has shrunk below it."""
    skip: int = 31
    """The symbol of Huffman's code that stands for as many zeros and no weight: 5 bits before coding."""


FORMAT_1 = Format()
"""What every packed file has been written by."""
CURRENT = FORMAT_1
"""What models are made by."""


def current() -> Format:
    """:data:`CURRENT`, looked up where it is used."""
    return CURRENT


__all__ = ["CURRENT", "FORMAT_1", "Format", "current"]
