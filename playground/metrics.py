"""Exact verdicts on drawn videos: which object is there in which latent frame, its shape, and what it does. No tolerance in time."""

import math

import numpy as np
import torch
from torch import Tensor

from . import world

PRESENT_AREA = 4.0  # canvas cells of one colour; the smallest object that is ever drawn covers 6.8
MOVED = 2.0  # canvas cells between two verdict frames that count as a motion
RESIZED = 0.5 * math.log(1.7)  # half of a told change of size
FIT_RADII = torch.linspace(0.8, 1.25, 10)


def color_areas(canvas: Tensor) -> dict[str, Tensor]:
    """How much of each canvas cell every colour covers: "f c h w" in [-1, 1] -> colour -> "f h w" in 0..1.

    A cell belongs to the colour whose mixture with the background explains it best, if any does.
    """
    background = torch.tensor(world.BACKGROUND).view(3, 1, 1).to(canvas)
    share, error = [], []
    for color in world.COLORS.values():
        direction = torch.tensor(color).view(3, 1, 1).to(canvas) - background
        alpha = (((canvas - background) * direction).sum(1) / direction.square().sum()).clamp(0, 1)
        share.append(alpha)
        error.append((canvas - background - alpha[:, None] * direction).square().sum(1).sqrt())
    share, error = torch.stack(share), torch.stack(error)
    owner = error.argmin(0)
    counts = (share > 0.25) & (torch.arange(len(share)).view(-1, 1, 1, 1) == owner)
    return {name: torch.where(counts[i], share[i], 0.0) for i, name in enumerate(world.COLORS)}


def presence(area: Tensor) -> Tensor:
    """Whether the colour's object is there, per latent frame: "f h w" -> bool "f"."""
    return area.sum((1, 2)) >= PRESENT_AREA


def centroid(area: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and area per latent frame in canvas cells: "f h w" -> three "f"."""
    axis = torch.arange(area.shape[-1]).to(area) + 0.5
    total = area.sum((1, 2))
    safe = total.clamp_min(1e-6)
    return (area.sum(1) * axis).sum(1) / safe, (area.sum(2) * axis).sum(1) / safe, total


def pieces(area: Tensor) -> Tensor:
    """How many separate things of the colour there are, each of a size that counts, per latent frame: "f h w" -> "f".

    Cells that touch, corners too, belong together: the largest number of a piece is spread over it.
    """
    covered = area > 0
    number = torch.arange(1.0, area[0].numel() + 1).view(1, *area.shape[1:]) * covered
    while True:
        spread = torch.nn.functional.max_pool2d(number[:, None], 3, 1, 1)[:, 0] * covered
        if torch.equal(spread, number):
            break
        number = spread
    found = [[float(of_frame[own == one].sum()) for one in own.unique() if one > 0] for of_frame, own in zip(area, number)]
    return torch.tensor([sum(size >= PRESENT_AREA for size in sizes) for sizes in found])


def shape_verdicts(area: Tensor) -> list[str | None]:
    """The shape that fits best per latent frame, None where nothing is: "f h w" -> f names.

    Every shape is drawn at the centroid in ten sizes around its own area; the largest overlap (intersection over union) wins.
    """
    x, y, total = centroid(area)
    here = presence(area)
    best = []
    outline = 16 * world.SQUARE_MIDLINE * world.SQUARE_HALF_STROKE
    unit = torch.tensor([math.pi, outline, 8 * world.CROSS_ARM * world.CROSS_LENGTH - 4 * world.CROSS_ARM**2])  # area at radius 1
    for shape in range(len(world.SHAPES)):
        r = (total / unit[shape]).sqrt()[:, None] * FIT_RADII
        grid = [v[:, None].expand_as(r) for v in (x, y)]
        drawn = world.coverage(torch.full(r.shape, shape), *grid, r)
        overlap = torch.minimum(drawn, area[:, None]).sum((2, 3)) / torch.maximum(drawn, area[:, None]).sum((2, 3)).clamp_min(1e-6)
        best.append(overlap.amax(1))
    winner = torch.stack(best).argmax(0)
    return [world.SHAPES[int(w)] if h else None for w, h in zip(winner, here)]


def main_shape(area: Tensor) -> str | None:
    """The most frequent shape over the frames in which the object is there."""
    seen = [s for s in shape_verdicts(area) if s]
    return max(world.SHAPES, key=seen.count) if seen else None


def event_between(area: Tensor, start: int, end: int) -> str | None:
    """What the object does from latent frame `start` to `end`: a motion, `stays still`, or None if it is missing in either."""
    here = presence(area)
    if not (here[start] and here[end]):
        return None
    x, y, total = centroid(area)
    dx, dy = float(x[end] - x[start]), float(y[end] - y[start])
    growth = 0.5 * math.log(float(total[end] / total[start]))
    moved, resized = max(abs(dx), abs(dy)) / MOVED, abs(growth) / RESIZED
    if max(moved, resized) < 1:
        return world.STILL
    if resized > moved:
        return "gets bigger" if growth > 0 else "gets smaller"
    if abs(dx) > abs(dy):
        return "moves right" if dx > 0 else "moves left"
    return "moves down" if dy > 0 else "moves up"


def events_in_segments(area: Tensor, events: int) -> list[str | None]:
    """The verdict in each of `events` equal segments of the clip."""
    frames = len(area)
    ends = [0] + [int(np.nonzero(world.segment_of_frame(events, frames) == k)[0].max()) for k in range(events)]
    return [event_between(area, a, b) for a, b in zip(ends, ends[1:])]


def whole_motion(area: Tensor) -> str | None:
    """The verdict between the first and the last latent frame in which the object is there."""
    frames = presence(area).nonzero().flatten().tolist()
    return event_between(area, frames[0], frames[-1]) if len(frames) > 1 else None


def background_change(canvas: Tensor, plain: Tensor, colors: list[str]) -> float:
    """Mean absolute change of the cells that belong to no object in either video, as a share of the value range (2)."""
    free = torch.ones(canvas.shape[0], *canvas.shape[2:], dtype=torch.bool)
    for video in (canvas, plain):
        areas = color_areas(video)
        for color in colors:
            # one cell of margin: an object's soft rim is not background
            free &= torch.nn.functional.max_pool2d(areas[color][:, None], 3, 1, 1)[:, 0] < 0.05
    difference = (canvas - plain).abs().mean(1)
    return float(difference[free].mean() / 2) if free.any() else 0.0


def interval(values: np.ndarray, groups: np.ndarray | None = None, draws: int = 2000) -> tuple[float, list[float]]:
    """Mean and 95 % bootstrap interval; values that share a group (the seeds of one caption) are drawn together."""
    values = np.asarray(values, dtype=float)
    keep = np.isfinite(values)
    values = values[keep]
    if not len(values):
        return math.nan, [math.nan, math.nan]
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)[keep]
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(sums), (draws, len(sums)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    return float(values.mean()), [float(v) for v in np.percentile(means, [2.5, 97.5])]
