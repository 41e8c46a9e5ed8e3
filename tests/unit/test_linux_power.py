"""The reader of /sys and /proc on trees made by hand: what is there is measured, what is missing is absent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerun.boards import get_board
from edgerun.linux.clock import SystemClock
from edgerun.linux.power import LinuxPower, Rapl, SysRoot, battery, ina_mw, memory_limit_kb, temperature_c
from edgerun.ports import Clock, Power

Put = Callable[..., None]
BOARD = get_board("rpi-zero-2w")


class Hand:
    """A clock turned by hand."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def device_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 0

    def sleep_until(self, device_s: float) -> None:
        self.now_s = device_s


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(folder: str, **files: object) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (tmp_path / folder / name).write_text(f"{value}\n")

    return write


def test_an_empty_machine_says_nothing_and_is_estimated(tmp_path: Path) -> None:
    clock = Hand()
    power: Power = LinuxPower(BOARD, clock, tmp_path)
    clock.now_s = 10.0
    power.spend("infer", 2e6, 1000.0)
    readings = power.readings()
    assert readings.power_mw is not None
    assert (readings.power_mw.source, readings.power_mw.value) == ("estimated", BOARD.sleep_mw + 200.0)
    assert readings.power_mw.uncertainty == BOARD.power_uncertainty
    assert readings.energy_j_today == pytest.approx(10 * BOARD.sleep_mw / 1e3 + 2)
    for name in ("temperature_c", "ram_kb", "cpu_share", "battery_share"):
        assert getattr(readings, name) is None
    assert not any(LinuxPower(BOARD, clock, tmp_path).capabilities().values())


def test_acts_are_estimated_once(tmp_path: Path) -> None:
    clock = Hand()
    power = LinuxPower(BOARD, clock, tmp_path)
    power.spend("infer", 1e6, 0.0)
    for now_s, acts_mw in ((5.0, 200.0), (10.0, 0.0)):
        clock.now_s = now_s
        reading = power.readings().power_mw
        assert reading is not None
        assert reading.value == pytest.approx(BOARD.sleep_mw + acts_mw)


def test_an_ina219_is_found_by_name_and_believed_over_rapl(tmp_path: Path, put: Put) -> None:
    put("sys/class/hwmon/hwmon0", name="cpu_thermal", power1_input=9_999_999)
    put("sys/class/hwmon/hwmon7", name="ina219", power1_input=812_000, in1_input=5000, curr1_input=1)
    put("sys/class/powercap/intel-rapl:0", energy_uj=1, max_energy_range_uj=1000)
    clock = Hand()
    power = LinuxPower(BOARD, clock, tmp_path)
    clock.now_s = 2.0
    reading = power.readings().power_mw
    assert reading is not None
    assert (reading.value, reading.source, reading.uncertainty) == (812.0, "measured", 0.02)


def test_an_ina226_without_a_power_file_is_volts_times_amperes(tmp_path: Path, put: Put) -> None:
    put("sys/class/hwmon/hwmon1", name="ina226", in0_input=3, in1_input=5010, curr1_input=200)
    assert ina_mw(SysRoot(tmp_path)) == pytest.approx(1002.0)


def test_a_negative_current_is_not_negative_power(tmp_path: Path, put: Put) -> None:
    put("sys/class/hwmon/hwmon1", name="ina230", in1_input=5000, curr1_input=-12)
    assert ina_mw(SysRoot(tmp_path)) == 0.0


def test_an_ina3221_counts_the_board_input_once_and_else_every_rail(tmp_path: Path, put: Put) -> None:
    rails = {"in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 900, "in2_label": "VDD_CPU", "in2_input": 5000}
    put("sys/class/hwmon/hwmon3", name="ina3221", curr2_input=300, in4_input=9, **rails)
    assert ina_mw(SysRoot(tmp_path)) == pytest.approx(4500.0)
    put("sys/class/hwmon/hwmon3", in1_label="VDD_GPU")
    assert ina_mw(SysRoot(tmp_path)) == pytest.approx(6000.0)


def test_a_missing_rail_is_left_out(tmp_path: Path, put: Put) -> None:
    put("sys/class/hwmon/hwmon3", name="ina3221", in1_label="VDD_IN", in1_input=5000, in2_input=5000, curr2_input=300)
    assert ina_mw(SysRoot(tmp_path)) == pytest.approx(1500.0)
    put("sys/class/hwmon/hwmon4", name="ina219")
    assert ina_mw(SysRoot(tmp_path)) == pytest.approx(1500.0)


@pytest.mark.parametrize("text", ["", "garbage", "nan", "inf", "0x10"])
def test_a_file_that_is_no_number_is_absent(tmp_path: Path, put: Put, text: str) -> None:
    put("sys/class/hwmon/hwmon1", name="ina219", power1_input=text)
    assert ina_mw(SysRoot(tmp_path)) is None


def test_a_folder_where_a_file_should_be_is_absent(tmp_path: Path, put: Put) -> None:
    put("sys/class/hwmon/hwmon1", name="ina219")
    (tmp_path / "sys/class/hwmon/hwmon1/power1_input").mkdir()
    assert ina_mw(SysRoot(tmp_path)) is None


def test_rapl_wraps_at_its_range_and_does_not_add_parts(tmp_path: Path, put: Put) -> None:
    put("sys/class/powercap/intel-rapl:0", energy_uj=999_000, max_energy_range_uj=1_000_000)
    put("sys/class/powercap/intel-rapl:0:0", energy_uj=0, max_energy_range_uj=1_000_000)
    put("sys/class/powercap/intel-rapl:1", energy_uj=10, max_energy_range_uj=1_000_000)
    rapl = Rapl(SysRoot(tmp_path))
    put("sys/class/powercap/intel-rapl:0", energy_uj=4_000)
    put("sys/class/powercap/intel-rapl:0:0", energy_uj=777)
    put("sys/class/powercap/intel-rapl:1", energy_uj=110)
    assert rapl.energy_uj() == 5_000 + 100
    assert rapl.energy_uj() == 0


def test_rapl_power_is_measured_with_a_wide_uncertainty(tmp_path: Path, put: Put) -> None:
    put("sys/class/powercap/intel-rapl:0", energy_uj=0, max_energy_range_uj=2**32)
    clock = Hand()
    power = LinuxPower(BOARD, clock, tmp_path)
    put("sys/class/powercap/intel-rapl:0", energy_uj=12_000_000)
    clock.now_s = 4.0
    reading = power.readings().power_mw
    assert reading is not None
    assert (reading.value, reading.source, reading.uncertainty) == (3000.0, "measured", 0.3)


def test_a_package_that_appears_later_counts_from_then(tmp_path: Path, put: Put) -> None:
    put("sys/class/powercap/intel-rapl:0", energy_uj=5)
    rapl = Rapl(SysRoot(tmp_path))
    put("sys/class/powercap/intel-rapl:1", energy_uj=10**9)
    put("sys/class/powercap/intel-rapl:0", energy_uj=25)
    assert rapl.energy_uj() == 20


def test_the_hottest_likely_zone_counts(tmp_path: Path, put: Put) -> None:
    put("sys/class/thermal/thermal_zone0", type="cpu", temp=51_500)
    put("sys/class/thermal/thermal_zone1", type="gpu", temp=83_200)
    put("sys/class/thermal/thermal_zone2", type="broken", temp=-274_000)
    put("sys/class/thermal/cooling_device0", temp=150_000)
    assert temperature_c(SysRoot(tmp_path)) == 83.2


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"capacity": 41, "status": "Discharging", "power_now": 2_500_000}, (0.41, 2500.0)),
        ({"capacity": 41, "status": "Discharging", "voltage_now": 4e6, "current_now": -5e5}, (0.41, 2000.0)),
        ({"capacity": 100, "status": "Charging", "power_now": 2_500_000}, (1.0, None)),
        ({"capacity": 103, "status": "Full"}, (1.0, None)),
        ({"status": "Discharging"}, (None, None)),
    ],
)
def test_a_battery_says_its_share_and_drain(
    tmp_path: Path, put: Put, files: dict[str, object], want: tuple[float | None, float | None]
) -> None:
    put("sys/class/power_supply/AC", type="Mains", online=1)
    put("sys/class/power_supply/BAT0", type="Battery", **files)
    assert battery(SysRoot(tmp_path)) == want


def test_memory_processor_and_flash_of_this_process(tmp_path: Path, put: Put) -> None:
    stat = "77 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 100 50 0 0 20 0"
    put("proc/self", statm="9000 512 300 1 0 4000 0", stat=stat, io="rchar: 1\nwrite_bytes: 1000000\n")
    clock = Hand()
    power = LinuxPower(BOARD, clock, tmp_path)
    put("proc/self", stat=stat.replace("100 50", "140 60"), io="rchar: 1\nwrite_bytes: 3500000\n")
    clock.now_s = 2.0
    readings = power.readings()
    assert readings.ram_kb is not None
    assert readings.ram_kb.value == 2048  # pages of 4 KiB
    assert readings.cpu_share is not None
    assert readings.cpu_share.value == pytest.approx(0.25)  # 50 ticks of 10 ms in 2 s
    assert readings.flash_mb_today == 2.5


def test_a_new_day_begins_its_sums_again(tmp_path: Path, put: Put) -> None:
    put("proc/self", io="write_bytes: 1000000")
    put("sys/class/hwmon/hwmon1", name="ina219", power1_input=1_000_000)
    clock = Hand(86_000.0)
    power = LinuxPower(BOARD, clock, tmp_path)
    put("proc/self", io="write_bytes: 9000000")
    clock.now_s = 86_300.0
    assert power.readings().energy_j_today == pytest.approx(300.0)
    clock.now_s = 86_500.0
    readings = power.readings()
    assert readings.energy_j_today == pytest.approx(100.0)
    assert readings.flash_mb_today == 0.0


@pytest.mark.parametrize(
    ("groups", "files", "want"),
    [
        ("0::/app/run", {"sys/fs/cgroup/app": 65536 * 1024, "sys/fs/cgroup/app/run": "max"}, 65536.0),
        ("0::/app", {"sys/fs/cgroup/app": "max"}, None),
        ("0::/../../etc", {"etc": 1024}, None),
        ("", {}, None),
    ],
)
def test_the_memory_limit_of_version_2_is_the_smallest_up_the_tree(
    tmp_path: Path, put: Put, groups: str, files: dict[str, object], want: float | None
) -> None:
    put("proc/self", cgroup=groups)
    for folder, value in files.items():
        put(folder, **{"memory.max": value})
    assert memory_limit_kb(SysRoot(tmp_path)) == want


def test_the_memory_limit_of_version_1_ignores_the_unlimited(tmp_path: Path, put: Put) -> None:
    put("proc/self", cgroup="12:cpu,cpuacct:/x\n4:memory:/x")
    put("sys/fs/cgroup/memory", **{"memory.limit_in_bytes": 9223372036854771712})
    put("sys/fs/cgroup/memory/x", **{"memory.limit_in_bytes": 33554432})
    assert memory_limit_kb(SysRoot(tmp_path)) == 32768.0


def test_this_very_machine_can_be_read() -> None:
    power = LinuxPower(BOARD, SystemClock())
    readings = power.readings()
    assert readings.ram_kb is not None
    assert 1_000 < readings.ram_kb.value < 10_000_000
    assert power.capabilities()["processor time"]


def test_the_system_clock_sleeps_until_and_not_before() -> None:
    clock: Clock = SystemClock()
    begin_s = clock.device_s()
    clock.sleep_until(begin_s + 0.03)
    assert 0.03 <= clock.device_s() - begin_s < 1.0
    clock.sleep_until(begin_s)
    assert abs(clock.wall_ms() - time.time() * 1e3) < 1000
