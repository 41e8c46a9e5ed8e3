"""A pretend flash: the `Disk` port over memory, with worse luck than a real one.

What has been written and what would survive are kept apart. A file's bytes become durable by `sync`, its name by
`sync_dir`; until then a power cut may keep all, none or torn parts of them, by a seeded choice. Pages wear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

from edgerun.errors import StoreError
from edgerun.linux.disk import RealDisk, check_path, check_rename

Pages: TypeAlias = list[int]  # physical page numbers; inside SimFlash the name `list` is a method
Fate: TypeAlias = Literal["lost", "torn", "kept"]
Keep: TypeAlias = Literal["none", "some", "all"]
FATES: tuple[Fate, ...] = ("lost", "torn", "kept")
KEEPS: tuple[Keep, ...] = ("none", "some", "all")


class PowerCut(BaseException):
    """The power is gone: nothing that runs on the device may catch this, as nothing could.

    fate  of the write that was under way: lost, torn or kept; "off" where there was none
    """

    def __init__(self, message: str, fate: str = "off") -> None:
        super().__init__(message)
        self.fate = fate


@dataclass(eq=False)
class _File:
    """One inode. Pages before `clean` are the same in `content` (what reads see) and `synced` (what survives)."""

    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    clean: int = 0
    pages: Pages = field(default_factory=list)  # those that hold `synced`


@dataclass(frozen=True)
class _NameChange:
    """A change of one folder that has not been sync_dir'ed: unlink `gone`, then link `name` to `file`."""

    gone: str | None = None
    name: str | None = None
    file: _File | None = None

    @property
    def folder(self) -> str:
        return (self.name or self.gone or "").rpartition("/")[0]

    def apply(self, names: dict[str, _File]) -> None:
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.name is not None and self.file is not None:
            names[self.name] = self.file


class SimFlash:
    """`pages` pages of `page_bytes`, each good for `endurance` programmings. Everything random comes from `seed`.

    Every call that changes something, the two syncs included, is one write for `cut_power_after`. With `image`, what is
    durable is mirrored into that real folder, and read from it at the start; SQLite files there are left alone.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        page_bytes: int = 4096,
        pages: int = 16384,
        endurance: int = 10_000,
        image: Path | None = None,
    ) -> None:
        self._rng = Random(seed)
        self._page_bytes, self._endurance = page_bytes, endurance
        self._names: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._changes: list[_NameChange] = []
        self._wear = [0] * pages
        self._free = deque(range(pages))
        self._cut: tuple[int, Fate | None] | None = None
        self._flips: dict[int, int] = {}  # how many bits flip in what the n-th write leaves
        self._off = False
        self._bytes_written = 0
        self.writes = 0
        self.flipped: list[str] = []  # files in which bits have flipped on order
        self._image_path = image
        self._image = RealDisk(image) if image is not None else None
        if image is not None:
            self._adopt({name: (image / name).read_bytes() for name in _image_files(image)})

    # ---- the Disk port

    @property
    def bytes_written(self) -> int:
        return self._bytes_written

    def read(self, path: str) -> bytes | None:
        file = self._find(path)
        return None if file is None else bytes(file.content)

    def size(self, path: str) -> int | None:
        file = self._find(path)
        return None if file is None else len(file.content)

    def list(self, path: str) -> list[str]:
        self._check_power()
        prefix = check_path(path) + "/"
        return sorted({name[len(prefix) :].split("/")[0] for name in self._names if name.startswith(prefix)})

    def write(self, path: str, data: bytes) -> None:
        def change(part: float) -> None:
            file, done = self._made(path), data[: round(len(data) * part)]
            file.content[:], file.clean = done, 0
            self._bytes_written += len(done)

        self._act(path, change)

    def append(self, path: str, data: bytes) -> None:
        def change(part: float) -> None:
            file, done = self._made(path), data[: round(len(data) * part)]
            file.clean = min(file.clean, len(file.content) // self._page_bytes)
            file.content += done
            self._bytes_written += len(done)

        self._act(path, change)

    def truncate(self, path: str, length: int) -> None:
        file = self._needed(path)

        def change(part: float) -> None:
            if part >= 0.5:
                file.content[:] = file.content[:length].ljust(length, b"\0")
                file.clean = min(file.clean, length // self._page_bytes)

        self._act(path, change)

    def sync(self, path: str) -> None:
        file = self._needed(path)

        def change(part: float) -> None:
            survives = bytes(file.content) if part == 1 else self._survivor(file, "some")
            self._store(file, survives)

        self._act(path, change)

    def sync_dir(self, path: str) -> None:
        def change(part: float) -> None:
            here = [each for each in self._changes if each.folder == path]
            self._settle(here[: round(len(here) * part)])
            self._program(1)

        self._act(path, change)

    def rename(self, old: str, new: str) -> None:
        check_rename(old, new)
        file = self._needed(old)
        self._act(new, lambda part: self._change_name(_NameChange(gone=old, name=new, file=file), part))

    def remove(self, path: str) -> None:
        if self._find(path) is not None:
            self._act(path, lambda part: self._change_name(_NameChange(gone=path), part))

    # ---- bad luck

    def cut_power_after(self, writes: int, fate: Fate | None = None) -> None:
        """Cut the power at the `writes`-th write from now, which is lost, torn or kept; None: the seed decides."""
        if writes < 1:
            raise ValueError(f"writes {writes} is under 1")
        self._cut = (self.writes + writes, fate)

    def reboot(self, keep: Keep = "some") -> SimFlash:
        """The flash as the next start finds it. Of what was never synced, all, none or torn parts survive."""
        names = dict(self._durable)
        for folder in sorted({each.folder for each in self._changes}):
            here = [each for each in self._changes if each.folder == folder]
            count = {"none": 0, "all": len(here), "some": self._rng.randint(0, len(here))}[keep]
            for each in here[:count]:
                each.apply(names)
        content = {name: self._survivor(file, keep) for name, file in sorted(names.items())}
        after = SimFlash(
            seed=self._rng.getrandbits(64),
            page_bytes=self._page_bytes,
            pages=len(self._wear),
            endurance=self._endurance,
        )
        after._wear = list(self._wear)
        after._free = deque(page for page, cycles in enumerate(after._wear) if cycles < self._endurance)
        after._image_path, after._image = self._image_path, self._image
        after._adopt(content)
        for name in sorted(set(self._durable) - set(content)):
            after._mirror(name)
        return after

    def flip_bit(self, path: str, bit: int) -> None:
        """Damage one stored bit of a file, as a cosmic ray or a failing cell would."""
        file = self._needed(path)
        for bank in (file.content, synced := bytearray(file.synced)):
            if bit // 8 < len(bank):
                bank[bit // 8] ^= 1 << bit % 8
        file.synced = bytes(synced)
        for name in [name for name, each in self._durable.items() if each is file]:
            self._mirror(name)

    def flip_bits_after(self, writes: int, bits: int) -> None:
        """Flip so many bits, at places that the seed draws, in what the `writes`-th write from now leaves in a file."""
        if writes < 1 or bits < 1:
            raise ValueError(f"writes {writes} or bits {bits} is under 1")
        self._flips[self.writes + writes] = bits

    def _flip_due(self, path: str) -> None:
        """A write that leaves no bytes behind passes its flips on to the next."""
        bits, file = self._flips.pop(self.writes, 0), self._names.get(path)
        if bits and (file is None or not file.content):
            self._flips[self.writes + 1] = bits + self._flips.get(self.writes + 1, 0)
        elif bits and file is not None:
            for _ in range(bits):
                self.flip_bit(path, self._rng.randrange(8 * len(file.content)))
            self.flipped.append(path)

    # ---- wear

    @property
    def wear(self) -> tuple[int, ...]:
        """Programmings of each page so far."""
        return tuple(self._wear)

    @property
    def retired(self) -> int:
        """Pages that have reached their endurance and are used no more."""
        return sum(cycles >= self._endurance for cycles in self._wear)

    def _program(self, count: int, *, hold: bool = False) -> Pages:
        """Program `count` free pages, the one longest free first; released again at once unless held."""
        if count > len(self._free):
            raise StoreError(f"flash is full: {count} pages wanted, {len(self._free)} of {len(self._wear)} are free")
        pages = [self._free.popleft() for _ in range(count)]
        for page in pages:
            self._wear[page] += 1
        if not hold:
            self._release(pages)
        return pages

    def _release(self, pages: Pages) -> None:
        self._free.extend(page for page in pages if self._wear[page] < self._endurance)

    # ---- inside

    def _check_power(self) -> None:
        if self._off:
            raise PowerCut("the power is off")

    def _act(self, path: str, change: Callable[[float], None]) -> None:
        """Do `change(1.0)`; at the fatal write do a part of it, or nothing, and cut the power."""
        check_path(path)
        self._check_power()
        self.writes += 1
        if self._cut is None or self.writes < self._cut[0]:
            change(1.0)
            self._flip_due(path)
            return
        armed = self._cut[1]
        fate = self._rng.choice(FATES) if armed is None else armed
        if fate != "lost":
            change(1.0 if fate == "kept" else self._rng.random())
        self._off = True
        raise PowerCut(f"power cut at write {self.writes}, which was {fate}", fate)

    def _find(self, path: str) -> _File | None:
        self._check_power()
        return self._names.get(check_path(path))

    def _needed(self, path: str) -> _File:
        file = self._find(path)
        if file is None:
            raise StoreError(f"no file {path!r}")
        return file

    def _made(self, path: str) -> _File:
        if path not in self._names:
            self._change_name(_NameChange(name=path, file=_File()), 1.0)
        return self._names[path]

    def _change_name(self, change: _NameChange, part: float) -> None:
        """Names change atomically: a torn change has happened or not."""
        if part >= 0.5:
            change.apply(self._names)
            self._changes.append(change)

    def _store(self, file: _File, survives: bytes) -> None:
        """Program the pages that changed and make `survives` the durable content."""
        total = -(-len(survives) // self._page_bytes)
        fresh = self._program(max(total - file.clean, 0), hold=True)
        self._release(file.pages[file.clean :])
        file.pages = file.pages[: file.clean] + fresh
        file.synced, file.clean = survives, len(survives) // self._page_bytes
        for name in [name for name, each in self._durable.items() if each is file]:
            self._mirror(name)

    def _settle(self, changes: Sequence[_NameChange]) -> None:
        """Make name changes durable and give back the pages of files that no name holds any more."""
        before = list(self._durable.values())
        for each in changes:
            each.apply(self._durable)
            self._changes.remove(each)
        held = {id(file) for file in (*self._durable.values(), *self._names.values())}
        for file in before:
            if id(file) not in held:
                self._release(file.pages)
                file.pages = []
        for name in sorted({name for each in changes for name in (each.gone, each.name) if name is not None}):
            self._mirror(name)

    def _survivor(self, file: _File, keep: Keep) -> bytes:
        """What the medium holds of a file after a cut: each page old, new, or new up to a tear."""
        old, new = file.synced, bytes(file.content)
        if keep != "some" or old == new:
            return old if keep == "none" else new
        length = self._rng.choice((len(old), len(new), self._rng.randint(*sorted((len(old), len(new))))))
        old, result = old.ljust(length, b"\0"), bytearray(new.ljust(length, b"\0"))
        for start in range(0, length, self._page_bytes):
            end = min(start + self._page_bytes, length)
            tear = self._rng.choice((start, end, self._rng.randint(start, end)))
            result[tear:end] = old[tear:end]
        return bytes(result[:length])

    def _adopt(self, content: dict[str, bytes]) -> None:
        """Start from these durable files."""
        for name, data in content.items():
            file = _File(bytearray(data))
            self._names[name] = self._durable[name] = file
            pages = -(-len(data) // self._page_bytes)
            file.pages = [self._free.popleft() for _ in range(pages)]
            file.synced, file.clean = data, len(data) // self._page_bytes
            self._mirror(name)

    def _mirror(self, name: str) -> None:
        if self._image is not None:
            file = self._durable.get(name)
            if file is None:
                self._image.remove(name)
            else:
                self._image.write(name, file.synced)


def _image_files(image: Path) -> list[str]:
    """Relative names of the files in an image, without the outbox's database, which no SimFlash holds."""
    files = (path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file())
    return sorted(name for name in files if ".db" not in name.rpartition("/")[2])
