"""One command line for the whole house: a table of rows, of which only the chosen one is imported.

A row names an object that has `configure(parser)` and `run(args) -> int`: a module, or something inside one.
Neighbours of this package list their rows under the entry-point group `edgerun.commands`, so nothing here imports them.

Exit codes: 0 done; 1 the work failed or a check said no; 2 input or arguments refused; 130 interrupted.
Environment, read here and nowhere else: EDGERUN_LOG, the log level, and what ENVIRONMENT lists.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Final, NoReturn, Protocol, cast

from edgerun.errors import EdgeRunError, MissingExtra, Refused

log = logging.getLogger(__name__)

GROUP: Final = "edgerun.commands"


@dataclass(frozen=True, slots=True)
class Row:
    """One command. `target` is "package.module" or "package.module:name"; `extra` brings the libraries it may lack."""

    name: str
    help: str
    target: str
    extra: str = ""


class Command(Protocol):
    """What a target has: it declares its arguments and an example (`parser.epilog`), then does the work."""

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


CORE: Final = (
    Row("inspect", "show what is in a bundle", "edgerun.commands.inspect"),
    Row("verify", "check that a bundle is whole, signed and correct", "edgerun.commands.verify", "sign"),
    Row("plan", "price a bundle on a board before anything runs", "edgerun.commands.plan"),
    Row("diff", "show what changed from one bundle to another", "edgerun.commands.diff"),
    Row("infer", "answer a file of samples with a bundle", "edgerun.commands.infer"),
    Row("adapt", "teach a bundle examples of a file, test it on the rest", "edgerun.commands.adapt"),
    Row("run", "run the agent of one device", "edgerun.commands.run"),
    Row("replay", "re-execute what a device learned and compare the digest", "edgerun.commands.replay"),
    Row("doctor", "show what this machine has and lacks", "edgerun.commands.doctor"),
)

ENVIRONMENT: Final = {"EDGERUN_BROKER": "broker", "NOTIFY_SOCKET": "notify_socket", "WATCHDOG_USEC": "watchdog_usec"}
"""Variables that give an argument its default: a user's own, and what systemd sets for `edgerun run`."""

THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""One thread, unless the user wants more, set before numpy is loaded: our products are small, and threads that spin
for a core which something else is using make them a hundred times slower."""

INPUT_ERRORS: Final = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Operating system errors that mean "this argument cannot be used"; any other means that the work failed."""


class Parser(argparse.ArgumentParser):
    """Refuses wrong arguments with one line instead of a page."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; see '{self.prog} --help'")


class LineFormatter(logging.Formatter):
    """`level event field=value ...`: one line an event, the fields from `extra`."""

    KNOWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        fields = (f" {name}={value}" for name, value in vars(record).items() if name not in self.KNOWN)
        return f"{record.levelname.lower()} {text}{''.join(fields)}"


def sections() -> Iterator[tuple[str, tuple[Row, ...]]]:
    """Every command there is, by the package that brings it, ours first. What cannot be loaded is left out."""
    yield "edgerun", CORE
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            yield point.name, tuple(point.load())
        except (ImportError, AttributeError) as err:
            log.warning("commands left out", extra={"package": point.name, "reason": err})


def find(name: str) -> Row:
    """The row of a command. Raises Refused naming the nearest command if there is none of that name."""
    known: dict[str, Row] = {}
    for _, rows in sections():
        known |= {row.name: row for row in rows}
        if name in known:
            return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean '{near[0]}'?" if near else ";"
    raise Refused(f"unknown command '{name}'{hint} 'edgerun --help' lists all")


def resolve(row: Row) -> Command:
    """Import a row's target."""
    module, _, name = row.target.partition(":")
    loaded = importlib.import_module(module)
    return cast(Command, getattr(loaded, name) if name else loaded)


def command_parser(row: Row, command: Command) -> Parser:
    """The parser of one command, without anything from this machine's environment."""
    parser = Parser(
        prog=f"edgerun {row.name}", description=row.help, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.configure(parser)
    return parser


def overview() -> str:
    """The listing of `edgerun --help`: a line a command."""
    lines: list[str] = []
    for title, rows in sections():
        lines += ["", f"{title}:", *(f"  {row.name:<18}{row.help}" for row in rows)]
    return "\n".join(lines)


def main_parser() -> Parser:
    """`edgerun --help` and `edgerun --version`."""
    parser = Parser(
        prog="edgerun",
        usage="edgerun COMMAND [ARGUMENTS]",
        description=f"Lifelong learning on small devices.\n{overview()}",
        epilog="'edgerun COMMAND --help' explains one, with an example.\n"
        "EDGERUN_BROKER is the default of --broker; EDGERUN_LOG=info shows what happens.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgerun {metadata.version('edgerun')}")
    return parser


def execute(row: Row, argv: Sequence[str]) -> int:
    """Import a command, parse its arguments and run it. Raises MissingExtra where a library is not installed."""
    try:
        command = resolve(row)
        parser = command_parser(row, command)
        given = {argument: os.environ.get(name) for name, argument in ENVIRONMENT.items()}
        parser.set_defaults(**{argument: value for argument, value in given.items() if value})
        return command.run(parser.parse_args(argv))
    except ModuleNotFoundError as err:
        library = (err.name or "").partition(".")[0]
        if not row.extra or not library or find_spec(library):  # a module of ours is missing, not somebody's library
            raise
        raise MissingExtra(row.name, row.extra, library) from None


def start_logging(level: str) -> None:
    """Send log lines of every package to standard error. Raises Refused for a level that does not exist."""
    levels = logging.getLevelNamesMapping()
    if level.upper() not in levels:
        raise Refused(f"EDGERUN_LOG '{level}' is none of {', '.join(name.lower() for name in levels)}")
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=levels[level.upper()], handlers=[handler])


def dispatch(argv: Sequence[str]) -> int:
    """Run what the arguments ask for, down to the last flushed line. Raises what the command raises."""
    start_logging(os.environ.get("EDGERUN_LOG", "warning"))
    for name in THREADS:
        os.environ.setdefault(name, "1")
    if argv and not argv[0].startswith("-"):
        code = execute(find(argv[0]), argv[1:])
    else:
        parser = main_parser()
        parser.parse_args(argv)
        parser.print_help()
        code = Refused.exit_code
    sys.stdout.flush()
    return code


def complain(message: object, code: int) -> int:
    print(f"edgerun: {message}", file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Never a traceback for what a user can cause."""
    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except EdgeRunError as err:
        return complain(err, err.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ImportError as err:
        if not isinstance(err.__cause__, KeyboardInterrupt):  # some libraries in C turn one into the other
            raise
        return 128 + signal.SIGINT
    except MemoryError:
        return complain("this machine has too little memory for these files", EdgeRunError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush is quiet
        return 128 + signal.SIGPIPE
    except OSError as err:
        reason = f"{err.filename}: {err.strerror}" if err.filename else err
        return complain(reason, Refused.exit_code if isinstance(err, INPUT_ERRORS) else EdgeRunError.exit_code)


if __name__ == "__main__":
    sys.exit(main())
