"""Which positions a strided slice keeps."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.tflite.graph import Shape, Unsupported
from exporters.tflite_reader import TfliteOp


def bounds(
    op: TfliteOp, shape: Shape, begin: Sequence[int], end: Sequence[int], stride: Sequence[int]
) -> tuple[list[range], Shape]:
    """The positions kept along each axis, and the shape that is left."""
    masks = op.options
    if masks["ellipsis_mask"] or masks["new_axis_mask"] or masks["offset"]:
        raise Unsupported("with an ellipsis, a new axis or ends that are offsets")
    if not len(begin) == len(end) == len(stride) <= len(shape):
        raise Unsupported(f"{len(begin)} positions of a value with {len(shape)} dimensions")
    cuts: list[range] = []
    left: list[int] = []
    for axis, size in enumerate(shape):
        if axis >= len(begin):
            cuts.append(range(size))
        elif masks["shrink_axis_mask"] >> axis & 1:
            place = begin[axis] + (size if begin[axis] < 0 else 0)
            cuts.append(range(place, place + 1))
        else:
            first = None if masks["begin_mask"] >> axis & 1 else begin[axis]
            last = None if masks["end_mask"] >> axis & 1 else end[axis]
            if stride[axis] == 0:
                raise Unsupported(f"stride 0 along axis {axis}")
            cuts.append(range(*slice(first, last, stride[axis]).indices(size)))
        if not cuts[-1] or not 0 <= cuts[-1][0] < size:
            raise Unsupported(f"keeps nothing along axis {axis} of {size}")
        if not (axis < len(begin) and masks["shrink_axis_mask"] >> axis & 1):
            left.append(len(cuts[-1]))
    return cuts, tuple(left)
