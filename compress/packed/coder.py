"""How the weights of a packed layer become bits: adaptive binary decisions in contexts, and a range coder.

The probabilities of a decision are learnt while coding, on both sides alike, in whole numbers: no table is stored.
:func:`code_weights` says which decisions a matrix is made of; it is run by the encoder and by the decoder. The
encoder is constriction's range coder; the decoder is a few lines of plain Python here, which is also the reference
of the format, so that no new version of a library can orphan a file.

The scheme is that of DeepCABAC (Wiedemann et al. 2020, section III): significance, sign, magnitude.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from eigenmill.compress.format import FORMAT_1
from eigenmill.reduce.errors import ArtifactError, ConfigError

PRECISION = FORMAT_1.precision
"""Probabilities are whole multiples of 2**-12, 1 to 4,095 of them."""
WHOLE = FORMAT_1.whole
MASK64 = (1 << 64) - 1
DECISIONS_PER_BYTE = 22_800
"""No decision costs less than log2(4096 / 4095) bits, so a byte holds no more of them."""


class Coder(Protocol):
    """Either side: ``bit`` takes the decision to encode and gives it back, or ignores it and gives the decoded one."""

    def bit(self, context: int, value: int) -> int: ...
    def raw(self, value: int) -> int: ...


class Contexts:
    """Adaptive probabilities of a one: the mean of a fast and a slow running frequency, of 16 bits each."""

    def __init__(self) -> None:
        self._fast: dict[int, int] = {}
        self._slow: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def ones(self, context: int) -> int:
        """The probability of a one, in 2**-12."""
        p = (self._fast.get(context, 1 << 15) + self._slow.get(context, 1 << 15)) >> (17 - PRECISION)
        return min(max(p, 1), (1 << PRECISION) - 1)

    def learn(self, context: int, bit: int) -> None:
        """Moves both frequencies towards ``bit``, by 1/2, 1/4, 1/8 ... down to 1/16 and 1/128."""
        seen = self._seen.get(context, 0)
        self._seen[context] = seen + 1
        age = seen.bit_length() + 1
        goal = bit << 16
        fast, slow = self._fast.get(context, 1 << 15), self._slow.get(context, 1 << 15)
        self._fast[context] = fast + ((goal - fast) >> min(age, 4))
        self._slow[context] = slow + ((goal - slow) >> min(age, 7))


class Encoder:
    """The encoding side, over constriction's range coder."""

    def __init__(self) -> None:
        try:
            import constriction
        except ModuleNotFoundError as error:
            raise ConfigError(f"expected the extra for packing: pip install 'eigenmill[compress]' ({error})") from error
        count = 1 << PRECISION
        bernoulli = constriction.stream.model.Bernoulli
        self._models = [None, *(bernoulli(i / count, perfect=False) for i in range(1, count))]
        self._coder = constriction.stream.queue.RangeEncoder()
        self._contexts = Contexts()

    def bit(self, context: int, value: int) -> int:
        self._coder.encode(value, self._models[self._contexts.ones(context)])
        self._contexts.learn(context, value)
        return value

    def raw(self, value: int) -> int:
        self._coder.encode(value, self._models[1 << (PRECISION - 1)])
        return value

    def content(self) -> bytes:
        """What has been encoded: whole words of 32 bits, little-endian."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


def zero_share(ones: int) -> int:
    """Of 2**24, what belongs to a zero when a one has the probability ``ones`` / 2**12."""
    return 1 + (((1 << PRECISION) - ones) * (WHOLE - 2) >> PRECISION)


class Decoder:
    """The decoding side: a range decoder with 64 bits of state and words of 32 bits, in plain Python."""

    def __init__(self, content: bytes) -> None:
        if len(content) % 4:
            raise ArtifactError(f"expected coded weights in words of 4 bytes, found {len(content)} bytes")
        self._words = [int(word) for word in np.frombuffer(content, "<u4")]
        self._at, self._lower, self._range, self._point = 0, 0, MASK64, 0
        self._contexts = Contexts()
        self._next()
        self._next()

    def _next(self) -> None:
        word = self._words[self._at] if self._at < len(self._words) else 0
        self._at += 1
        self._point = (self._point << 32 | word) & MASK64

    def bit(self, context: int, value: int = 0) -> int:
        found = self._decide(zero_share(self._contexts.ones(context)))
        self._contexts.learn(context, found)
        return found

    def raw(self, value: int = 0) -> int:
        return self._decide(zero_share(1 << (PRECISION - 1)))

    def _decide(self, zero: int) -> int:
        unit = self._range >> 24
        place = ((self._point - self._lower) & MASK64) // unit
        if place >= WHOLE:
            raise ArtifactError("expected coded weights, found bits that no encoder makes; the file is damaged")
        if place < zero:
            found, self._range = 0, unit * zero
        else:
            found, self._range = 1, unit * (WHOLE - zero)
            self._lower = (self._lower + unit * zero) & MASK64
        if self._range < 1 << 32:
            self._lower = self._lower << 32 & MASK64
            self._range <<= 32
            self._next()
        return found

    def finish(self) -> None:
        """Refuses words that the encoder would not have made of what was decoded: too many, too few, or others.

        An encoder ends with the first multiple of 2**32 that is not below ``lower``, in one word, or in two if a zero
        must follow it. Before it there is no choice, so that equal ends are equal bytes.
        """
        end = (self._lower + 0xFFFFFFFF) & MASK64 & ~0xFFFFFFFF
        two = (self._lower + self._range & MASK64) >> 32 == end >> 32
        words, point = (self._at - 1 + two, end) if self._range != MASK64 else (0, 0)
        if len(self._words) != words or self._point != point:
            raise ArtifactError(
                f"expected {words} words of coded weights as an encoder ends them, found {len(self._words)}; "
                "the file is damaged"
            )


# Contexts: the first digit says for what, the rest for which neighbourhood.
_ZERO, _SIGN, _LENGTH, _MANTISSA, _NUMBER = 0, 1 << 10, 2 << 10, 3 << 10, 4 << 10


def code_weights(coder: Coder, weights: npt.NDArray[np.int64], width: int, most: int) -> None:
    """Encode the matrix ``weights`` (n_in, n_out), or fill it with what is decoded.

    Row by row. Whether a weight is 0 is expected from the neighbours before it: those of the same output at the
    inputs to the left and, in a picture ``width`` inputs wide (0: none), above; and from how many weights of its row
    and of its column have been other than 0.

    Args:
        coder: either side.
        weights: changed by a decoder only.
        width: of the picture that the inputs are.
        most: the largest absolute value.

    Raises:
        ArtifactError: a decoded value is larger than ``most``.
    """
    n_in, n_out = weights.shape
    blank = [0] * n_out
    above: list[list[int]] = []  # the last ``width + 1`` rows
    columns = [0] * n_out
    for j in range(n_in):
        row = [int(w) for w in weights[j]]
        left = above[-1] if above and (not width or j % width) else blank
        up = above[-width] if width and len(above) >= width else blank
        corner = above[-width - 1] if width and len(above) > width and j % width else blank
        right = above[-width + 1] if width > 1 and len(above) >= width and (j + 1) % width else blank
        used, last = 0, 0
        for k in range(n_out):
            a, b = left[k], up[k]
            near = (a != 0) + (b != 0) + (corner[k] != 0) + (right[k] != 0)
            busy = 0 if not k else 1 + min((8 * used) // k, 4)
            full = 0 if not j else 1 + min((6 * columns[k]) // j, 2)
            value, size = row[k], 0
            if coder.bit(_ZERO + (((near * 6 + busy) * 4 + full) << 1 | last), int(value != 0)):
                tone = (a > 0) + (b > 0) - (a < 0) - (b < 0)
                negative = coder.bit(_SIGN + tone + 2, int(value < 0))
                size = _code_size(coder, abs(value), min((abs(a) + abs(b)).bit_length(), 7))
                if size > most:
                    raise ArtifactError(f"expected weights up to {most}, found {size}; the file is damaged")
                value = -size if negative else size
                used += 1
                columns[k] += 1
            else:
                value = 0
            last = int(value != 0)
            row[k] = value
        weights[j] = row
        above.append(row)
        if len(above) > width + 1:
            above.pop(0)


def _code_size(coder: Coder, size: int, near: int) -> int:
    """A size from 1: its length in bits in unary, then the bits after the first, two of them in contexts."""
    length = size.bit_length()
    found = 1
    while found < 16 and coder.bit(_LENGTH + near * 16 + found, int(length > found)):
        found += 1
    value = 1
    for place in range(found - 2, -1, -1):
        bit = size >> place & 1
        depth = found - 2 - place
        known = coder.bit(_MANTISSA + found * 4 + depth * 2 + (value & depth), bit) if depth < 2 else coder.raw(bit)
        value = value << 1 | known
    return value


def code_numbers(coder: Coder, numbers: npt.NDArray[np.int64], most: int) -> None:
    """Encode whole numbers below 2**47, such as biases, or fill ``numbers`` (n,) with what is decoded.

    Whether a number is 0, its sign and the length of its size are learnt, the bits after the first are not.

    Raises:
        ArtifactError: a decoded value is larger than ``most``.
    """
    for i, number in enumerate(numbers.tolist()):
        value, size = 0, abs(number)
        if coder.bit(_NUMBER, int(number != 0)):
            negative = coder.bit(_NUMBER + 1, int(number < 0))
            length = 1
            while length < 47 and coder.bit(_NUMBER + 1 + length, int(size.bit_length() > length)):
                length += 1
            value = 1
            for place in range(length - 2, -1, -1):
                value = value << 1 | coder.raw(size >> place & 1)
            if value > most:
                raise ArtifactError(f"expected numbers up to {most}, found {value}; the file is damaged")
            value = -value if negative else value
        numbers[i] = value


__all__ = ["Coder", "Decoder", "Encoder", "code_numbers", "code_weights"]
