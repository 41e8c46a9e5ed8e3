"""One contract for the real folder and the pretend flash: what a `Disk` promises."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun.errors import StoreError
from edgerun.linux.disk import RealDisk
from edgerun.ports import Disk
from firmware_sim.flash import SimFlash

MAKERS: dict[str, Callable[[Path], Disk]] = {"real": RealDisk, "flash": lambda _: SimFlash()}


@pytest.fixture(params=MAKERS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MAKERS[request.param](tmp_path / "state")


def test_a_missing_file_is_none_and_a_missing_folder_empty(disk: Disk) -> None:
    assert disk.read("a/b") is None
    assert disk.size("a/b") is None
    assert disk.list("a") == []
    disk.remove("a/b")
    disk.write("a", b"")
    assert (disk.read("a"), disk.size("a"), disk.list("a")) == (b"", 0, [])
    assert (disk.read("a/b"), disk.size("a/b")) == (None, None)


def test_write_replaces_and_append_extends_and_truncate_cuts(disk: Disk) -> None:
    disk.write("f/one", b"abcdef")
    disk.write("f/one", b"xyz")
    disk.append("f/one", b"12")
    assert disk.read("f/one") == b"xyz12"
    disk.truncate("f/one", 4)
    assert (disk.read("f/one"), disk.size("f/one")) == (b"xyz1", 4)
    disk.append("f/two", b"new")
    assert disk.read("f/two") == b"new"


def test_rename_replaces_what_was_there(disk: Disk) -> None:
    disk.write("f/old", b"old")
    disk.write("f/new", b"new")
    disk.rename("f/new", "f/old")
    assert (disk.read("f/old"), disk.read("f/new")) == (b"new", None)


def test_list_gives_sorted_names_of_files_and_folders(disk: Disk) -> None:
    for path in ("f/z", "f/a/deep", "f/m", "g/other", "fx"):
        disk.write(path, b"")
    assert disk.list("f") == ["a", "m", "z"]
    disk.remove("f/a/deep")
    assert disk.list("f") == ["m", "z"], "a folder goes with its last file"
    disk.sync_dir("f/a")
    disk.remove("g/other")
    assert disk.list("g") == []


def test_bytes_written_counts_what_was_handed_over(disk: Disk) -> None:
    disk.write("f", bytes(100))
    disk.append("f", bytes(11))
    disk.sync("f")
    disk.remove("f")
    assert disk.bytes_written == 111


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../x", "a//b", "a/", ".", "a/.", "a\\b", "a\0b"])
def test_a_path_that_is_not_clean_is_refused(disk: Disk, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: disk.read(path), lambda: disk.write(path, b""), lambda: disk.append(path, b""),
        lambda: disk.truncate(path, 0), lambda: disk.sync(path), lambda: disk.sync_dir(path), lambda: disk.list(path),
        lambda: disk.rename(path, "b"), lambda: disk.rename("b", path), lambda: disk.remove(path),
        lambda: disk.size(path),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreError, match="is not a clean relative path"):
            call()


def test_what_cannot_be_done_is_a_store_error(disk: Disk) -> None:
    for call in (lambda: disk.sync("none"), lambda: disk.truncate("none", 0), lambda: disk.rename("none", "other")):
        with pytest.raises(StoreError, match="none"):
            call()
    disk.write("a/one", b"")
    with pytest.raises(StoreError, match="crosses folders"):
        disk.rename("a/one", "b/one")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_store_error(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="write 'a'"):
            disk.write("a", b"")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_place_of_the_root_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="open"):
        RealDisk(tmp_path / "file")


def test_real_syncs_reach_the_kernel_for_the_file_and_for_each_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def spy(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path).as_posix())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    disk = RealDisk(tmp_path)
    disk.write("a/b/file", b"x")
    assert synced == [".", "a"]
    disk.sync("a/b/file")
    disk.sync_dir("a/b")
    assert synced[2:] == ["a/b/file", "a/b"]
    disk.remove("a/b/file")
    disk.sync_dir("a/b")
    assert synced[4:] == ["."]
