"""The files of a project, by name: a bundle for a board."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle
from edgerun.errors import Refused, SpecError
from edgerun.image import Image, image_of, learning_image
from edgerun.price import firmware_parts
from exporters.firmware import model
from exporters.firmware.boards import PORTS, FirmwareBoard, firmware_board
from exporters.firmware.guard import FirmwareGuard, guard_of

KERNELS: Final = "edgerun"
"""The folder of the project that holds copies of `edgerun/csrc`."""

PYTHON_ONLY: Final = ("module",)
"""Sources of `edgerun/csrc` that only a Python process needs begin so."""

LEARNING: Final = ("learned.", "lessons.c", "checkpoint.", "guard.", "watch.")
FROZEN: Final = ("frozen.c",)
"""Files of a firmware that learns, and of one that does not."""

RESET: Final = ("startup.c",)
"""Files of a firmware that no operating system starts."""

STACK: Final = 4096
"""Bytes; the deepest path, an update inside a lesson, takes 2.5 KB."""

PORT: Final = "port.c"
"""The one file that is a person's to change."""

SLOTS: Final = 3
"""Of the region of checkpoints: the newest, the last good one, the one being written."""

WRITTEN: Final = "Written by `edgerun export-firmware`"

LINKER: Final = """\
/* {name}: {cpu}. Written by `edgerun export-firmware`. */
MEMORY {{
    FLASH (rx) : ORIGIN = {flash[0]:#010x}, LENGTH = {program}
    CHECKPOINTS (r) : ORIGIN = {region:#010x}, LENGTH = {checkpoints}
    RAM (rwx) : ORIGIN = {ram[0]:#010x}, LENGTH = {ram[1]}
}}
_checkpoints = ORIGIN(CHECKPOINTS);
ENTRY(Reset_Handler)
SECTIONS {{
    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(4); }} > FLASH
    _data_flash = LOADADDR(.data);
    /* The stack lies lowest, so that too much of it is a fault. */
    .stack (NOLOAD) : {{ . += {stack}; . = ALIGN(8); _stack_top = .; }} > RAM
    .data : {{ _data = .; *(.data*) . = ALIGN(4); _data_end = .; }} > RAM AT> FLASH
    .bss (NOLOAD) : {{ _bss = .; *(.bss*) *(COMMON) . = ALIGN(4); _bss_end = .; }} > RAM
    /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.attributes) *(.comment) *(.note*) }}
}}
"""

MAKEFILE: Final = """\
# {name}: `make` builds firmware.elf and firmware.map, `make run` runs it here. Written by `edgerun export-firmware`.
CROSS ?= {cross}
OPT ?= {opt}
FLAGS = -std=gnu99 {machine} $(OPT) -fno-strict-aliasing \\
    -ffunction-sections -fdata-sections -Wall -Wextra -I. -include layers.h
LINK = {link} -Wl,--gc-sections -Wl,-Map=firmware.map
LIBRARIES = {libraries}
SOURCES = {sources}

firmware.elf: $(SOURCES) $(wildcard *.h edgerun/*.h *.ld) Makefile flags.txt
\t@command -v $(CROSS)gcc >/dev/null \\
\t    || {{ echo "$(CROSS)gcc is not installed: apt-get install {package}" >&2; exit 1; }}
\t$(CROSS)gcc $(FLAGS) $(LINK) $(SOURCES) $(LIBRARIES) -o $@

# Rewritten, and firmware.elf with it, where what is said to the compiler changes: make OPT=-Os
flags.txt: always
\t@echo '$(CROSS)gcc $(FLAGS) $(LINK)' | cmp -s - $@ || echo '$(CROSS)gcc $(FLAGS) $(LINK)' > $@

run: firmware.elf
\t{run}

clean:
\trm -f firmware.elf firmware.map flags.txt

.PHONY: always run clean
"""

BARE: Final = {
    "machine": "-mcpu={cpu} -mthumb -mfloat-abi=soft -ffreestanding -Ilibc",
    "opt": "-O2",
    "link": "-nostdlib -nostartfiles -T board.ld",
    "libraries": "-lgcc",
}
PROCESS: Final = {"machine": "-D_GNU_SOURCE", "opt": "-O3", "link": "-static", "libraries": ""}
"""Of the Makefile, what a processor without an operating system needs, and a program."""


RUN: Final = MappingProxyType(
    {
        "semihosting": "qemu-system-arm -M {board} -icount shift=0 -display none -monitor none -serial none "
        "-semihosting-config enable=on,target=native -kernel firmware.elf",
        "uart": "qemu-system-arm -M {board} -icount shift=0 -display none -monitor none -serial stdio "
        "-kernel firmware.elf",
        "process": "./firmware.elf < samples.bin > answers.txt",
    }
)
"""What `make run` does, by port."""

README: Final = """\
# {name} for {board}

{written}. A small C project: `make` builds it (Debian: {package}), `make OPT=-Os` smaller, to the same bits.

{running}

`samples.bin` holds {samples} samples of the bundle's self-test, as frames; `frames.h` says what a frame is, and

    python -c "from firmware_sim.qemu import stream; import sys; sys.stdout.buffer.write(stream.sample(bytes({size})))"

writes one with a sample of {size} zeros. docs/firmware.md of edgerun says what the lines mean and how to write `port.c`
for another board.
"""

RUNNING: Final = MappingProxyType(
    {
        "semihosting": "`make run` runs it in QEMU (Debian: qemu-system-arm): it reads `samples.bin`, writes "
        "`answers.txt` and keeps\ncheckpoints in `flash.bin`, all in this folder. By hand:\n\n    {run}",
        "uart": "`make run` runs it in QEMU (Debian: qemu-system-arm) with its serial line at your terminal, until "
        "Ctrl-C: frames in,\nlines out. By hand:\n\n    {run}\n\nOn a board a host sends a frame, waits for the line "
        "that answers it, and sends the next.",
        "process": "`make run` runs it: it reads frames from its standard input, writes lines to its standard output "
        "and keeps\ncheckpoints in `flash.bin` of the folder where it runs. By hand:\n\n    {run}",
    }
)
"""How it is run, by port."""


def project(bundle: Bundle, board: str, *, frozen: bool = False, port: str = PORTS[0]) -> dict[str, str]:
    """Every file of the project, by its path.

    frozen  it answers and learns nothing, and has memory for no more than that
    port    how frames come in and lines go out, one of `boards.PORTS`

    Raises Refused for an unknown board or port, SpecError for a bundle that C does not run or that the board has no
    room for.
    """
    where = firmware_board(board)
    source = where.port(port)
    image = image_for(bundle, frozen=frozen)
    guard = guard_of(bundle) if image.lessons is not None else None
    check_room(bundle, image, guard, where)
    files = {
        "model.h": model.header(bundle, image, guard),
        "model.c": model.source(image, image.plan, guard),
        "layers.h": model.kinds(image),
        "board.h": _board(where, pages(image, where)),
        PORT: _folder("exporters.firmware", "c/ports")[source],
    }
    absent = (LEARNING if image.lessons is None else FROZEN) + (RESET if where.process else ())
    files |= {name: text for name, text in _folder("exporters.firmware", "c").items() if not name.startswith(absent)}
    if not where.process:
        files |= {f"libc/{name}": text for name, text in _folder("exporters.firmware", "c/libc").items()}
        files["board.ld"] = _linker(where, pages(image, where) * where.page)
    files |= {f"{KERNELS}/{name}": text for name, text in needed(_folder("edgerun", "csrc"), files).items()}
    way = "process" if where.process else port
    files["Makefile"] = _makefile(bundle.manifest.name, where, way, files)
    files["README.md"] = _readme(bundle, where, way)
    return files


def image_for(bundle: Bundle, *, frozen: bool) -> Image:
    """What a firmware holds."""
    return image_of(bundle.manifest, bundle.tensors) if frozen else learning_image(bundle)


def check_room(bundle: Bundle, image: Image, guard: FirmwareGuard | None, board: FirmwareBoard) -> None:
    """Raises SpecError where a board has less memory or flash than the planner says, and tells what would fit."""
    for what, parts in room(image, guard, board).items():
        needed, present = sum(parts.values()), board.bytes[what]
        if needed > present:
            lacking = f"{bundle.manifest.name} needs {needed:,} bytes of {what}, {board.name} has {present:,}"
            raise SpecError(lacking + (FITS_FROZEN if fits_frozen(bundle, image, board) else ""))


FITS_FROZEN: Final = "; what `export-firmware --frozen` writes would fit: it answers and never learns"


def room(image: Image, guard: FirmwareGuard | None, board: FirmwareBoard) -> dict[str, dict[str, int]]:
    """What a firmware takes of a board, by part, of "RAM" and of "flash"."""
    parts = firmware_parts(image)
    if guard is None:
        return parts
    more = {"probe": guard.nbytes, "checkpoints": pages(image, board) * board.page}
    return parts | {"flash": parts["flash"] | more}


def fits_frozen(bundle: Bundle, image: Image, board: FirmwareBoard) -> bool:
    """Whether a firmware that learns would have room if it did not."""
    if image.lessons is None:
        return False
    parts = room(image_for(bundle, frozen=True), None, board)
    return all(sum(part.values()) <= board.bytes[what] for what, part in parts.items())


def pages(image: Image, board: FirmwareBoard) -> int:
    """Of the region of checkpoints: slots of a first page and those of the learned state, in whole sectors."""
    if image.lessons is None:
        return 0
    slot = board.page * (1 + -(-model.kept_bytes(image) // board.page))
    return SLOTS * -(-slot // board.sector) * board.sector // board.page


def write_project(bundle: Bundle, board: str, folder: Path, *, frozen: bool = False, port: str = PORTS[0]) -> bool:
    """Write the project's files into a new or empty folder, or over an earlier project; whether its port was kept.

    Of an earlier project sources that this one lacks go, and a `port.c` that somebody has changed stays. Raises Refused
    for a folder that holds anything else.
    """
    check_folder(folder)
    files = project(bundle, board, frozen=frozen, port=port)
    ours = _folder("exporters.firmware", "c/ports").values()
    kept = (folder / PORT).is_file() and (folder / PORT).read_text("utf-8") not in ours
    for stale in {*folder.glob("*.[ch]"), *folder.glob(f"{KERNELS}/*.[ch]")} - {folder / name for name in files}:
        if stale.name.startswith((*LEARNING, *FROZEN)) or stale.parent.name == KERNELS:
            stale.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (kept and name == PORT):
            path.write_text(text, encoding="utf-8")
    (folder / "samples.bin").write_bytes(b"".join(map(asking, bundle.selftest.x)))
    return kept


def asking(sample: AnyArray) -> bytes:
    """The frame that asks for the answer to a sample in the bundle's input type; `frames.h` has its form."""
    payload = sample.tobytes()
    covered = struct.pack("<cBiI", b"S", 0, -1, len(payload)) + payload
    return b"ER" + covered + struct.pack("<I", zlib.crc32(covered))


def check_folder(folder: Path) -> None:
    """Raises Refused where somebody's own files would be written over."""
    if folder.exists() and not folder.is_dir():
        raise Refused(f"-o {folder}: that is a file, a project needs a folder")
    made = folder / "Makefile"
    ours = made.is_file() and WRITTEN in made.read_text("utf-8", errors="replace")
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise Refused(f"-o {folder}: it holds files that are no firmware project; name a new or an empty folder")


def needed(kernels: Mapping[str, str], firmware: Mapping[str, str]) -> dict[str, str]:
    """Of the C kernels, by file, every header and each source that the firmware calls, or that such a source calls."""
    sources = {name: text for name, text in kernels.items() if name.endswith(".c") and not name.startswith(PYTHON_ONLY)}
    wanted, found = set[str](), dict[str, str]()
    unread = [text for name, text in firmware.items() if name.endswith((".c", ".h"))]
    while unread:
        for text in unread:
            wanted |= set(re.findall(r"\ber_\w+", text))
        new = {
            name: text for name, text in sources.items() if name not in found and wanted & set(DEFINED.findall(text))
        }
        found |= new
        unread = list(new.values())
    return found | {
        name: text for name, text in kernels.items() if name.endswith(".h") and not name.startswith(PYTHON_ONLY)
    }


DEFINED: Final = re.compile(r"^(?!static)[A-Za-z][\w ]*[ *](er_\w+)[(\[]", re.MULTILINE)
"""Functions and tables that a source of the kernels gives out."""


def _folder(package: str, folder: str) -> dict[str, str]:
    """Sources that stand as they are."""
    found = (resources.files(package) / folder).iterdir()
    return {file.name: file.read_text("utf-8") for file in found if file.name.endswith((".c", ".h"))}


def _board(board: FirmwareBoard, count: int) -> str:
    return f"""\
/* {board.name}. Written by `edgerun export-firmware`. */
#define BOARD_NAME "{board.name}"
#define BOARD_TICK_HZ {board.tick_hz}u
#define BOARD_UART {board.uart[1]:#010x}u
#define BOARD_PAGE {board.page}
#define BOARD_PAGES {count}
#define BOARD_SLOTS {SLOTS}
"""


def _makefile(name: str, board: FirmwareBoard, way: str, files: Iterable[str]) -> str:
    parts = PROCESS if board.process else BARE | {"machine": BARE["machine"].format(cpu=board.cpu)}
    sources = " ".join(sorted(file for file in files if file.endswith(".c")))
    run = RUN[way].format(board=board.name)
    return MAKEFILE.format(name=name, cross=board.cross, sources=sources, package=board.package, run=run, **parts)


def _readme(bundle: Bundle, board: FirmwareBoard, way: str) -> str:
    return README.format(
        name=bundle.manifest.name, board=board.name, written=WRITTEN, package=f"{board.package} make",
        running=RUNNING[way].format(run=RUN[way].format(board=board.name)), samples=len(bundle.selftest.x),
        size=bundle.manifest.input.size,
    )  # fmt: skip


def _linker(board: FirmwareBoard, checkpoints: int) -> str:
    """board.ld: checkpoints lie at the end of flash."""
    program = board.flash[1] - checkpoints
    return LINKER.format(
        name=board.name, cpu=board.cpu, flash=board.flash, ram=board.ram, stack=STACK, program=program,
        region=board.flash[0] + program, checkpoints=checkpoints,
    )  # fmt: skip
