"""The metrics a device may send, as one table; the birth message carries it, the page and the docs read it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from edgerun.telemetry.messages import Metric

METRICS: Final = MappingProxyType(
    {
        "accuracy": Metric(unit="share", help="prequential, over a window: each sample is scored before it teaches"),
        "probe_accuracy": Metric(unit="share", help="of the bundle's probe samples, with learned weights"),
        "forgetting": Metric(unit="share", help="best probe accuracy since the start, minus the one now"),
        "loss": Metric(unit="nat", help="cross-entropy of the newest lesson"),
        "drift": Metric(unit="1", help="statistic of the drift detector"),
        "stream_drift": Metric(unit="share", help="of what an alarm takes, told without labels: samples unlike before"),
        "power_mw": Metric(unit="mW", help="mean power over the last minute"),
        "budget_mw": Metric(unit="mW", help="power budget in force"),
        "tokens_mj": Metric(unit="mJ", help="energy in the governor's token bucket"),
        "energy_uj": Metric(unit="uJ", kind="counter", help="all energy spent"),
        "energy_inference_uj": Metric(unit="uJ", help="energy of one inference"),
        "energy_update_uj": Metric(unit="uJ", help="energy of one lesson, its replay and consolidation included"),
        "level": Metric(unit="index", help="rung of the shedding ladder, 0 = everything"),
        "lessons": Metric(unit="1", kind="counter", help="lessons committed"),
        "updates": Metric(unit="1", kind="counter", help="weight updates made"),
        "doubted": Metric(unit="1", kind="counter", help="lessons set aside since the start: surely another class"),
        "inferences": Metric(unit="1", kind="counter", help="samples decided"),
        "spike_rate": Metric(unit="share", help="spikes per neuron and step in the newest window"),
        "update_norm": Metric(unit="shadow LSB", help="root mean square of the newest weight change"),
        "importance_p50": Metric(unit="u8", help="median importance of a plastic weight"),
        "importance_p99": Metric(unit="u8", help="99th percentile of importance"),
        "consolidated_share": Metric(unit="share", help="plastic weights with importance above zero"),
        "saturations": Metric(unit="1", kind="counter", help="values clipped by the learner's arithmetic"),
        "refused": Metric(unit="1", kind="counter", help="commands refused or dropped since the start"),
        "outbox_depth": Metric(unit="1", help="messages not yet acknowledged by the collector"),
        "flash_mb_today": Metric(unit="MB", help="bytes handed to the flash since midnight of device time"),
        "temperature_c": Metric(unit="degC", help="hottest sensor of the board"),
        "ram_kb": Metric(unit="KiB", help="resident memory"),
    }
)
