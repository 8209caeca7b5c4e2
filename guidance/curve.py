"""A curve of control points as a mask: how it is read from text, and its value in every frame."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .latent_time import curve_mask, curve_weights, pixel_frames
from .spans import MOMENT, NUMBER, Moment, Source, plain_number, read_moment
from .timeline import sources

Interpolation = Literal["linear", "smooth", "step"]
VALUE = re.compile(rf"[\s:,=]+(?P<value>[-+]?(?:{NUMBER}))\s*$")


@dataclass(frozen=True)
class ControlPoint:
    """The curve has `value` in 0..1 at `time`."""

    time: Moment
    value: float


@dataclass(frozen=True)
class Curve:
    """A curve through control points in order of time, constant before the first and after the last; two at one time make a jump.

    linear: straight between points. smooth: a monotone cubic, which never overshoots a point. step: each value holds until the next point.
    A frame has the value at its middle.
    """

    points: tuple[ControlPoint, ...]
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("curve: no points: write a time and a value on each line, as in `2s 0.5`")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"curve: `interpolation` = {self.interpolation!r}: must be one of {', '.join(get_args(Interpolation))}")

    def mask(self, latent_frames: int, fps: float, binary: bool = False) -> Tensor:
        curve = self.frames(pixel_frames(latent_frames), fps)
        return curve_mask(curve) if binary else curve_weights(curve)

    def frames(self, frames: int, fps: float) -> Tensor:
        times = self.times(frames, fps)
        if len(times) == 1:
            return torch.full((frames,), self.points[0].value)
        t, v = torch.tensor(times, dtype=torch.float64), torch.tensor([point.value for point in self.points], dtype=torch.float64)
        middle = torch.arange(frames, dtype=torch.float64) + 0.5
        after = torch.searchsorted(t, middle, right=True)
        left = (after - 1).clamp(0, len(t) - 2)
        width = t[left + 1] - t[left]
        u = torch.where(width > 0, (middle - t[left]) / width, (middle >= t[left]).double()).clamp(0, 1)
        if self.interpolation == "step":
            values = v[(after - 1).clamp(min=0)]
        elif self.interpolation == "linear":
            values = v[left] + u * (v[left + 1] - v[left])
        else:
            slope = monotone_slopes(t, v)
            values = (
                (1 + 2 * u) * (1 - u) ** 2 * v[left] + u * (1 - u) ** 2 * width * slope[left]
                + u**2 * (3 - 2 * u) * v[left + 1] - u**2 * (1 - u) * width * slope[left + 1]
            )
        return values.clamp(0, 1).float()

    def times(self, frames: int, fps: float) -> list[float]:
        """The points' times in pixel frames; refused out of order or outside the video."""
        times = [point.time.frame(frames, fps) for point in self.points]
        for index, (point, time) in enumerate(zip(self.points, times, strict=True)):
            video = f"the video has {frames} frames, {plain_number(round(frames / fps, 2))}s at {plain_number(fps)} fps"
            if time > frames + 0.5:
                raise ValueError(f"curve: the point at `{point.time}` lies outside the video: {video}; write `end`")
            if index and time < times[index - 1]:
                raise ValueError(f"curve: the point at `{point.time}` comes after `{self.points[index - 1].time}`, but is earlier: {video}")
        return times

    def __str__(self) -> str:
        return f"{self.interpolation} curve: " + ", ".join(f"{point.time} {point.value:g}" for point in self.points)


def monotone_slopes(t: Tensor, v: Tensor) -> Tensor:
    """Slopes at the points of a monotone cubic, "n" -> "n" (F. N. Fritsch, J. Butland, SIAM J. Sci. Stat. Comput. 5, 1984).

    Weighted harmonic mean of the secants on both sides, 0 at an extremum and at a jump; the secant at the ends.
    """
    h = t.diff()
    d = torch.where(h > 0, v.diff() / h.clamp(min=1e-12), 0.0)
    before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    same = d[:-1] * d[1:] > 0
    inner = torch.where(same, (before + after) / (before / torch.where(same, d[:-1], 1.0) + after / torch.where(same, d[1:], 1.0)), 0.0)
    return torch.cat([d[:1], inner, d[-1:]])


def parse_curve(text: str, interpolation: Interpolation = "linear") -> Curve:
    """Read `time value` lines: a time of the timeline (s, f, %, clock, `end`), then a value in 0..1; `#` starts a comment."""
    return Curve(tuple(_control_point(source) for source in sources(text) if source.code), interpolation)


def _control_point(source: Source) -> ControlPoint:
    time = MOMENT.match(source.plain, source.indent)
    value = VALUE.match(source.plain, time.end()) if time else None
    if not time or not value or time["unknown"]:
        raise _wrong(source, "write a time and a value, as in `2s 0.5`; times end in s, f or %, or are `end`")
    if time["number"] and not time["unit"] and float(time["number"]) != 0:
        raise _wrong(source, f"`{time[0]}` has no unit: write s (seconds), f (frames) or % after it")
    if time[0].startswith("-"):
        raise _wrong(source, f"negative time `{time[0]}`: a video starts at 0s")
    if time["unit"] == "%" and float(time["number"]) > 100:
        raise _wrong(source, f"`{time[0]}` lies outside the video: write at most 100%, or `end`")
    if not 0 <= float(value["value"]) <= 1:
        raise _wrong(source, f"value `{value['value']}`: must lie in 0..1")
    return ControlPoint(read_moment(source, time, time), float(value["value"]))


def _wrong(source: Source, message: str) -> ValueError:
    return ValueError(f"curve line {source.number}: {message}\n  {source.raw.strip()}")
