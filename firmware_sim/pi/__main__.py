"""`python -m firmware_sim.pi`: the agent on emulated Raspberry Pis, doing to the bit what it does here.

    machines made, or taken from the cache -> on each, side by side: one life, meanwhile every job on every backend

Exit codes: 0 all equal; 1 something differs or fails; 2 a program is missing here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from edgerun.cli import THREADS
from edgerun.errors import EdgeRunError
from edgerun.kernels.native import VARIABLE, Backend
from firmware_sim.pi.jobs import JOBS, Case, Found, Job, compare, expected, last_words, make_case, perform
from firmware_sim.pi.life import Life, broker
from firmware_sim.pi.machines import MACHINES, Machine, check_tools
from firmware_sim.pi.roots import HOUSE, Pi, make

BUNDLE: Final = HOUSE / "examples/spoken_digits/model.edgb"
GOLDEN: Final = tuple(
    f"tests/unit/test_{name}.py" for name in ("golden_families", "golden_vectors", "golden_lessons", "native_layers")
)
STORED: Final = "stored_bits or stored_factors"
"""The tests of the golden vectors, by numpy and by C, among those of their files."""
CACHE: Final = "EDGERUN_PI_CACHE"
"""The environment variable that names the folder of root file systems."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m firmware_sim.pi", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--machine", action="append", choices=tuple(MACHINES), help="default: all of them")
    parser.add_argument("--cache", type=Path, default=cache(), metavar="DIR", help=f"default: {CACHE}, or build/pi")
    args = parser.parse_args(argv)
    table, began = Table(), time.monotonic()
    try:
        check_tools([MACHINES[name] for name in args.machine or MACHINES])
        emulate([MACHINES[name] for name in dict.fromkeys(args.machine or MACHINES)], args.cache, table)
    except EdgeRunError as err:
        print(f"emulate-pi: {err}", file=sys.stderr)
        return err.exit_code
    wrong = sum(row.wrong != "" for row in table.rows)
    print(f"{f'{wrong} of {len(table.rows)} differ' if wrong else 'all equal'}, {time.monotonic() - began:.0f} s")
    return EdgeRunError.exit_code if wrong else 0


def cache() -> Path:
    """Where root file systems are kept."""
    return Path(os.environ.get(CACHE) or HOUSE / "build/pi")


# ------------------------------------------------------------------ the table


class Row(NamedTuple):
    """What was done on a machine, what went otherwise than here ("": nothing), and how long it took."""

    machine: str
    what: str
    wrong: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.machine:<7}{self.what:<38}{self.seconds:>7.1f} s  {self.wrong or 'equal'}"


@dataclass
class Table:
    """Rows as they come, each printed at once."""

    rows: list[Row] = field(default_factory=list)

    def add(self, machine: str, what: str, act: Callable[[], object]) -> bool:
        """Do it and time it; an EdgeRunError is what is wrong. Whether nothing is."""
        began, wrong = time.monotonic(), ""
        try:
            act()
        except EdgeRunError as err:
            wrong = str(err)
        self.rows.append(Row(machine, what, wrong, time.monotonic() - began))
        print(self.rows[-1], flush=True)
        return not wrong


# ------------------------------------------------------------------ what is done


def emulate(machines: Sequence[Machine], cache: Path, table: Table) -> None:
    """Fill the table. Raises Refused and EdgeRunError where there is nothing to compare."""
    pis = []
    for machine in machines:
        began = time.monotonic()
        pis.append(make(machine, cache))
        print(f"{machine.name:<7}{'made, or taken from the cache':<38}{time.monotonic() - began:>7.1f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="emulate-pi-") as name, ThreadPoolExecutor(len(pis)) as pool:
        folder = Path(name)
        case = make_case(BUNDLE, folder)
        wanted = expected(case, here, folder)
        with broker(folder / "broker") as url:
            for told in [pool.submit(live, pi, case, wanted, url, folder / pi.machine.name, table) for pi in pis]:
                told.result()


def live(pi: Pi, case: Case, wanted: Mapping[str, Found], url: str, folder: Path, table: Table) -> None:
    """Everything on one machine, while the device on it waits for its budget to let it learn."""
    folder.mkdir()
    name = pi.machine.name

    def there(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = pi.environment(HOUSE, **variables)
        return subprocess.run(pi.command(*arguments), capture_output=True, text=True, cwd=HOUSE, env=environment)

    def golden() -> None:
        ended = there("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", STORED, *GOLDEN)
        if ended.returncode:
            failed = [line for line in ended.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            raise EdgeRunError(failed[0] if failed else last_words(ended.stdout + ended.stderr))

    def equal(job: Job, backend: Backend) -> None:
        compare(perform(job, case, backend, there, folder), wanted[job.what])

    with Life(pi, case, url, folder) as life:
        for job in JOBS:
            for backend in job.backends:
                table.add(name, f"{job.what}, {backend}", partial(equal, job, backend))
        table.add(name, "golden vectors and lessons", golden)
        story: dict[str, Callable[[], object]] = {
            "taught a class over the broker": partial(life.teach, here),
            "corrected over the broker": partial(life.correct, here),
            "events heard, ended by SIGTERM": life.end,
            "journal replayed here": partial(life.replayed, here),
        }
        all(table.add(name, f"run: {what}", act) for what, act in story.items())


def here(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python on this machine, by numpy, in one thread, without the user's own settings of edgerun."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("EDGERUN_")}
    environment = mine | dict.fromkeys(THREADS, "1") | {VARIABLE: "numpy"} | variables
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=HOUSE, env=environment
    )


if __name__ == "__main__":
    sys.exit(main())
