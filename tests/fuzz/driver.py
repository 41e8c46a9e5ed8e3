"""Fuzzing: files changed at random, each tried in a worker process that may die.

    python tests/fuzz [--only NAME ...] [--seconds 60] [--seed N]        every target in turn, a table at the end
    python tests/fuzz --only NAME --replay FILE                          one saved case again, with its traceback

A worker has a bound on memory and on the time of a case. A case passes where the target accepts it or raises one of our
named errors with one printable line; anything else is a finding: another exception, a warning, a signal, a timeout. The
file is kept in build/fuzz/<target>/ (--out) and the command that replays it is printed. Exit code 1 if there was one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from fuzz.targets import TARGETS, Target

from edgerun.errors import EdgeRunError

BUILD: Final = Path(__file__).parents[2] / "build" / "fuzz"
MEMORY_BYTES: Final = 4 << 30
CASE_SECONDS: Final = 10.0
MESSAGE_MAX: Final = 400
LISTED: Final = re.compile(r"(\d+) \w+ (?:is|are) not supported: ")
"""What names many things at once may be longer: 400 characters for each."""
KEPT: Final = 3
"""Files that are kept of one kind of finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`kind` tells one cause from another: an exception and where it was raised, a signal, a timeout."""

    kind: str
    text: str


@dataclass(slots=True)
class Tally:
    """What came of one target."""

    name: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    slowest_case: int = 0
    peak_mb: float = 0.0
    findings: dict[str, int] = field(default_factory=dict)


# ------------------------------------------------------------------ one case


def judged(target: Target, path: Path) -> tuple[Literal["accepted", "refused", "finding"], str, str]:
    """(outcome, kind, text) of one case."""
    try:
        target.run(path)
    except EdgeRunError as err:
        fault = wrong_message(str(err))
        return ("finding", f"message: {fault} from {place(err)}", str(err)) if fault else ("refused", "", str(err))
    except BaseException as err:  # whatever it is, it is what we look for
        text = "".join(traceback.format_exception(err))
        return "finding", f"{type(err).__name__} at {place(err)}", text
    return "accepted", "", ""


def wrong_message(text: str) -> str:
    """What is wrong with the line that a user would see; nothing if it is one."""
    if not text:
        return "empty"
    if not text.isprintable():
        return "unprintable"
    listed = LISTED.search(text)
    most = MESSAGE_MAX * (1 + int(listed[1]) if listed else 1)
    return f"over {most} characters" if len(text) > most else ""


def place(err: BaseException) -> str:
    """File and line of the innermost frame of ours."""
    frames = traceback.extract_tb(err.__traceback__)
    mine = [frame for frame in frames if "site-packages" not in frame.filename and "/fuzz/" not in frame.filename]
    last = (mine or frames)[-1]
    return f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"


def case_of(target: Target, seed: int, index: int) -> bytes:
    """The bytes of a case: always the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return target.case(random.Random(f"{seed} {target.name} {index}"))


def limited() -> None:
    """Bound this process: memory, no core files, warnings are errors."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")


# ------------------------------------------------------------------ the worker


def work(target: Target, seed: int, first: int, folder: Path, pipe: int) -> None:
    """Cases from `first` on, until somebody ends this process. Says "start" before each and what came of it after."""
    with (folder / "stderr.txt").open("w") as log:
        faulthandler.enable(log)
        os.dup2(log.fileno(), 2)
        path = folder / f"case{target.suffix}"
        for index in count(first):
            path.write_bytes(case_of(target, seed, index))
            say(pipe, {"start": index})
            began = time.perf_counter()
            with warnings.catch_warnings():
                outcome, kind, text = judged(target, path)
            seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            say(pipe, {"outcome": outcome, "kind": kind, "text": text[-4000:], "seconds": seconds, "peak": peak})


def say(pipe: int, message: dict[str, Any]) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


class Worker:
    """A forked process that tries cases, and the pipe on which it tells of them."""

    def __init__(self, target: Target, seed: int, first: int, folder: Path) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            try:
                limited()
                work(target, seed, first, folder, writer)
            except BaseException:  # a fault of the driver's own: say it, and never return into the parent's code
                say(writer, {"broken": traceback.format_exc()})
            finally:
                os._exit(3)
        os.close(writer)
        self._pipe, self._rest, self._lines = reader, b"", []

    def next(self, seconds: float) -> dict[str, Any] | Literal["timeout", "gone"]:
        """The next message, or why there is none."""
        end = time.monotonic() + seconds
        while not self._lines:
            ready, _, _ = select.select([self._pipe], [], [], max(end - time.monotonic(), 0))
            if not ready:
                return "timeout"
            chunk = os.read(self._pipe, 1 << 16)
            if not chunk:
                return "gone"
            *self._lines, self._rest = (self._rest + chunk).split(b"\n")
        found: dict[str, Any] = json.loads(self._lines.pop(0))
        return found

    def end(self) -> str:
        """End the process, its stack written to standard error if it still runs; say how it ended."""
        for sign in (signal.SIGABRT, signal.SIGKILL):
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            os.kill(self.pid, sign)
            time.sleep(0.3)
        else:
            _, status = os.waitpid(self.pid, 0)
        os.close(self._pipe)
        code = os.waitstatus_to_exitcode(status)
        return signal.Signals(-code).name if code < 0 else f"exit {code}"


# ------------------------------------------------------------------ the driver


def fuzz(target: Target, seconds: float, seed: int, most: int | None = None, build: Path = BUILD) -> Tally:
    """Try cases for so many seconds, or `most` of them. Starts another worker where one dies."""
    folder = build / target.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target.seeds()
    tally, index = Tally(target.name), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and (most is None or tally.cases < most):
        worker = Worker(target, seed, index, folder)
        index = watch(worker, target, tally, folder, seed, end, most)
    return tally


def watch(worker: Worker, target: Target, tally: Tally, folder: Path, seed: int, end: float, most: int | None) -> int:
    """Follow a worker until it dies or time is up; gives the number of the case that comes next."""
    index = -1
    while time.monotonic() < end and (most is None or tally.cases < most):
        told = worker.next(CASE_SECONDS * (1 if index >= 0 else 3))
        if isinstance(told, dict) and "start" in told:
            index = told["start"]
            continue
        tally.cases += 1
        if isinstance(told, dict) and "broken" in told:
            worker.end()
            raise RuntimeError(f"the fuzzer itself failed after case {index} of {target.name}:\n{told['broken']}")
        if isinstance(told, str):
            ended = worker.end()
            log = (folder / "stderr.txt").read_text(errors="replace")[-3000:]
            kind = f"timeout: over {CASE_SECONDS:g} s at {stack_top(log)}" if told == "timeout" else f"died: {ended}"
            keep(tally, target, folder, seed, index, Finding(kind, log))
            return index + 1
        count_in(tally, index, told)
        if told["outcome"] == "finding":
            keep(tally, target, folder, seed, index, Finding(told["kind"], told["text"]), case_of(target, seed, index))
    worker.end()
    return index + 1


def stack_top(log: str) -> str:
    """The innermost line of ours in a stack that faulthandler wrote."""
    lines = [line for line in log.splitlines() if "File" in line and "site-packages" not in line]
    return lines[0].strip().replace('"', "") if lines else "an unknown place"


def count_in(tally: Tally, index: int, told: dict[str, Any]) -> None:
    tally.accepted += told["outcome"] == "accepted"
    tally.refused += told["outcome"] == "refused"
    tally.peak_mb = max(tally.peak_mb, told["peak"])
    if told["seconds"] > tally.slowest:
        tally.slowest, tally.slowest_case = told["seconds"], index


def keep(
    tally: Tally, target: Target, folder: Path, seed: int, index: int, finding: Finding, data: bytes | None = None
) -> None:
    """Save a finding's file, and tell of the first ones of its kind."""
    seen = tally.findings[finding.kind] = tally.findings.get(finding.kind, 0) + 1
    if seen > KEPT:
        return
    path = folder / f"{seed}-{index}{target.suffix}"
    path.write_bytes((folder / f"case{target.suffix}").read_bytes() if data is None else data)
    path.with_suffix(".txt").write_text(f"{finding.kind}\n\n{finding.text}\n", errors="backslashreplace")
    where = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    print(f"FINDING {target.name}: {finding.kind}")
    print(f"  replay: {sys.executable} tests/fuzz --only {target.name} --replay {where}")
    lines = finding.text.splitlines()[-6:]
    print("\n".join(f"  {ascii(line)[1:-1][:300]}" for line in lines), flush=True)


def replay(target: Target, path: Path) -> int:
    """Try one file in this process, under the same limits."""
    faulthandler.enable()
    limited()
    signal.alarm(int(4 * CASE_SECONDS))
    outcome, kind, text = judged(target, path)
    print(f"{outcome}: {kind}\n{text}" if outcome == "finding" else f"{outcome}: {text}")
    return int(outcome == "finding")


def table(tallies: list[Tally]) -> str:
    rows = [("target", "cases", "accepted", "refused", "findings", "slowest", "peak memory")]
    for t in tallies:
        found = f"{sum(t.findings.values())} of {len(t.findings)} kinds" if t.findings else "none"
        slow = f"{t.slowest:.2f} s (case {t.slowest_case})"
        rows.append((t.name, f"{t.cases:,}", f"{t.accepted:,}", f"{t.refused:,}", found, slow, f"{t.peak_mb:.0f} MB"))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz", description="Fuzz every reader of files.")
    parser.add_argument("--only", action="append", choices=tuple(TARGETS), help="this target; may be repeated")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--cases", type=int, help="at most so many for each target")
    parser.add_argument("--seed", type=int, help="drawn anew, and printed, where not given")
    parser.add_argument("--out", type=Path, default=BUILD, help="the folder for findings")
    parser.add_argument("--replay", type=Path, help="try this one file again")
    args = parser.parse_args()
    chosen = [TARGETS[name] for name in args.only or TARGETS]
    if args.replay:
        return replay(chosen[0], args.replay)
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    print(f"seed {seed}, {args.seconds:g} s a target", flush=True)
    tallies = [fuzz(target, args.seconds, seed, args.cases, args.out) for target in chosen]
    print(table(tallies))
    return int(any(tally.findings for tally in tallies))
