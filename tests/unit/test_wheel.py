"""What `python -m build` makes: the C kernels inside, one wheel for any Python from 3.11 on; and what happens without a
compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = "edgerun/_native.abi3.so"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="names of files as Linux has them"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler here"),
]


def built(source: Path, to: Path, *kinds: str, **settings: str) -> subprocess.CompletedProcess[str]:
    shutil.rmtree(source / "build", ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(to), str(source)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, so that nothing built before is found."""
    to = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if name.startswith(("edgerun/", "exporters/", "firmware_sim/", "deploy/")) or "/" not in name:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to


def test_sdist_and_wheel_hold_the_kernels(source: Path, tmp_path: Path) -> None:
    done = built(source, tmp_path, "--sdist", "--wheel", EDGERUN_NATIVE="require")
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert "-cp311-abi3-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as inside:
        names = inside.namelist()
    sources = {f"edgerun/csrc/{path.name}" for path in (ROOT / "edgerun/csrc").glob("*.[ch]")}
    assert NATIVE in names
    assert sources <= set(names)  # a firmware project is made of them
    with tarfile.open(sdist) as inside:
        assert sources <= {name.partition("/")[2] for name in inside.getnames()}


def test_without_a_compiler_the_wheel_has_no_kernels_and_numpy_runs(source: Path, tmp_path: Path) -> None:
    done = built(source, tmp_path, "--wheel", CC="/bin/false", EDGERUN_NATIVE="")
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as inside:
        assert NATIVE not in inside.namelist()
        inside.extractall(tmp_path / "installed")
    bundle = ROOT / "examples/spoken_digits/model.edgb"
    alone = "import sys; sys.meta_path = [each for each in sys.meta_path if 'editable' not in repr(each)]"
    program = f"{alone}; from edgerun.cli import main; raise SystemExit(main(['verify', {str(bundle)!r}]))"
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "equal to the bit on numpy\n" in told.stdout


def test_a_build_that_must_have_them_fails_without_a_compiler(source: Path, tmp_path: Path) -> None:
    done = built(source, tmp_path, "--wheel", CC="/bin/false", EDGERUN_NATIVE="require")
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.whl"))
