"""The Blend Report as a picture: each prompt's share of the video, the windows, and how unlike they are where they overlap."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .blend_record import BlendRecord
from .latent_time import pixel_frames
from .pictures import AFTER, BEFORE, DPI, INK, MASK, drawn, fonts, message, numbers, short, wrapped

LEFT, RIGHT, TOP, BOTTOM, TRACK, WINDOW, SEAMS, SPACE, GAP = 136, 14, 46, 78, 40, 16, 110, 12, 52


def blend_figure(record: BlendRecord, fps: float, width: int = 700, height: int = 300, title: str = "") -> np.ndarray:
    """Over the seconds of the video a track for each prompt with its share (0..1) and a bar for each window with the number of its prompt;
    below, over the steps, how unlike neighbouring windows predicted their overlap, the most unlike pair bold: "h w 3" uint8.
    Grows beyond `height` at need; `title` stands before what the picture says of itself.
    """
    if not record.shares:
        words = f"{record.windows} videos, one for each prompt, {record.shared_steps} steps in which all read the first"
        return message(f"Multi Prompt Blend, word swap: {words}{f' ({title})' if title else ''}", width, height)
    tracks, bars = len(record.shares) * (TRACK + SPACE), record.windows * WINDOW
    height = max(height, TOP + tracks + bars + GAP + SEAMS + BOTTOM)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    length = pixel_frames(len(record.shares[0])) / fps

    def axes(y: float, h: float, name: str) -> Axes:
        made = figure.add_axes((LEFT / width, 1 - (y + h) / height, (width - LEFT - RIGHT) / width, h / height))
        made.spines[["top", "right"]].set_visible(False)
        made.tick_params(labelsize=8.5, colors=INK, length=3)
        made.set_xlim(0, length)
        place = ((LEFT - 32) / width, 1 - (y + h / 2) / height)
        figure.text(*place, name, ha="right", va="center", fontsize=9, color=INK, family=fonts(), parse_math=False)
        return made

    y = TOP
    for number, (share, words) in enumerate(zip(record.shares, record.words, strict=True), start=1):
        track = axes(y, TRACK, wrapped(short(f"{number}  {words}".strip(), 34), 15))
        track.tick_params(labelbottom=False)
        track.set_ylim(0, 1.05)
        track.set_yticks([0, 1])
        track.stairs(share, [seconds(latent, fps) for latent in range(len(share) + 1)], fill=True, color=MASK, alpha=0.6, linewidth=0)
        y += TRACK + SPACE
    windows = axes(y, bars, "windows")
    windows.set_xlabel("seconds", fontsize=9.5, color=INK)
    _windows(windows, record, fps)
    worst = _seams(axes(y + bars + GAP, SEAMS, "unlike in\nthe overlap"), record, fps)
    parts = [title, f"{record.windows} windows, {record.passes} passes", f"{record.shared_steps} steps share"]
    parts.append(f"{size_of(record.kv_bytes)} of K and V" if record.kv_bytes else "")
    figure.text(12 / width, 1 - 20 / height, "   \N{MIDDLE DOT}   ".join(part for part in parts if part), fontsize=10, color=INK)
    handles: list[Patch | Line2D] = [Patch(color=MASK, alpha=0.6, label="share of the prompt")]
    if worst:
        handles.append(Line2D([], [], color=AFTER, linewidth=2.4, label=f"most unlike: {worst}"))
    if record.sharing:
        handles.append(Patch(color=MASK, alpha=0.25, label="steps that share"))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9.5, bbox_to_anchor=(0.5, 0))
    return drawn(figure)


def seconds(latent: int, fps: float) -> float:
    """When a latent frame begins."""
    return (pixel_frames(latent) if latent else 0) / fps


def size_of(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _windows(axes: Axes, record: BlendRecord, fps: float) -> None:
    """A bar for each window, the first on top; darker the more it mixes, with `1` or `1+2` for the prompts that it shows."""
    for row, ((start, stop), (prompt, share)) in enumerate(zip(record.frames, record.shown, strict=True)):
        left, right = seconds(start, fps), seconds(stop, fps)
        axes.barh(row, right - left, left=left, height=0.8, color="#BBD9EE" if share else MASK, linewidth=0)
        words = f"{prompt + 1:.0f}+{prompt + 2:.0f}" if share else f"{prompt + 1:.0f}"
        axes.text((left + right) / 2, row, words, ha="center", va="center", fontsize=8, color=INK)
    axes.set_ylim(record.windows - 0.4, -0.6)
    axes.set_yticks([])


def _seams(axes: Axes, record: BlendRecord, fps: float) -> str:
    """A line over the steps for each seam, the most unlike one bold; steps that share are shaded. Returns what to call that one."""
    axes.set_xlabel("step of this run", fontsize=9.5, color=INK)
    axes.set_xlim(0.5, max(len(record.unlike), 1) + 0.5)
    for step in record.sharing:
        axes.axvspan(step + 0.5, step + 1.5, color=MASK, alpha=0.25, linewidth=0)
    if not any(record.unlike):
        axes.text(0.5, 0.5, "windows do not overlap, or none was run", transform=axes.transAxes, ha="center", fontsize=9.5, color=INK)
        return ""
    steps = [index for index, seams in enumerate(record.unlike) if seams]
    curves = np.stack([numbers(record.unlike[index]) for index in steps])
    known = np.nan_to_num(curves)
    worst = int(known.mean(0).argmax())
    for seam in [*(seam for seam in range(curves.shape[1]) if seam != worst), worst]:
        colour, line = (AFTER, 2.4) if seam == worst else (BEFORE, 1.4)
        axes.plot([step + 1 for step in steps], curves[:, seam], color=colour, linewidth=line, marker="o", markersize=line)
    axes.set_ylim(0, 1.08 * max(float(known.max()), 0.1))
    middle = (record.frames[worst + 1][0] + record.frames[worst][1]) // 2
    return f"windows {worst + 1} and {worst + 2}, {seconds(middle, fps):.1f} s"
