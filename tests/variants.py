"""The kernels built in other ways, each through the tests of the C backend: compilers, levels, processors, sanitisers.

    python tests/variants.py            what CI runs
    python tests/variants.py --all      every variant that this machine can run
    python tests/variants.py asan -- -k lif -x
    python tests/variants.py --all --lives 10000      no tests: long hostile lives in C, the same by all builds

Behind them come 300 lessons of each hostile life, unless arguments for pytest are given.

One function for several x86-64 levels (`csrc/clones.h`) is as many functions: each level is built alone here and held
to the same tests. `asan` stops at the first access out of bounds and the first undefined operation.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ROOT / "edgerun/csrc"
TESTS: Final = "tests/unit/test_native_*.py"
LIVES: Final = ("tests/trajectories.py", "--lessons", "300")
SANITISED: Final = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


class Variant(NamedTuple):
    """One way to build the extension.

    level  the x86-64 level that it is built for and needs, "" for any processor     ci  whether CI runs it
    """

    compiler: str
    flags: tuple[str, ...]
    level: str = ""
    ci: bool = False


VARIANTS: Final = {
    "gcc-O2": Variant("gcc", ("-O2",)),
    "gcc-O0": Variant("gcc", ("-O0",)),
    "gcc-Os": Variant("gcc", ("-Os",)),
    "clang-O2": Variant("clang", ("-O2",), ci=True),
    "clang-O3": Variant("clang", ("-O3",)),
    "x86-64": Variant("gcc", ("-O3", "-DER_PORTABLE"), "x86-64"),
    "x86-64-v2": Variant("gcc", ("-O3", "-DER_PORTABLE", "-march=x86-64-v2"), "x86-64-v2"),
    "x86-64-v3": Variant("gcc", ("-O3", "-DER_PORTABLE", "-march=x86-64-v3"), "x86-64-v3"),
    "x86-64-v4": Variant("gcc", ("-O3", "-DER_PORTABLE", "-march=x86-64-v4"), "x86-64-v4"),
    "asan": Variant("gcc", ("-O1", "-DER_NO_CLONES", *SANITISED), ci=True),
}
NEEDED: Final = {"x86-64": "sse2", "x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}
"""What /proc/cpuinfo calls the last step to each level."""


def build(variant: Variant, to: Path) -> Path:
    """The extension, built so, with every warning an error. Raises CalledProcessError."""
    to.mkdir(parents=True, exist_ok=True)
    library = to / "_native.abi3.so"
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    command = [variant.compiler, "-shared", "-fPIC", "-std=c99", "-Wall", "-Wextra", "-Werror", *variant.flags]
    include = sysconfig.get_paths()["include"]
    subprocess.run([*command, f"-I{include}", *sources, "-o", str(library)], check=True)
    return library


def environment(variant: Variant, library: Path) -> dict[str, str]:
    """Where the tests find it; a sanitiser's own library comes first in the process."""
    wanted = {"EDGERUN_TEST_NATIVE": str(library), "EDGERUN_BACKEND": "native"}
    if SANITISED[1] in variant.flags:
        asking = [variant.compiler, "-print-file-name=libasan.so"]
        runtime = subprocess.run(asking, capture_output=True, text=True, check=True).stdout.strip()
        wanted |= {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return os.environ | wanted


def lacking(variant: Variant) -> str:
    """Why a variant cannot run here, "" where it can."""
    if shutil.which(variant.compiler) is None:
        return f"no {variant.compiler}"
    cpu = Path("/proc/cpuinfo")
    if variant.level and (not cpu.is_file() or NEEDED[variant.level] not in cpu.read_text(encoding="ascii")):
        return f"this processor is no {variant.level}"
    return ""


def run(name: str, more: list[str]) -> Iterator[str]:
    """Build a variant and run the tests on it; yields why it failed."""
    variant, began = VARIANTS[name], time.monotonic()
    if reason := lacking(variant):
        print(f"{name}: left out, {reason}", flush=True)
        return
    library = build(variant, ROOT / "build/variants" / name)
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(TESTS))
    commands = [["-m", "pytest", "-q", "-p", "no:cacheprovider", *files, *more], *([] if more else [LIVES])]
    env = environment(variant, library)
    failed = any(
        subprocess.run([sys.executable, *each], cwd=ROOT, env=env, check=False).returncode for each in commands
    )
    print(f"{name}: {'FAILED' if failed else 'passed'} in {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        yield name


def lives(names: list[str], lessons: int) -> int:
    """Every kind of hostile life by each variant, in C alone; 1 where one of them ends in another state."""
    told: dict[str, str] = {}
    for name in names:
        variant, began = VARIANTS[name], time.monotonic()
        if reason := lacking(variant):
            print(f"{name}: left out, {reason}", flush=True)
            continue
        env = environment(variant, build(variant, ROOT / "build/variants" / name))
        command = [sys.executable, LIVES[0], "--c", "--lessons", str(lessons)]
        told[name] = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
        verdict = "equal" if told[name] == next(iter(told.values())) else "DIFFER"
        count, seconds = len(told[name].splitlines()), time.monotonic() - began
        print(f"{name}: {count} lives of {lessons} lessons {verdict}, {seconds:.0f} s", flush=True)
    return int(len(set(told.values())) > 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="VARIANT", help=f"some of: {', '.join(VARIANTS)}")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--lives", type=int, metavar="N", help="lives of N lessons, compared, in the tests' place")
    arguments = sys.argv[1:]
    own, more = (arguments, []) if "--" not in arguments else _split(arguments)
    args = parser.parse_args(own)
    unknown = [name for name in args.names if name not in VARIANTS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(VARIANTS)}")
    names = args.names or [name for name, variant in VARIANTS.items() if args.all or variant.ci]
    if args.lives:
        return lives(names, args.lives)
    failed = [failure for name in names for failure in run(name, more)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
