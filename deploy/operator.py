"""What an operator says to devices: keys, sealed commands, and the `edgerun` commands that send them.

    edgerun teach pi-7 --label mug --data mugs.npz        one command, its answers as they come

A command is published once and its answers are awaited; the counter inside it is the wall clock in milliseconds, never
lower than the last one used, so it rises across restarts without a server that hands out numbers.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
from msgspec import UNSET

from edgerun.errors import CommandError, ConfigError, DataError, EdgeRunError, MissingExtra, Refused
from edgerun.keys import PRIVATE, PUBLIC, RAW_BYTES, key_id, read_private_key
from edgerun.samples import read_arrays, recordings
from edgerun.telemetry.address import FORM, parse_broker
from edgerun.telemetry.commands import MAX_VALIDITY_MS, VERBS, BudgetSet, Example, seal
from edgerun.telemetry.link import Connected, Disconnected, Endpoint, Incoming, MqttLink, Published, Subscribed
from edgerun.telemetry.messages import Inner, Result
from edgerun.telemetry.topics import ALL, ROOT, Topics, broadcast, parse

FINAL: Final = ("done", "failed", "expired", "rejected")

# ------------------------------------------------------------------ keys


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """An Ed25519 key pair, raw. A device knows its public half by `kid`."""

    private: bytes = field(repr=False)
    public: bytes

    @property
    def kid(self) -> str:
        return key_id(self.public).hex()


def make_key() -> OperatorKey:
    """A fresh key pair. Raises MissingExtra where `cryptography` is not installed."""
    return _pair(secrets.token_bytes(RAW_BYTES))


def save_key(key: OperatorKey, path: Path) -> None:
    """Write the private key, readable by its owner only, and beside it the public one, as `.pub`; replaces no file."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_pem(PRIVATE, key.private))
    with path.with_name(f"{path.name}.pub").open("x") as file:
        file.write(_pem(PUBLIC, key.public))


def load_key(path: Path) -> OperatorKey:
    """The pair of a private key file. Raises Refused for anything else."""
    return _pair(read_private_key(path))


def _pair(private: bytes) -> OperatorKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise MissingExtra("an operator key", "sign", "cryptography") from None
    return OperatorKey(private, Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


def _pem(kind: tuple[str, bytes], raw: bytes) -> str:
    title, prefix = kind
    return f"-----BEGIN {title}-----\n{base64.b64encode(prefix + raw).decode()}\n-----END {title}-----\n"


# ------------------------------------------------------------------ the counter


class Counter:
    """A number that rises for ever: milliseconds since 1970, or where the clock falls, one more than the last."""

    def __init__(self, path: Path | None, now_ms: Callable[[], int]) -> None:
        self._path = path
        self._now_ms = now_ms
        self._last = self._load()

    def next(self) -> int:
        self._last = max(self._last + 1, self._now_ms())
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
            new.write_text(f"{self._last}\n")
            os.replace(new, self._path)
        return self._last

    def _load(self) -> int:
        if self._path is None or not self._path.exists():
            return 0
        text = self._path.read_text(errors="replace").strip()
        if not text.isdigit():
            raise ConfigError(f"{self._path} holds {text[:40]!r}, not a counter")
        return int(text)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _answers_of(group: str) -> str:
    return f"{ROOT}/{group}/+/res/#"


# ------------------------------------------------------------------ sending


class Operator:
    """A connection that sends commands and hears the answers. Use as a context manager, from one thread.

    key        signs every command; None sends them unsigned, for devices with no key configured
    counter    file of the last command counter; None keeps it in memory
    now_ms     the clock that devices judge the validity of a command by
    """

    def __init__(
        self,
        host: str,
        port: int,
        username: str = "",
        password: str = "",
        key: OperatorKey | None = None,
        *,
        tls: bool = False,
        ca: str = "",
        counter: Path | None = None,
        now_ms: Callable[[], int] = _wall_ms,
        connect_s: float = 10.0,
    ) -> None:
        endpoint = Endpoint(
            host=host,
            port=port,
            client_id=f"operator-{secrets.token_hex(4)}",
            username=username,
            password=password,
            tls=tls,
            ca=ca,
        )
        self._where = f"{host} port {port}"
        self._link = MqttLink(endpoint, clean=True, backoff_s=(0.2, 2.0))
        self._key = key
        self._counter = Counter(counter, now_ms)
        self._now_ms = now_ms
        self._connect_s = connect_s
        self._heard: list[Incoming] = []
        self._confirmed: set[int] = set()
        self._groups: set[str] = set()
        self._subscribed = True
        self._reason = "no answer"

    def __enter__(self) -> Self:
        """Raises EdgeRunError with the broker's reason where it does not take us."""
        self._link.start()
        if not self._until(lambda: self._link.connected, self._connect_s):
            self._link.stop()
            raise EdgeRunError(f"no connection to the broker at {self._where}: {self._reason}")
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def send(
        self,
        group: str,
        node: str,
        verb: str,
        args: Mapping[str, Any] | None = None,
        timeout: float = 30.0,
        hear: Callable[[str, Result], None] = lambda node, result: None,
    ) -> list[Result]:
        """Publish one command and return its answers, the final one last; each is also given to `hear` as it comes.

        node "_all" is a broadcast: the answers of all nodes are collected until the time is over.
        Raises CommandError for arguments that no device would take, EdgeRunError where no final answer comes.
        """
        if verb not in VERBS:
            raise CommandError(f"verb {verb!r} is none of {', '.join(VERBS)}")
        try:
            msgspec.convert(dict(args or {}), VERBS[verb])
        except msgspec.ValidationError as err:
            raise CommandError(f"{verb}: {err}") from None
        topic = broadcast(group, verb) if node == ALL else Topics(group, node).cmd(verb)
        self._listen(group)
        command = self._publish(topic, dict(args or {}), timeout)
        return self._answers(node, command, timeout, hear)

    def _listen(self, group: str) -> None:
        """Hear the answers of a group; returns when the broker has understood."""
        if group not in self._groups:
            self._groups.add(group)
            self._subscribed = False
            self._link.subscribe([_answers_of(group)])
        if not self._until(lambda: self._subscribed, self._connect_s):
            raise EdgeRunError(f"the broker at {self._where} does not answer: {self._reason}")

    def _publish(self, topic: str, args: dict[str, Any], timeout: float) -> str:
        """Returns the id of the command, once the broker has it."""
        now = self._now_ms()
        valid_ms = min(MAX_VALIDITY_MS, max(1000, int(timeout * 1000)))
        inner = Inner(id=secrets.token_hex(8), ctr=self._counter.next(), iat=now, exp=now + valid_ms, args=args)
        key = self._key
        mid = self._link.publish(topic, seal(topic, inner, key.private if key else None, key.kid if key else ""))
        if mid is None or not self._until(lambda: mid in self._confirmed, timeout):
            raise EdgeRunError(f"the broker at {self._where} did not take the command: {self._reason}")
        return inner.id

    def _answers(self, node: str, command: str, timeout: float, hear: Callable[[str, Result], None]) -> list[Result]:
        answers: dict[tuple[str, int], Result] = {}  # by node and number: one that comes twice is one

        def over() -> bool:
            for answerer, result in self._results(command):
                if (answerer, result.seq) not in answers:
                    answers[answerer, result.seq] = result
                    hear(answerer, result)
            return node != ALL and any(result.status in FINAL for result in answers.values())

        if not self._until(over, timeout) and (node != ALL or not answers):
            said = f"said {[*answers.values()][-1].status!r} but no more" if answers else "gave no answer"
            raise EdgeRunError(f"{node} {said} within {timeout:g} s")
        return list(answers.values())

    def _results(self, command: str) -> list[tuple[str, Result]]:
        heard, self._heard = self._heard, []
        results = []
        for message in heard:
            parsed = parse(message.topic)
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # not for us to judge
                result = msgspec.json.decode(message.payload, type=Result)
                if parsed is not None and result.id == command:
                    results.append((parsed.node, result))
        return results

    def _until(self, done: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            for event in self._link.drain():
                match event:
                    case Incoming():
                        self._heard.append(event)
                    case Published(mid):
                        self._confirmed.add(mid)
                    case Disconnected(reason):
                        self._reason = reason
                    case Subscribed():
                        self._subscribed = True
                    case Connected():
                        self._confirmed.clear()
                        self._link.subscribe([_answers_of(group) for group in self._groups])
            if done():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


# ------------------------------------------------------------------ the commands of `edgerun`

DEFAULT_GROUP: Final = "home"
TAKEN_SHOTS: Final = 16  # examples in one teach command


def load_examples(path: Path, of: str | None, shots: int) -> list[dict[str, Any]]:
    """The first `shots` samples of a data file, of class `of` where one is named, ready for `teach`."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file):  # so that it is an archive, and is closed if it is not
            arrays = dict(np.load(file, allow_pickle=False))
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as err:
        raise DataError(f"{path} is no data file: {err}") from None
    x = list(recordings(path.name, arrays))
    if of is not None:
        y = arrays.get("y" if "x" in arrays else "label")
        if y is None or y.shape != (len(x),):
            raise DataError(f"{path} has no array {'y' if 'x' in arrays else 'label'} with a class for each sample")
        x = [sample for sample, label in zip(x, y.astype(str), strict=True) if label == of]
    if not x:
        raise DataError(f"{path} has no sample of class {of!r}")
    taken = (sample.astype(np.float32) if sample.dtype.kind == "f" else sample for sample in x[:shots])
    return [msgspec.to_builtins(Example.of(sample)) for sample in taken]


def load_targets(path: Path, shots: int) -> dict[str, Any]:
    """The first `shots` targets of a data file, ready for `teach`. Raises DataError where it has none."""
    found = read_arrays(path).get("targets")
    if found is None or found.ndim < 2 or found.dtype.kind not in "fiu":
        raise DataError(
            f"{path} has no array 'targets' of numbers with a row for each sample: give --label for a class"
        )
    rows = found[:shots] if found.dtype == np.int16 else found[:shots].astype(np.float32)
    return {"targets": [msgspec.to_builtins(Example.of(row)) for row in rows]}


def _number(text: str) -> float | None:
    if text == "none":
        return None
    return int(text) if text.isdigit() else float(text)


def _correction(text: str) -> dict[str, Any]:
    sample, _, label = text.partition("=")
    return {"sample": int(sample), "label": label}


def _generation(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def _add_teach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", help="name of the class, new or known; values need none")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="X.npz", help="file of samples; values: its targets"
    )
    parser.add_argument("--of", metavar="CLASS", help="take only samples whose y is this")
    parser.add_argument("--shots", type=int, default=10, choices=range(1, TAKEN_SHOTS + 1), metavar="N", help="at most")
    parser.add_argument("--no-consolidate", action="store_true", help="do not protect the lesson at once")
    parser.add_argument("--dry-run", action="store_true", help="report what would change, change nothing")


def _teach(args: argparse.Namespace) -> dict[str, Any]:
    if args.label is None and args.of is not None:
        raise Refused(f"--of {args.of} goes with --label")
    answer = load_targets(args.data, args.shots) if args.label is None else {"label": args.label}
    return {
        **answer,
        "examples": load_examples(args.data, args.of, args.shots),
        "consolidate": not args.no_consolidate,
        "dry_run": args.dry_run,
    }


def _add_feedback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("items", nargs="+", type=_correction, metavar="SAMPLE=LABEL", help="what a sample really was")


def _add_for(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for", dest="for_s", type=float, metavar="SECONDS", help="of device time; default: until told"
    )


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", type=_generation, default="last-good", help="last-good, previous, factory or a generation"
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    for name in BudgetSet.__struct_fields__:
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=_number, default=UNSET, metavar="N", help=f"new bound of {name}")


def _budget(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in BudgetSet.__struct_fields__}
    return {name: value for name, value in given.items() if value is not UNSET}


def _add_label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", required=True, help="name of the class")


def _add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", required=True, help="needed: nothing brings it back")


def _nothing(parser: argparse.ArgumentParser) -> None:
    """A verb without arguments."""


@dataclass(frozen=True, slots=True)
class Row:
    """One operator command: its wire verb, its own options, how they become arguments, and an example."""

    verb: str
    example: str
    add: Callable[[argparse.ArgumentParser], None] = _nothing
    args: Callable[[argparse.Namespace], dict[str, Any]] = lambda args: {}

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("node", metavar="NODE", help="name of the device; _all where the verb may be broadcast")
        self.add(parser)
        parser.add_argument("--broker", metavar="URL", help=f"{FORM}; default: EDGERUN_BROKER")
        parser.add_argument("--group", default=DEFAULT_GROUP, help=f"default: {DEFAULT_GROUP}")
        parser.add_argument("--key", type=Path, metavar="FILE", help="operator key that signs the command")
        parser.add_argument("--ca", default="", metavar="FILE", help="certificate authority of an mqtts:// broker")
        parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for the final answer")
        parser.add_argument("--json", action="store_true", help="print the answers as one JSON array")
        parser.epilog = f"example: {self.example}"

    def run(self, args: argparse.Namespace) -> int:
        """0 if the device did it, 1 if it did not. Raises EdgeRunError where it gives no final answer."""
        key = load_key(args.key) if args.key else None
        counter = args.key.with_name(f"{args.key.name}.ctr") if args.key else None
        wanted = self.args(args)
        host, port, username, password, tls = parse_broker(args.broker)
        with Operator(host, port, username, password, key, tls=tls, ca=args.ca, counter=counter) as operator:
            hear = _quiet if args.json else _print
            answers = operator.send(args.group, args.node, self.verb, wanted, args.timeout, hear)
        if args.json:
            print(msgspec.json.encode(answers).decode())
        return 0 if all(answer.status == "done" for answer in answers if answer.status in FINAL) else 1


def _quiet(node: str, result: Result) -> None:
    """The answers are printed together at the end."""


def _print(node: str, result: Result) -> None:
    detail = "".join(f" {name}={json.dumps(value)}" for name, value in result.detail.items())
    print(f"{node} {result.verb} {result.status}{detail}", flush=True)


teach = Row("teach", "edgerun teach pi-7 --label mug --data mugs.npz", _add_teach, _teach)
feedback = Row("feedback", "edgerun feedback pi-7 4711=mug 4712=cup", _add_feedback, lambda args: {"items": args.items})
pause = Row("learn-pause", "edgerun pause _all --for 600", _add_for, lambda args: {"for_s": args.for_s})
resume = Row("learn-resume", "edgerun resume pi-7", _add_for, lambda args: {"for_s": args.for_s})
rollback = Row("rollback", "edgerun rollback pi-7 --to factory", _add_rollback, lambda args: {"to": args.to})
budget = Row("budget-set", "edgerun budget pi-7 --power-mw 400 --peak-mw none", _add_budget, _budget)
checkpoint = Row("checkpoint", "edgerun checkpoint pi-7")
consolidate = Row("consolidate", "edgerun consolidate pi-7")
probe = Row("probe", "edgerun probe pi-7 --json")
forget = Row("forget-class", "edgerun forget pi-7 --label mug", _add_label, lambda args: {"label": args.label})
wipe = Row("wipe-learned", "edgerun wipe pi-7 --yes", _add_yes)
