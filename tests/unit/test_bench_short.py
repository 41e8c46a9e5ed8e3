"""Every benchmark of benchmarks/learning has a short form that runs, as a command, from its data to its page.

The short forms of MNIST read little of it: scikit-learn's digits stand in, so that they need no folder of data sets.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pytest

from exporters.runs import measures, read_runs

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "benchmarks" / "learning"
Measures = dict[str, dict[str, float]]
"""By arm, by name; accuracies are shares."""
Started = dict[str, tuple[Path, Future[subprocess.CompletedProcess[str]]]]
"""The folder of each short form and what becomes of it."""


class Row(NamedTuple):
    """A short form.

    arms    its runs have          holds   what must hold of them, loosely: a broken rule would not
    needs   modules to import      files   of the folder EDGERUN_DATA; "mnist.npz" has a stand-in
    """

    arms: tuple[str, ...]
    holds: Callable[[Measures], bool]
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


ROWS: Final[Mapping[str, Row]] = {
    "long_life": Row(
        ("long", "none", "plain", "full"),
        lambda found: found["none"]["forgetting"] == 0 and min(mine["ACC"] for mine in found.values()) > 0.6,
        needs=("sklearn", "nir"),
        options=("--state", "state"),
    ),
    "digits_blocks": Row(
        ("none", "plain", "full", "headlines"),
        lambda found: found["full"]["prototypes.drifted"] > found["none"]["prototypes.drifted"] + 10,
        needs=("sklearn", "nir"),
    ),
    "spoken_digits": Row(
        ("prototypes", "plan", "eprop", "e-prop alone", "e-prop alone, si", "plan, new words"),
        lambda found: found["plan"]["ACC"] > 0.8 and found["e-prop alone"]["ACC"] > 0.7,
        needs=("torch", "nir"), files=("fsdd.npz", "background_noise_8k.npz"),
    ),
    "noisy_labels": Row(
        tuple(f"{arm}, 30%, any other class" for arm in ("plan", "doubt", "without")),
        lambda found: found["doubt, 30%, any other class"]["wrong set aside"] > 5,
        needs=("sklearn", "nir"),
    ),
    "superspike": Row(
        ("xor, symmetric", "bitmap, symmetric"),
        lambda found: all(mine["falls by"] > 1.2 for mine in found.values()),
    ),
    "dense_rules": Row(
        ("backpropagation at 0.015", "IL-prox at 0.015", "IL-prox at 100"),
        lambda found: found["IL-prox at 100"]["ACC"] > 0.5 > found["backpropagation at 100"]["ACC"],
        needs=("sklearn",),
    ),
    "eprop_online": Row(
        ("deferred", "online"), lambda found: min(mine["turned"] for mine in found.values()) > 0.65,
        needs=("sklearn", "nir"),
    ),
    "permuted_mnist": Row(
        ("none", "plain", "full"), lambda found: found["plain"]["ACC"] > 0.3 > 0.2 > found["none"]["ACC"],
        needs=("sklearn",), files=("mnist.npz",),
    ),
    "split_mnist": Row(
        ("none", "plain", "full"), lambda found: found["full"]["ACC"] > 0.6 and found["plain"]["ACC"] > 0.6,
        needs=("sklearn",), files=("mnist.npz",),
    ),
    "omniglot": Row((), lambda found: True, needs=("torch", "nir"), files=("omniglot.npz",)),
    "profiles": Row(
        ("standard", "small"), lambda found: min(mine["prototypes.old"] for mine in found.values()) > 90,
        needs=("sklearn", "nir"),
    ),
    "rewiring": Row(
        ("fixed at 0.2", "moving at 0.2", "fixed at 1"),
        lambda found: found["fixed at 0.2"]["accuracy"] < found["fixed at 1"]["accuracy"],
        needs=("sklearn",),
    ),
    "consolidation": Row(
        ("plain", "intelligence"), lambda found: min(mine["ACC"] for mine in found.values()) > 0.2,
        needs=("sklearn", "nir"),
    ),
}  # fmt: skip
ELSEWHERE: Final = {
    "braille": "test_bench_braille.py",
    "imu_activity": "test_bench_streams.py",
    "semg_sessions": "test_bench_streams.py",
    "delayed_cue": "test_bench_delayed_cue.py",
    "condition": "test_bench_condition.py",
    "values": "test_bench_values.py",
}
"""Short forms that a test of their own runs."""


def test_every_short_form_is_run() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py") if path.stem != "scenario"}
    short = {name for name, text in texts.items() if re.search(r'command\(\s*__doc__|"--short"', text)}
    assert short == set(ROWS) | set(ELSEWHERE)
    for name, test in ELSEWHERE.items():
        text = (Path(__file__).parent / test).read_text(encoding="utf-8")
        assert '"--short"' in text, name


def missing(row: Row) -> str | None:
    """Why a row cannot run here."""
    absent = [name for name in row.needs if importlib.util.find_spec(name) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    folder = os.environ.get("EDGERUN_DATA")
    unread = [name for name in row.files if name != "mnist.npz" and not (folder and Path(folder, name).is_file())]
    return f"EDGERUN_DATA names no folder with {unread[0]}" if unread else None


def run(name: str, folder: Path, data: Path) -> subprocess.CompletedProcess[str]:
    """The short form of one benchmark, into a folder of its own."""
    row = ROWS[name]
    (folder / "images").mkdir(parents=True)
    (folder / "results.md").write_text("# Results\n")
    options = [option if option.startswith("--") else str(folder / option) for option in row.options]
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if "mnist.npz" in row.files:
        env |= {"EDGERUN_DATA": str(data)}
    command = [sys.executable, FOLDER / f"{name}.py", "--short", "--output", folder]
    command += ["--markdown", folder / "results.md", *options]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """All that can run here, two at a time."""
    root = tmp_path_factory.mktemp("short")
    with ThreadPoolExecutor(2) as pool:
        data = stand_in(root / "data")
        folders = {name: root / name for name, row in ROWS.items() if missing(row) is None}
        yield {name: (folder, pool.submit(run, name, folder, data)) for name, folder in folders.items()}


def stand_in(folder: Path) -> Path:
    """mnist.npz of scikit-learn's digits, three times as wide and high, in a frame."""
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install 'edgerun[demo]'")
    x, y = datasets.load_digits(return_X_y=True)
    big = np.kron(x.reshape(-1, 8, 8) * 15.9, np.ones((3, 3))).astype(np.uint8)
    framed = np.pad(big, ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(1).permutation(len(y))
    train, test = order[:1400], order[1400:]
    folder.mkdir()
    np.savez(
        folder / "mnist.npz", x_train=framed[train], y_train=y[train].astype(np.uint8),
        x_test=framed[test], y_test=y[test].astype(np.uint8),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ROWS)
def test_the_short_form_runs_from_data_to_page(name: str, done: Started) -> None:
    row = ROWS[name]
    reason = missing(row)
    if reason is not None:
        pytest.skip(reason)
    folder, future = done[name]
    told = future.result()
    assert told.returncode == 0, told.stderr[-2000:]
    runs = read_runs(folder / f"{name}.json")
    found = {one.arm: measures(one) for one in runs}
    assert set(row.arms) <= set(found)
    for one in runs:
        assert all(0 <= share <= 1 for line in one.matrix for share in line), one.arm
        assert all(math.isfinite(value) for value in found[one.arm].values()), one.arm
    assert row.holds(found), found
    page = (folder / "results.md").read_text(encoding="utf-8")
    assert f"<!-- {name} -->" in page
    for table in tables(page):
        assert len({line.count("|") for line in table}) == 1, table[0]
    for picture in re.findall(r"\]\((images/[^)]+)\)", page):
        assert (folder / picture).is_file(), picture


def tables(page: str) -> list[list[str]]:
    """The Markdown tables of a page, each at least a head, a rule and a row."""
    found = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)]
    assert found
    assert all(len(lines) >= 3 and set(lines[1]) <= set("|-: ") for lines in found)
    return found
