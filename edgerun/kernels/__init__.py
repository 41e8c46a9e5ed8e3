"""Integer arithmetic on arrays, one family a file. Outputs come first, shapes stand beside every array.

Kernels trust their caller: `spec` checked the ranges, `plan` the shapes, `bundle` the bytes. None of them allocates an
array on the inference path; scratch arrives as an argument. `docs/arithmetic.md` names every rounding rule used here.
"""
