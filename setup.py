"""The C kernels as an extension for any Python from 3.11 on; everything else is in pyproject.toml.

A device without a compiler does without it: numpy computes the same bits. EDGERUN_NATIVE=require makes a build that
fails an error, EDGERUN_NATIVE=no leaves it out.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("edgerun/csrc").glob("*.c"))
HEADERS = sorted(str(path) for path in Path("edgerun/csrc").glob("*.h"))
WANTED = os.environ.get("EDGERUN_NATIVE", "")

native = Extension(
    "edgerun._native",
    SOURCES,
    depends=HEADERS,
    py_limited_api=True,
    extra_compile_args=["-std=c99", "-O3", "-fno-strict-aliasing"],
    optional=WANTED != "require",
)

setup(
    ext_modules=[] if WANTED == "no" else [native],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
