"""The command line as a user meets it: real processes, real exit codes, one line for every mistake."""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun import cli
from edgerun.cli import Row, command_parser, find, main, resolve, sections
from edgerun.errors import CheckFailed, Refused

ROWS = [row for _, rows in sections() for row in rows]

VICTIM = """
import argparse, errno, logging, time
from edgerun.errors import CheckFailed

ACTS = {
    "done": lambda: 0,
    "no": lambda: 1,
    "check": lambda: (_ for _ in ()).throw(CheckFailed("digest differs")),
    "absent": lambda: open("/nonexistent/model.edgb"),
    "folder": lambda: open("/"),
    "full": lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device", "/state/x")),
    "refused": lambda: (_ for _ in ()).throw(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")),
    "log": lambda: logging.getLogger("edgerun.agent").info("cycle", extra={"tick": 7, "loss": 0.5}) or 0,
    "wait": lambda: print("waiting", flush=True) or time.sleep(60),
    "load": lambda: load(),
    "flood": lambda: [print("x" * 1000) for _ in range(10000)] and 0,
    "late": lambda: input() or print("too late") or 0,
    "bug": lambda: {}["missing"],
}

def load():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as err:
        raise ImportError("initialization failed") from err

def configure(parser):
    parser.add_argument("act", choices=ACTS)
    parser.add_argument("--broker", default="127.0.0.1")
    parser.epilog = "example: edgerun victim done"

def run(args):
    print(args.broker)
    return ACTS[args.act]()
"""

RUNNER = """
import sys
import edgerun.cli as cli
cli.CORE += (cli.Row("victim", "does as it is told", "victim"), cli.Row("needy", "needs a library", "needy", "sign"))
cli.CORE += (cli.Row("torn", "lacks a module of ours", "torn", "sign"),)
sys.exit(cli.main())
"""


@pytest.fixture
def victim(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `edgerun ARGS` in a process that has two more commands, `victim` and `needy`."""
    (tmp_path / "victim.py").write_text(VICTIM)
    (tmp_path / "needy.py").write_text("import library_that_nobody_has")
    (tmp_path / "torn.py").write_text("import edgerun.module_that_is_gone")
    (tmp_path / "runner.py").write_text(RUNNER)

    def start(*args: str, **env: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("EDGERUN_")}
        command = [sys.executable, str(tmp_path / "runner.py"), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**clean, **env})

    return start


@pytest.mark.parametrize(
    ("act", "code", "line"),
    [
        ("done", 0, ""),
        ("no", 1, ""),
        ("check", 1, "edgerun: digest differs\n"),
        ("absent", 2, "edgerun: /nonexistent/model.edgb: No such file or directory\n"),
        ("folder", 2, "edgerun: /: Is a directory\n"),
        ("full", 1, "edgerun: /state/x: No space left on device\n"),
        ("refused", 1, "edgerun: [Errno 111] Connection refused\n"),
    ],
)
def test_every_end_has_its_exit_code_and_at_most_one_line(
    victim: Callable[..., subprocess.Popen[str]], act: str, code: int, line: str
) -> None:
    process = victim("victim", act)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, line)


def test_a_bug_keeps_its_traceback(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("victim", "bug")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" in err
    assert "KeyError: 'missing'" in err


def test_ctrl_c_is_quiet(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("victim", "wait")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["127.0.0.1\n", "waiting\n"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


def test_ctrl_c_while_a_library_loads_is_quiet(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("victim", "load")
    assert (process.communicate(timeout=30)[1], process.returncode) == ("", 130)


def test_a_reader_that_leaves_is_no_error(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("victim", "flood")
    assert process.stdout is not None
    assert process.stdout.readline() == "127.0.0.1\n"
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, "")


def test_a_reader_that_left_before_the_last_line_is_no_error(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("victim", "late")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate("\n", timeout=30)
    assert (process.returncode, err) == (141, "")


def test_a_module_of_ours_that_is_missing_is_a_bug_and_no_extra(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("torn")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ModuleNotFoundError: No module named 'edgerun.module_that_is_gone'" in err


def test_a_missing_library_names_its_extra(victim: Callable[..., subprocess.Popen[str]]) -> None:
    process = victim("needy")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err == "edgerun: needy needs library_that_nobody_has: pip install 'edgerun[sign]'\n"


def test_the_environment_gives_the_broker_and_the_command_line_wins(
    victim: Callable[..., subprocess.Popen[str]],
) -> None:
    answers = [
        victim("victim", "done", *extra, EDGERUN_BROKER="plant:8883").communicate(timeout=30)[0]
        for extra in ([], ["--broker", "here"])
    ]
    assert answers == ["plant:8883\n", "here\n"]


def test_log_lines_carry_their_fields(victim: Callable[..., subprocess.Popen[str]]) -> None:
    quiet, told, wrong = (
        victim("victim", "log", EDGERUN_LOG=level).communicate(timeout=30)[1] for level in ("warning", "info", "loud")
    )
    assert quiet == ""
    assert told == "info cycle tick=7 loss=0.5\n"
    assert wrong.startswith("edgerun: EDGERUN_LOG 'loud' is none of critical, ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dcotor"], "unknown command 'dcotor', did you mean 'doctor'?"),
        (["xyzzy"], "unknown command 'xyzzy'; 'edgerun --help' lists all"),
        (["--verbose"], "unrecognized arguments: --verbose"),
        (["doctor", "--jsn"], "unrecognized arguments: --jsn; see 'edgerun doctor --help'"),
    ],
)
def test_wrong_arguments_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"edgerun: {message}")
    assert err.count("\n") == 1


def test_help_lists_every_command_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for row in ROWS:
        assert re.search(rf"^  {row.name} +{re.escape(row.help)}$", text, re.MULTILINE)


def test_no_command_at_all_is_refused_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "edgerun COMMAND" in capsys.readouterr().out


def test_names_are_unique_and_help_is_short() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS:
        assert row.help[0].islower()
        assert not row.help.endswith(".")
        assert len(row.help) <= 80


def test_every_command_module_has_a_row() -> None:
    folder = Path(cli.__file__).parent / "commands"
    commands = {path.stem for path in folder.glob("*.py") if "\ndef configure(" in path.read_text(encoding="utf-8")}
    assert commands == {row.name for row in cli.CORE}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_command_has_an_example_that_it_accepts(row: Row) -> None:
    parser = command_parser(row, resolve(row))
    examples = re.findall(rf"(?:^|\s)edgerun {row.name}(?!\S)(.*)$", parser.epilog or "", re.MULTILINE)
    assert examples, f"{row.name}: parser.epilog has no line with 'edgerun {row.name} ...'"
    for example in examples:
        parser.parse_args(shlex.split(example, comments=True))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_argument_is_explained(row: Row) -> None:
    parsers = [command_parser(row, resolve(row))]
    for parser in parsers:
        forks = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        assert [action.dest for action in parser._actions if not action.help and action not in forks] == []
        parsers += [branch for fork in forks for branch in fork.choices.values()]


def test_only_the_chosen_command_is_imported() -> None:
    code = "import sys; from edgerun.cli import main; main(['doctor']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands = {name for name in done.stderr.split() if name.startswith("edgerun.commands.")}
    assert commands == {"edgerun.commands.doctor"}


def test_a_package_that_cannot_be_loaded_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = cli.metadata.EntryPoint(name="broken", value="package_that_is_not_there:ROWS", group=cli.GROUP)
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [broken])
    assert [title for title, _ in sections()] == ["edgerun"]
    assert caplog.messages == ["commands left out"]


def test_find_raises_the_error_of_refused_input() -> None:
    with pytest.raises(Refused):
        find("nonsense")
    assert Refused.exit_code == 2
    assert CheckFailed.exit_code == 1
