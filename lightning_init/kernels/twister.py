"""The random numbers that torch draws on the CPU, to the bit, in less time.

torch makes the words of its Mersenne twister one after the other; here eight are made at once. What becomes of them is
computed as torch does: each product and sum below, with one rounding where it has one (`fma`), in its order. Whether
that holds for the torch and the processor at hand is for `lightning_init.initializers.drawing` to see.

Matsumoto & Nishimura 1998, "Mersenne Twister: a 623-dimensionally equidistributed uniform pseudorandom number
generator"; Box & Muller 1958, "A note on the generation of random normal deviates"; logarithm, sine and cosine by the
polynomials of Moshier's Cephes library.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from lightning_init.kernels.memory import bits, compiled, floats, fma, of_bits, words

SIZE = 624  # words of the generator's state; each of them gives one number
_SHIFT = 397
_GROUP = 16  # uniform numbers that become as many normal ones
_PART = 8 * SIZE  # numbers that stay in the nearest cache between the two steps; a multiple of _GROUP

_float, _int, _word = np.float32, np.int32, np.uint32


@njit(inline="always")
def _twisted(high: int, low: int, far: int) -> int:
    mixed = (high & _word(0x80000000)) | (low & _word(0x7FFFFFFF))
    word: int = far ^ (mixed >> _word(1)) ^ ((_word(0) - (mixed & _word(1))) & _word(0x9908B0DF))
    return word


@compiled("void(int64)")
def _renew(state: int) -> None:
    """Replace the words of the state by the next ones."""
    word = carray(words(state), SIZE)
    for i in range(SIZE - _SHIFT):
        word[i] = _twisted(word[i], word[i + 1], word[i + _SHIFT])
    for i in range(SIZE - _SHIFT, SIZE - 1):
        word[i] = _twisted(word[i], word[i + 1], word[i + _SHIFT - SIZE])
    word[SIZE - 1] = _twisted(word[SIZE - 1], word[0], word[_SHIFT - 1])


@compiled("void(int64, int64, int64, float32, float32)")
def _temper(first: int, address: int, size: int, low: float, width: float) -> None:
    """Write `size` uniform numbers to `address`, one for each word from `first` on."""
    word, out = carray(words(first), size), carray(floats(address), size)
    for i in range(size):
        y = word[i]
        y ^= y >> _word(11)
        y ^= (y << _word(7)) & _word(0x9D2C5680)
        y ^= (y << _word(15)) & _word(0xEFC60000)
        y ^= y >> _word(18)
        out[i] = fma(_float(_int(y & _word(0xFFFFFF))) * _float(2**-24), width, low)


@compiled("int64(int64, int64, int64, int64, float32, float32)", nogil=True)
def uniform(state: int, position: int, address: int, size: int, low: float, width: float) -> int:
    """Write `size` float32 of U[low, low + width) to `address`.

    Args:
        state: address of the generator's words, uint32 `(624,)`, which are renewed.
        position: of the first one that is not used up.
        address: of the numbers.
        size: how many.
        low: the lower bound.
        width: upper bound minus lower bound.

    Returns:
        The new position.
    """
    done = 0
    while done < size:
        if position == SIZE:
            _renew(state)
            position = 0
        number = min(SIZE - position, size - done)
        _temper(state + 4 * position, address + 4 * done, number, low, width)
        position += number
        done += number
    return position


@njit(inline="always")
def _log(x: float) -> float:
    """Return the natural logarithm of a normal positive number: `x = 2^e (1 + r)` with r from sqrt(1/2) - 1 on."""
    whole = bits(x)
    e = _float(_int((whole >> _int(23)) - _int(126)))
    half = of_bits(_int((whole & _int(0x7FFFFF)) | _int(0x3F000000)))
    low = half < _float(0.707106781186547524)
    r = half - _float(1) + (half if low else _float(0))
    e -= _float(1) if low else _float(0)
    y = fma(_float(7.0376836292e-2), r, _float(-1.1514610310e-1))
    y = fma(y, r, _float(1.1676998740e-1))
    y = fma(y, r, _float(-1.2420140846e-1))
    y = fma(y, r, _float(1.4249322787e-1))
    y = fma(y, r, _float(-1.6668057665e-1))
    y = fma(y, r, _float(2.0000714765e-1))
    y = fma(y, r, _float(-2.4999993993e-1))
    y = fma(y, r, _float(3.3333331174e-1))
    square = r * r
    y = fma(y * r, square, e * _float(-2.12194440e-4))  # log 2 in two parts, of which the larger one has few digits
    log: float = r + (y - square * _float(0.5)) + e * _float(0.693359375)
    return log


@compiled("void(int64, int64, float32, float32)")
def _transform(address: int, groups: int, mean: float, std: float) -> None:
    """Make normal numbers of uniform ones, in place: in each group of 16, of the pairs (i, i + 8)."""
    group = carray(floats(address), (groups, _GROUP))
    for g in range(groups):
        for i in range(_GROUP // 2):
            radius = _float(math.sqrt(_float(-2) * _log(_float(1) - group[g, i])))
            angle = _float(2 * math.pi) * group[g, i + 8]
            octant = _int((_int(angle * _float(4 / math.pi)) + _int(1)) & _int(-2))
            turns = _float(octant)  # times pi / 4, in three parts
            angle = fma(turns, _float(-0.78515625), angle)
            angle = fma(turns, _float(-2.4187564849853515625e-4), angle)
            angle = fma(turns, _float(-3.77489497744594108e-8), angle)
            square = angle * angle
            cos = fma(_float(2.443315711809948e-5), square, _float(-1.388731625493765e-3))
            cos = fma(cos, square, _float(4.166664568298827e-2)) * square
            cos = fma(cos, square, square * _float(-0.5)) + _float(1)
            sin = fma(_float(-1.9515295891e-4), square, _float(8.3321608736e-3))
            sin = fma(sin, square, _float(-1.6666654611e-1)) * square
            sin = fma(sin, angle, angle)
            straight = (octant & _int(2)) == _int(0)
            first, second = (cos, sin) if straight else (sin, cos)
            first = of_bits(_int(bits(first) ^ _int((_int(octant + _int(2)) & _int(4)) << _int(29))))
            second = of_bits(_int(bits(second) ^ _int((octant & _int(4)) << _int(29))))
            group[g, i] = fma(radius * first, std, mean)
            group[g, i + 8] = fma(radius * second, std, mean)


@compiled("int64(int64, int64, int64, int64, float32, float32)", nogil=True)
def normal(state: int, position: int, address: int, size: int, mean: float, std: float) -> int:
    """Write `size` float32 of N(mean, std^2) to `address`; at least 16. Arguments and return value as of `uniform`.

    torch makes the last 16 of fresh uniform numbers where the groups do not come out even.
    """
    rest = size % _GROUP
    even = size - rest
    for start in range(0, even, _PART):
        number = min(_PART, even - start)
        position = uniform(state, position, address + 4 * start, number, 0.0, 1.0)
        _transform(address + 4 * start, number // _GROUP, mean, std)
    if rest:
        last = address + 4 * (size - _GROUP)
        position = uniform(state, position, address + 4 * even, rest, 0.0, 1.0)
        position = uniform(state, position, last, _GROUP, 0.0, 1.0)
        _transform(last, 1, mean, std)
    return position
