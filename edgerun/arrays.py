"""Names for the arrays that kernels speak. `I16` reads as "an int16 array"; shapes stand in the docstrings."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bool: TypeAlias = NDArray[np.bool_]
U8: TypeAlias = NDArray[np.uint8]
I8: TypeAlias = NDArray[np.int8]
U16: TypeAlias = NDArray[np.uint16]
I16: TypeAlias = NDArray[np.int16]
U32: TypeAlias = NDArray[np.uint32]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.intp]
AnyArray: TypeAlias = NDArray[Any]
Tensors: TypeAlias = dict[str, AnyArray]


def places(index: I64, count: int) -> Places:
    """`index` as `np.take` wants it: itself, or a copy cut to 0 .. count - 1 where a place in memory has 32 bits."""
    fits = index.dtype == np.intp
    return (index if fits else np.clip(index, 0, count - 1)).astype(np.intp, copy=False)
