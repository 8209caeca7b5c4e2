"""Onsets of a sound: how much it strikes up at every moment, how loud it is, and which moments stand out. Pure torch."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

HOP_SECONDS = 0.01
WINDOW_SECONDS = 0.023  # shorter than half a video frame at 16 fps, long enough for bass
COMPRESSION = 100.0  # gamma: what lies 40 dB under the loudest is as good as silent
FULL_RISE = math.log(10.0)  # 20 dB: a start out of silence must not dwarf the strokes of a full sound
LOWEST_HZ = 20.0
SILENCE = 1e-3  # amplitude, of full scale 1, under which a whole sound is silent: its noise must not be blown up to onsets
PEAK_SECONDS = 0.03  # an onset is the greatest strength within this on either side ...
MEAN_SECONDS = 0.3  # ... and stands out from the mean within this
CLEAR = 0.7  # strength that the strongest is taken to have at least; stationary noise stays near 0.2
START_SECONDS = 0.05


def hops(waveform: Tensor, rate: int, low_hz: float = 0.0, high_hz: float = 0.0) -> tuple[Tensor, Tensor]:
    """Magnitudes "k n" of the bins in low_hz..high_hz (0: no limit) of a sound "c t", channels joined by power, and their frequencies "k".

    Column 0 is the window that ends at the first sample; column n ends `n` hops later. Amplitude 1 of a sine gives magnitude 1.
    """
    hop, window = _hop(rate), max(4, round(rate * WINDOW_SECONDS))
    before = torch.zeros_like(waveform[:, :window])
    if waveform.shape[1] >= window and not dies_away(waveform, rate):
        before = waveform[:, :window].flip(1)  # a sound that is cut, not struck, at its start: as if it had been there before
    padded = torch.cat([before.new_zeros(len(waveform), window - before.shape[1]), before, waveform], dim=1)
    hann = torch.hann_window(window, dtype=padded.dtype)
    spectrum = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)
    magnitudes = spectrum.abs().square().mean(0).sqrt() * 2 / hann.sum()
    frequencies = torch.arange(len(magnitudes)) * rate / window
    kept = (frequencies >= low_hz) & (frequencies <= (high_hz or torch.inf))
    return magnitudes[kept], frequencies[kept]


def third_octaves(magnitudes: Tensor, frequencies: Tensor) -> Tensor:
    """Bins "k n" joined by power into bands a third of an octave wide, "band n": music is as fine in the bass as it is coarse above."""
    octave = (3 * (frequencies.clamp(min=LOWEST_HZ) / LOWEST_HZ).log2()).floor().long()
    _, band = octave.unique(return_inverse=True)
    return magnitudes.new_zeros(int(band.max()) + 1, magnitudes.shape[1]).index_add_(0, band, magnitudes.square()).sqrt()


def dies_away(waveform: Tensor, rate: int) -> bool:
    """Whether a sound "c t" begins with a stroke: its first 50 ms are at least twice as strong (RMS) as the 100 ms that follow."""
    start = max(1, round(START_SECONDS * rate))
    first, then = waveform[:, :start], waveform[:, start : 3 * start]
    return bool(first.square().mean().sqrt() > 2 * (then.square().mean().sqrt() if then.numel() else 0.0))


def onset_strength(waveform: Tensor, rate: int, low_hz: float = 0.0, high_hz: float = 0.0) -> Tensor:
    """SF(n) = mean_k H(L(n, k) - L(n - 2, k)), L = log(1 + gamma |X|/max |X|) in bands k: "c t" -> "n" in 0..1, one value per hop.

    Spectral flux (S. Dixon, Onset Detection Revisited, DAFx 2006) of a compressed, banded spectrum, against the window that overlaps by
    half (S. Böck, F. Krebs, M. Schedl, Evaluating the Online Capabilities of Onset Detection Methods, ISMIR 2012). H(x) = max(x, 0), at
    most 20 dB: 1 is a rise by that in every band. Value n is what the samples of hop n and the one before brought. It counts only while
    the energy of the differentiated sound rises: a tone that is cut off splashes over the whole spectrum, but is no onset.
    """
    magnitudes, frequencies = hops(waveform, rate, low_hz, high_hz)
    if not magnitudes.numel():
        return torch.zeros(max(magnitudes.shape[1] - 1, 0))
    bands = third_octaves(magnitudes, frequencies)
    level = torch.log1p(COMPRESSION * bands / bands.max().clamp(min=SILENCE))
    energy = (magnitudes * frequencies[:, None]).square().sum(0)
    flux = _rise(level).clamp(0, FULL_RISE).mean(0) / FULL_RISE
    return torch.where(_rise(energy[None])[0] > 0, flux, 0.0)


def loudness(waveform: Tensor, rate: int, low_hz: float = 0.0, high_hz: float = 0.0) -> Tensor:
    """Root mean square of the band over 50 ms, "c t" -> "n", one value per hop, full scale 1; 0 where it is silent."""
    magnitudes, _ = hops(waveform, rate, low_hz, high_hz)
    power = magnitudes.square().sum(0)[1:] / 3  # a sine has half its squared amplitude, and a Hann window spreads it over 3/2 bins
    root = _mean(power, 2).sqrt() if len(power) else power
    return root * (root >= SILENCE)


def pick_onsets(strength: Tensor, step: float, threshold: float, gap: float) -> list[int]:
    """The hops of `strength` "n" (one per `step` seconds) that are onsets, in order of time.

    A local maximum that exceeds the mean around it by `threshold` of the strongest (Böck, Krebs, Schedl 2012); of several within `gap`
    seconds the strongest. Noise and silence have none: their strongest is weak.
    """
    if not len(strength):
        return []
    relative = strength / strength.max().clamp(min=CLEAR)
    greatest = relative >= _greatest(relative, round(PEAK_SECONDS / step))
    stands_out = relative >= _mean(relative, round(MEAN_SECONDS / step)) + threshold
    picked: list[int] = []
    for hop in sorted((greatest & stands_out & (strength > 0)).nonzero().flatten().tolist(), key=lambda hop: -relative[hop].item()):
        if all(abs(hop - other) * step > gap for other in picked):
            picked.append(hop)
    return sorted(picked)


def loud_stretches(level: Tensor, step: float, threshold: float, gap: float) -> list[tuple[int, int]]:
    """Half-open stretches of hops in which `level` "n" is at least `threshold` of its greatest; pauses up to `gap` seconds are bridged."""
    if not len(level):
        return []
    stretches: list[tuple[int, int]] = []
    for hop in ((level >= threshold * level.max()) & (level > 0)).nonzero().flatten().tolist():
        if stretches and (hop - stretches[-1][1]) * step <= gap:
            stretches[-1] = (stretches[-1][0], hop + 1)
        else:
            stretches.append((hop, hop + 1))
    return stretches


def _rise(values: Tensor) -> Tensor:
    """What columns "k n+1" gained over two hops, as "k n": before the first there was what is in it."""
    values = torch.cat([values[:, :1], values], dim=1)
    return values[:, 2:] - values[:, :-2]


def hop_seconds(rate: int) -> float:
    return _hop(rate) / rate


def _hop(rate: int) -> int:
    return max(1, round(rate * HOP_SECONDS))


def _greatest(values: Tensor, reach: int) -> Tensor:
    """Greatest of the values "n" within `reach` on either side."""
    reach = min(reach, len(values) - 1)
    return max_pool1d(values[None], 2 * reach + 1, stride=1, padding=reach)[0]


def _mean(values: Tensor, reach: int) -> Tensor:
    """Mean of the values "n" within `reach` on either side, at the ends of what there is."""
    reach = min(reach, len(values) - 1)
    return avg_pool1d(values[None], 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)[0]
