"""The log-mel front of a bundle, one plain integer at a time."""

from edgerun.kernels import sound
from edgerun.spec import LogMel


def slow_log_mel(front: LogMel, frames: int, bands: int, x: list[int]) -> list[int]:
    """The whole front once more, one integer at a time."""
    peak = max(abs(v) for v in x)
    x = [v << max(0, 15 - peak.bit_length()) for v in x] if peak else x
    energy = [sum(v * v for v in x[k * 64 : k * 64 + 64]) for k in range(len(x) // 64)]
    around = [sum(energy[max(0, k - 1) : k + 2]) for k in range(len(energy))]
    loud = [k for k, e in enumerate(around) if e > max(around) >> front.quiet_shift]
    first, last = (loud[0] * 64, loud[-1] * 64 + 64) if loud else (0, len(x))
    room, n = max(0, last - first - front.window), front.window
    x = x + [0] * n
    fourier, bank = (
        sound.fourier(n),
        sound.triangles(sound.mel_edges(bands, front.low_hz, front.high_hz), n, front.sample_rate),
    )
    rows = []
    for t in range(frames):
        start = first + t * room // max(1, frames - 1)
        sums = [sum(x[start + i] * int(fourier[i, k]) for i in range(n)) >> 15 for k in range(n + 2)]
        power = [(sums[k] ** 2 + sums[k + n // 2 + 1] ** 2) >> 8 for k in range(n // 2 + 1)]
        for b in range(bands):
            e = 1 + sum(p * int(w) for p, w in zip(power, bank[:, b], strict=True))
            high = e.bit_length() - 1
            rows.append(32 * high + ((32 * e) >> high) - 32)
    rows = [max(v, max(rows) - 32 * front.floor_octaves) for v in rows]
    mean, half = sum(rows) // len(rows), (1 << front.step_shift) >> 1
    return [max(-128, min(127, (v - mean + half) >> front.step_shift)) for v in rows]
