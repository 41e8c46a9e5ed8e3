"""`edgerun demo`: the whole story on real input, through a real broker, on a live page, in about a minute.

prepare   two committed models -> bundles, planned and verified
story     the device's life, in a process of its own: pretend board, real agent, operator at the real broker
arms      the same stream without adaptation and without protection, meanwhile
report    a table, report.json, report.html
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from deploy.broker import Broker, start_broker
from deploy.dashboard.server import Dashboard
from deploy.demo import arms, digits, story
from deploy.demo.prepare import Bundles, float_accuracy, make_bundles
from deploy.operator import make_key, save_key
from deploy.report import write_report
from edgerun.boards import get_board
from edgerun.errors import CheckFailed, EdgeRunError, Refused
from edgerun.network import Network
from edgerun.price import memory_plan
from edgerun.selftest import check_selftest, probe_accuracy

FOLDER: Final = Path("edgerun-demo")
MARKER: Final = ".edgerun-demo"
PORT: Final = 8750
SCENARIO: Final = "digits-drift-teach-squeeze-outage-cut"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  edgerun demo --headless --seed 3 -o edgerun-demo"
    parser.add_argument("--seed", type=int, default=1, help="draws stream, order, shots and faults (default 1)")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER, help="folder for everything (edgerun-demo)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page; a free one where it is taken ({PORT})")
    parser.add_argument("--headless", action="store_true", help="end when the story ends, without waiting for Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print report.json at the end instead of the table")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise Refused(f"--seed {args.seed} is under 0")
    return Demo(args.output, args.seed, args.port, quiet=args.json).run(wait=not args.headless, as_json=args.json)


@dataclass
class Lines:
    """Progress on the terminal, with the seconds since the start."""

    quiet: bool
    since: float

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(f"{time.monotonic() - self.since:6.1f} s  {text}", flush=True)


class Demo:
    """One run in one folder, which is emptied of what an older run left."""

    def __init__(self, folder: Path, seed: int, port: int, *, quiet: bool) -> None:
        self.folder, self.seed, self.port = folder, seed, port
        self.started = time.monotonic()
        self.say = Lines(quiet, self.started)

    def run(self, *, wait: bool, as_json: bool) -> int:
        logging.getLogger("deploy.dashboard").setLevel(logging.ERROR)  # the story itself takes the broker away
        self._clear()
        bundles = self._prepare()
        (self.folder / "broker").mkdir()
        with start_broker(self.folder / "broker") as broker:
            self.say(f"broker: {broker.kind} on {broker.host}:{broker.port}, with a password made for this run")
            dashboard = Dashboard(
                self.folder / "history.db", broker.host, broker.port, broker.username, broker.password, port=self.port
            )
            dashboard.start()
            try:
                self.say(f"live page: {dashboard.url}")
                report, traces = self._live(bundles, broker, dashboard)
                self._finish(report, traces, as_json)
                if wait:
                    _stay(dashboard.url)
            finally:
                dashboard.stop()
        return 0 if all(holds for _, _, holds in verdicts(report)) else CheckFailed.exit_code

    # ------------------------------------------------------------------ steps

    def _clear(self) -> None:
        if self.folder.exists():
            if any(self.folder.iterdir()) and not (self.folder / MARKER).exists():
                raise Refused(f"{self.folder} is not empty and no demo made it: choose another folder with -o")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        (self.folder / MARKER).touch()

    def _prepare(self) -> Bundles:
        bundles = make_bundles(self.folder, digits.load()[0])
        for bundle in (bundles.spiking, bundles.dense):
            network = Network(bundle.manifest, bundle.tensors)
            check_selftest(network, bundle.selftest)
            probe = probe_accuracy(network, bundle.probe)
            name, size = bundle.manifest.name, bundle.size
            self.say(f"exported and verified {name}: {size:,} bytes, self-test equal to the bit, probe {probe:.1%}")
        board, plan = get_board(story.BOARD), memory_plan(bundles.spiking)
        self.say(f"plan: learning takes {plan.total_bytes:,} of {board.name}'s {board.ram_bytes:,} bytes of RAM")
        return bundles

    def _live(self, bundles: Bundles, broker: Broker, dashboard: Dashboard) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run the device's life beside the other arms; put together what both found."""
        data = digits.split(digits.load()[1], self.seed)
        task = story.Task(
            bundle=bundles.paths["digits-snn"],
            data=data.save(self.folder / "field.npz"),
            folder=self.folder / "device",
            seed=self.seed,
            host=broker.host,
            port=broker.port,
            username=broker.username,
            password=broker.password,
            operator_key=self.folder / "operator.key",
        )
        save_key(make_key(), task.operator_key)
        with _life(task, broker, self.say) as life:
            others: tuple[arms.Arm, ...] = ("none", "plain")
            results = {arm: arms.run_arm(bundles.spiking, arm, data) for arm in others}
            told = life.result()
        report = self._report(bundles, dashboard, told, results, data)
        return report, _traces(dashboard, told, results, data)

    def _report(
        self,
        bundles: Bundles,
        dashboard: Dashboard,
        told: dict[str, Any],
        results: dict[arms.Arm, arms.ArmResult],
        data: digits.Split,
    ) -> dict[str, Any]:
        """The keys of report.json."""
        by_head = {arm: result.by_head for arm, result in results.items()} | {"full": told["accuracy"].pop("by_head")}
        stats, factory = dashboard.stats(story.NAME), results["none"].learner
        accuracy = {
            "float": float_accuracy(data.test),
            "factory_int": arms.accuracy(factory, data.test, "prototypes", drifted=False),
            **arms.headline(by_head),
            **told["accuracy"],
            "by_head": by_head,
        }
        return {
            "scenario": SCENARIO,
            "seed": self.seed,
            "wall_s": round(time.monotonic() - self.started, 1),
            "bundle": {"sha256": bundles.spiking.id, "bytes": bundles.spiking.size},
            "board": story.BOARD,
            "accuracy": _rounded(accuracy),
            "telemetry": {
                "published": stats.received + stats.missing,
                "received": stats.received,
                "lost": stats.missing,
                "duplicates_dropped": stats.duplicates,
                **told["telemetry"],
            },
            "power_cut": told["power_cut"],
            "governor": {"phases": told["governor"]},
            "energy": told["energy"],
            "replay": told["replay"],
            "memory": told["memory"],
        }

    def _finish(self, report: dict[str, Any], traces: dict[str, Any], as_json: bool) -> None:
        page = write_report(self.folder, report, traces)
        if as_json:
            print(json.dumps(report, indent=2))
            return
        print()
        for name, value, holds in verdicts(report):
            print(f"  {name:46s} {value:>34s}  {'yes' if holds else 'NO'}")
        print(f"\nreport: {page}\n        {self.folder / 'report.json'}")


# ------------------------------------------------------------------ the device's process


class _Life:
    """The device's process, as the parent sees it: a thread serves its wishes until it has told everything."""

    def __init__(self, pipe: Connection, broker: Broker, say: Lines) -> None:
        self._pipe, self._broker, self._say = pipe, broker, say
        self._told: dict[str, Any] | None = None
        self._failure = "the device's process ended without a word"
        self._thread = threading.Thread(target=self._serve, name="device-pipe", daemon=True)
        self._thread.start()

    def result(self) -> dict[str, Any]:
        """Wait for the end. Raises EdgeRunError where the life failed."""
        while self._thread.is_alive():
            self._thread.join(0.2)
        if self._told is None:
            raise EdgeRunError(self._failure)
        return self._told

    def _serve(self) -> None:
        try:
            while self._told is None:
                kind, value = self._pipe.recv()
                match kind:
                    case "say":
                        self._say(value)
                    case "broker":
                        self._broker.stop() if value == "stop" else self._broker.start()
                        self._pipe.send("done")
                    case "told":
                        self._told = value
                    case _:
                        self._failure = value
                        return
        except (EOFError, OSError):
            return


@contextmanager
def _life(task: story.Task, broker: Broker, say: Lines) -> Iterator[_Life]:
    """Start the device's process; end it whatever happens."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=story.child, args=(task, theirs), daemon=True, name="device")
    process.start()
    theirs.close()
    try:
        yield _Life(mine, broker, say)
        process.join(5.0)
    finally:
        if process.is_alive():
            process.terminate()
        process.join()


def _stay(url: str) -> None:
    print(f"\nThe page stays up at {url} until Ctrl-C.", flush=True)
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        print()
    finally:
        signal.signal(signal.SIGTERM, previous)


# ------------------------------------------------------------------ putting together


def verdicts(report: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(what, figures, whether it holds), in the order of the story."""
    a, t, p = report["accuracy"], report["telemetry"], report["power_cut"]
    windows = [(phase["worst_window_mw"], phase["budget_mw"]) for phase in report["governor"]["phases"]]
    same_bits = report["replay"]["digest_equal"]
    return [
        (
            "integers keep the float model's accuracy",
            f"{a['factory_int']:.1%} of {a['float']:.1%}",
            a["factory_int"] >= max(0.96, a["float"] - 0.01),
        ),
        (
            "turned sensor: no adaptation -> full system",
            f"{a['drifted_no_adaptation']:.1%} -> {a['drifted_full']:.1%}",
            a["drifted_full"] >= a["drifted_no_adaptation"] + 0.15,
        ),
        (
            "straight sensor: no protection -> full system",
            f"{a['old_without_consolidation']:.1%} -> {a['old_full']:.1%}",
            a["old_full"] >= a["old_without_consolidation"] + 0.20,
        ),
        (
            "8 and 9 from ten examples each; old classes",
            f"{a['new_classes']:.1%}; {a['old_classes_after_teaching']:.1%}",
            a["new_classes"] >= 0.70 and a["old_classes_after_teaching"] >= 0.83,
        ),
        (
            "worst 60 s window of its budget, mW",
            ", ".join(f"{worst:.1f}/{budget:.1f}" for worst, budget in windows),
            all(worst <= budget for worst, budget in windows),
        ),
        ("messages lost", f"{t['lost']} of {t['published']}", t["lost"] == 0),
        (
            "lessons back after the power cut",
            f"{p['recovered_lessons']} of {p['committed_lessons']}",
            p["recovered_lessons"] == p["committed_lessons"] and p["digest_equals_uncut_run"],
        ),
        ("the journal replays to the same bits", "equal" if same_bits else "differs", same_bits),
    ]


def _traces(
    dashboard: Dashboard, told: dict[str, Any], results: dict[arms.Arm, arms.ArmResult], data: digits.Split
) -> dict[str, Any]:
    """What report.html draws."""
    traces: dict[str, Any] = told["traces"]
    blocks = {arm: result.blocks for arm, result in results.items()} | {"full": traces["blocks"]}
    events = dashboard.events(story.NAME, limit=2000)
    first = digits.one_of_each(data)
    return {
        **{key: traces[key] for key in ("t", "metrics", "chapters", "plan")},
        "blocks": {"names": [" ".join(map(str, pair)) for pair in digits.BLOCKS], "arms": blocks},
        "events": [
            {"t": (row["ts"] - told["epoch_ms"]) / 1e3, "kind": row["kind"], "text": row["text"]}
            for row in reversed(events)
        ],
        "confusion": {
            "labels": list(digits.CLASSES),
            "before": arms.confusion(results["none"].learner, data),
            "after": traces["after"],
        },
        "images": {"clean": first.tolist(), "drifted": digits.turned(first).tolist()},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(float(value), 4) if isinstance(value, float | np.floating) else value
