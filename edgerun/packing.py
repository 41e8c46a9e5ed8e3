"""Weights in fewer bytes than one each, as a bundle stores them; nothing that computes ever sees these bytes.

    plain   n bytes (times the dtype's size): the values, C order
    int4    ceil(n / 2): two's complement nibbles, the first value in the low one; values in [-7, 7]
    int2    ceil(n / 4): two's complement pairs of bits, the first value in the lowest; values in [-1, 1]
    sparse  1 + ceil(m / 8) + k + ceil(z b / 8), m = ceil(n / 8)

Sparse is a bit mask that leaves out its own empty bytes: one byte b (2, 4 or 8: bits of a value), a bit for each of the
m mask bytes that says whether it is there, the k that are, then the z values that are not 0, in b bits each. With a
share d of weights left, that is near n (1/64 + (1 - (1 - d)^8)/8 + d b/8) bytes: 0.073 n at 3 % and 8 bits, where a
whole mask takes 0.155 n; at 30 % they are equal. Bits fill bytes from the lowest; those behind the last value are 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from edgerun.arrays import I8, U8, AnyArray
from edgerun.errors import BundleError
from edgerun.spec import Packing

BITS: Final[Mapping[Packing, int]] = MappingProxyType({"int4": 4, "int2": 2})
WIDTHS: Final = (2, 4, 8)


def top(bits: int) -> int:
    """The largest magnitude of a symmetric value of so many bits."""
    return (1 << (bits - 1)) - 1


def narrowest(values: AnyArray) -> int:
    """The least of 2, 4 and 8 bits that hold all values of an int8 array."""
    peak = max(-int(values.min(initial=0)), int(values.max(initial=0)))
    return next((bits for bits in WIDTHS[:-1] if peak <= top(bits)), WIDTHS[-1])


def best_packing(array: AnyArray) -> Packing:
    """The packing that stores these values in the fewest bytes; of equals the simplest. Only int8 is ever packed."""
    if array.dtype != np.int8 or array.size == 0:
        return "plain"
    bits, n = narrowest(array), array.size
    dense: Packing = {2: "int2", 4: "int4"}.get(bits, "plain")  # type: ignore[assignment]  # literals
    return "sparse" if sparse_bytes(array) < math.ceil(n * bits / 8) else dense


def sparse_bytes(array: AnyArray) -> int:
    """How many bytes `sparse` takes for an int8 array."""
    bits, masks = narrowest(array), math.ceil(array.size / 8)
    there = np.count_nonzero(np.packbits(array.reshape(-1) != 0))
    return 1 + math.ceil(masks / 8) + int(there) + math.ceil(np.count_nonzero(array) * bits / 8)


def pack_array(name: str, array: AnyArray, packing: Packing) -> bytes:
    """The bytes of an array, little-endian. Raises BundleError where a value does not fit the packing."""
    if packing == "plain":
        plain: bytes = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return plain
    if array.dtype != np.int8:
        raise BundleError(f"{name} is {array.dtype.name}, only int8 is stored as {packing}")
    values: I8 = np.ascontiguousarray(array).reshape(-1)
    if packing == "sparse":
        return _pack_sparse(values)
    most = top(BITS[packing])
    if (np.abs(values.astype(np.int16)) > most).any():
        raise BundleError(f"{name} has values outside [{-most}, {most}], which {packing} cannot hold")
    return _pack_bits(values, BITS[packing])


def check_length(name: str, packing: Packing, dtype: str, shape: tuple[int, ...], length: int) -> None:
    """Raise BundleError where a section of `length` bytes cannot hold this array. Looks at no byte, takes no memory."""
    n = math.prod(shape)
    if packing == "sparse":
        least, most = 1 + math.ceil(math.ceil(n / 8) / 8), 1 + math.ceil(math.ceil(n / 8) / 8) + math.ceil(n / 8) + n
    else:
        least = most = math.ceil(n * BITS.get(packing, 8 * np.dtype(dtype).itemsize) / 8)
    if not least <= length <= most:
        size = f"{least}" if least == most else f"{least} to {most}"
        form = dtype if packing == "plain" else f"{dtype} as {packing}"
        raise BundleError(f"{name} is {form} {shape}: {size} bytes, its section has {length}")


def unpack_array(name: str, data: memoryview, packing: Packing, dtype: str, shape: tuple[int, ...]) -> AnyArray:
    """The array that these bytes hold: a view of them if they are plain, else new and read-only.

    `check_length` has passed, and the caller has bounded the array's size. Raises BundleError naming what is wrong.
    """
    if packing == "plain":
        return np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<")).reshape(shape)
    stored, n = np.frombuffer(data, dtype=np.uint8), math.prod(shape)
    values = _unpack_sparse(name, stored, n) if packing == "sparse" else _unpack_bits(name, stored, BITS[packing], n)
    array = values.reshape(shape)
    array.flags.writeable = False
    return array


# ------------------------------------------------------------------ values of a few bits


def _pack_bits(values: I8, bits: int) -> bytes:
    if bits == 8:
        return values.tobytes()
    each = 8 // bits
    fields = np.zeros(math.ceil(len(values) / each) * each, np.uint8)
    fields[: len(values)] = values.view(np.uint8) & ((1 << bits) - 1)
    fields.reshape(-1, each)[...] <<= bits * np.arange(each, dtype=np.uint8)
    stored: U8 = np.bitwise_or.reduce(fields.reshape(-1, each), axis=1)
    return stored.tobytes()


def _unpack_bits(name: str, stored: U8, bits: int, n: int) -> I8:
    """n values of `bits` each; `stored` has exactly the bytes for them."""
    if bits == 8:
        return stored.view(np.int8).copy()
    each, sign = 8 // bits, 1 << (bits - 1)
    fields = (stored[:, None] >> (bits * np.arange(each, dtype=np.uint8)) & ((1 << bits) - 1)).reshape(-1)
    if fields[n:].any():
        raise BundleError(f"{name}: the bits behind its last value are not zero")
    if (fields == sign).any():
        raise BundleError(f"{name}: holds {-sign}, outside [{-top(bits)}, {top(bits)}] of int{bits}")
    return (fields[:n] ^ sign).view(np.int8) - np.int8(sign)


# ------------------------------------------------------------------ what is not zero


def _pack_sparse(values: I8) -> bytes:
    mask = np.packbits(values != 0, bitorder="little")
    there: U8 = np.packbits(mask != 0, bitorder="little")
    kept: U8 = mask[mask != 0]
    bits = narrowest(values)
    return bytes([bits]) + there.tobytes() + kept.tobytes() + _pack_bits(values[values != 0], bits)


def _unpack_sparse(name: str, stored: U8, n: int) -> I8:
    """Each part is measured before the next is looked for."""
    bits, masks = int(stored[0]), math.ceil(n / 8)
    if bits not in WIDTHS:
        raise BundleError(f"{name}: values of {bits} bits are none of 2, 4, 8")
    at = 1 + math.ceil(masks / 8)
    present = _flags(name, stored[1:at], masks)
    mask = np.zeros(masks, np.uint8)
    end = at + int(present.sum())
    if end > len(stored):
        raise BundleError(f"{name}: its mask ends at byte {end}, its section has {len(stored)}")
    mask[present] = stored[at:end]
    if not mask[present].all():
        raise BundleError(f"{name}: an empty mask byte is stored")
    kept = _flags(name, mask, n)
    left, wanted = len(stored) - end, math.ceil(int(kept.sum()) * bits / 8)
    if left != wanted:
        raise BundleError(
            f"{name}: {int(kept.sum())} values of {bits} bits take {wanted} bytes, its section has {left}"
        )
    found = _unpack_bits(name, stored[end:], bits, int(kept.sum()))
    if not found.all():
        raise BundleError(f"{name}: a zero is stored among the values that are not")
    values: I8 = np.zeros(n, np.int8)
    values[kept] = found
    return values


def _flags(name: str, stored: U8, n: int) -> AnyArray:
    """(n,) bool from packed bits. Raises BundleError where a bit behind the last is set."""
    flags = np.unpackbits(stored, bitorder="little").view(np.bool_)
    if flags[n:].any():
        raise BundleError(f"{name}: the bits behind its last value are not zero")
    return flags[:n]
