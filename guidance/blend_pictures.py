"""The Blend Report as a picture: each prompt's share of the video, the windows, and how unlike they are where they overlap."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .blend_record import BlendRecord
from .latent_time import pixel_frames
from .pictures import AFTER, BEFORE, DPI, INK, MASK, drawn, fonts, message, numbers, short, wrapped

LEFT, RIGHT, TOP, BOTTOM, TRACK, WINDOW, SEAMS, GAP = 136, 14, 52, 78, 40, 16, 96, 22


def blend_figure(record: BlendRecord, fps: float, width: int = 700, height: int = 300, title: str = "") -> np.ndarray:
    """Over the seconds of the video: a track for each prompt with its share (0..1), a bar for each window with the number of its prompt,
    and in each overlap how unlike the two windows' predictions were in the first measured step (grey) and in the last (orange):
    "h w 3" uint8. Grows beyond `height` at need; `title` stands before what the picture says of itself.
    """
    if not record.shares:
        words = f"{record.windows} videos, one for each prompt, {record.shared_steps} steps in which all read the first: none is blended"
        return message(f"Multi Prompt Blend, word swap ({title}): {words}" if title else f"Multi Prompt Blend, word swap: {words}", width, height)
    tracks, bars = len(record.shares) * (TRACK + 12), record.windows * WINDOW
    height = max(height, TOP + tracks + GAP + bars + GAP + SEAMS + BOTTOM)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    length = pixel_frames(len(record.shares[0])) / fps

    def axes(y: float, h: float, name: str, last: bool = False) -> Axes:
        made = figure.add_axes((LEFT / width, 1 - (y + h) / height, (width - LEFT - RIGHT) / width, h / height))
        made.spines[["top", "right"]].set_visible(False)
        made.tick_params(labelsize=8.5, colors=INK, length=3, labelbottom=last)
        made.set_xlim(0, length)
        place = ((LEFT - 32) / width, 1 - (y + h / 2) / height)
        figure.text(*place, name, ha="right", va="center", fontsize=9.5, color=INK, family=fonts(), parse_math=False)
        return made

    y = TOP
    for number, (share, words) in enumerate(zip(record.shares, record.words, strict=True), start=1):
        track = axes(y, TRACK, wrapped(short(f"{number}  {words}".strip(), 26), 14))
        track.set_ylim(0, 1.05)
        track.set_yticks([0, 1])
        track.stairs(share, [seconds(latent, fps) for latent in range(len(share) + 1)], fill=True, color=MASK, alpha=0.6, linewidth=0)
        y += TRACK + 12
    _windows(axes(y + GAP - 12, bars, "windows"), record, fps)
    _seams(axes(y + bars + 2 * GAP - 12, SEAMS, "unlike in\nthe overlap", last=True), record, fps)
    mega = record.kv_bytes / 1e6
    parts = [title, f"{record.windows} windows, {record.passes} passes", f"{record.shared_steps} steps share"]
    parts.append(f"{mega:.3g} MB of K and V" if mega else "")
    figure.text(12 / width, 1 - 20 / height, "   \N{MIDDLE DOT}   ".join(part for part in parts if part), fontsize=10, color=INK)
    handles = [Patch(color=MASK, alpha=0.6, label="share of the prompt"), Patch(color=BEFORE, label="unlike in the first step")]
    handles.append(Patch(color=AFTER, label="in the last"))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9.5, bbox_to_anchor=(0.5, 0))
    return drawn(figure)


def seconds(latent: int, fps: float) -> float:
    """When a latent frame begins."""
    return (pixel_frames(latent) if latent else 0) / fps


def _windows(axes: Axes, record: BlendRecord, fps: float) -> None:
    """A bar for each window, the first on top; darker the more it mixes, with `1` or `1+2` for the prompts that it shows."""
    for row, ((start, stop), (prompt, share)) in enumerate(zip(record.frames, record.shown, strict=True)):
        left, right = seconds(start, fps), seconds(stop, fps)
        axes.barh(row, right - left, left=left, height=0.8, color="#BBD9EE" if share else MASK, linewidth=0)
        words = f"{prompt + 1:.0f}+{prompt + 2:.0f}" if share else f"{prompt + 1:.0f}"
        axes.text((left + right) / 2, row, words, ha="center", va="center", fontsize=8, color=INK)
    axes.set_ylim(record.windows - 0.4, -0.6)
    axes.set_yticks([])


def _seams(axes: Axes, record: BlendRecord, fps: float) -> None:
    measured = [numbers(step) for step in record.unlike if step]
    axes.set_xlabel("seconds", fontsize=9.5, color=INK)
    if not measured:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "windows do not overlap", transform=axes.transAxes, ha="center", va="center", fontsize=9.5, color=INK)
        return
    apart = 0.8 * (seconds(record.frames[1][0] + 1, fps) - seconds(1, fps))  # overlaps may overlap
    for values, colour, wide in ((measured[0], BEFORE, 1.0), (measured[-1], AFTER, 0.55)):
        for value, (_, stop), (start, _) in zip(values, record.frames, record.frames[1:], strict=False):
            left, right = seconds(start, fps), seconds(stop, fps)
            axes.bar((left + right) / 2, value, width=wide * min(right - left, apart), color=colour, linewidth=0)
    axes.set_ylim(0, 1.05 * max(float(np.nanmax([*measured[0], *measured[-1], 0.0])), 0.1))
