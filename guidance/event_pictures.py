"""The Event Report as a picture: where each subject's motion mask lay, and how much attention each event got over the frames."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .event_trace import EventRecord, SubjectRecord
from .latent_time import pixel_frames
from .pictures import AFTER, BEFORE, DPI, INK, MASK, drawn, fonts, message, numbers, wrapped

MOST_FRAMES = 13
MOTION = LinearSegmentedColormap.from_list("motion", ["#EFEFEF", "#0072B2"])  # light to dark blue: lightness alone tells them apart
LEFT, RIGHT, TOP, BOTTOM, PANEL, GAP = 136, 14, 52, 74, 84, 30


def event_figure(record: EventRecord, sample: int = 0, width: int = 700, height: int = 450, title: str = "") -> np.ndarray:
    """Per subject: a strip of its motion mask over the latent frames (at most 13), and below it a panel for each of its events with its
    span (shaded) and the mask's attention to its words before (thin) and after (bold): "h w 3" uint8. Grows beyond `height` at need;
    `title` stands before what the picture says of itself.
    """
    if not record.samples:
        return message(f"Event Schedule: no call was controlled{f' ({title})' if title else ''}", width, height)
    subjects = record.samples[sample]
    tile = (width - LEFT - RIGHT) / min(MOST_FRAMES, len(subjects[0].motion))
    strips = [min(120.0, max(24.0, tile * len(s.motion[0]) / len(s.motion[0][0]))) for s in subjects]
    needed = sum(strip + GAP + len(s.events) * (PANEL + GAP) for strip, s in zip(strips, subjects))
    height = max(height, round(TOP + needed + BOTTOM))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    def name(words: str, y: float, **style) -> None:
        place = ((LEFT - 32) / width, 1 - y / height)
        figure.text(*place, wrapped(words, 13), ha="right", va="center", color=INK, family=fonts(), parse_math=False, **style)

    top = highest(subjects)
    y = float(TOP)
    last: Axes | None = None
    for subject, strip in zip(subjects, strips):
        name(subject.subject, y + strip / 2, fontsize=11, weight="bold")
        shown = np.unique(np.linspace(0, len(subject.motion) - 1, min(MOST_FRAMES, len(subject.motion))).round().astype(int))
        for column, frame in enumerate(shown):
            image = axes(LEFT + column * tile, y, tile - 3, strip)
            image.imshow(np.array(subject.motion[frame]), cmap=MOTION, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            image.set_axis_off()
        y += strip + GAP
        for index, event in enumerate(subject.events):
            name(event, y + PANEL / 2, fontsize=10)
            last = axes(LEFT, y, width - LEFT - RIGHT, PANEL)
            _event_panel(last, subject, index, top, record.fps)
            y += PANEL + GAP
    if last is not None:
        last.set_xlabel("seconds", fontsize=9.5, color=INK)
    parts = [title, f"{record.calls} controlled call{'s' * (record.calls != 1)}"]
    parts.append(f"sample {sample + 1} of {len(record.samples)}" if len(record.samples) > 1 else "")
    parts.append(f"{record.partial} over areas not drawn" if record.partial else "")
    figure.text(12 / width, 1 - 20 / height, "   \N{MIDDLE DOT}   ".join(part for part in parts if part), fontsize=10, color=INK)
    figure.legend(
        handles=[
            Patch(color=MOTION(1.0), label="motion mask"),
            Patch(color=MASK, alpha=0.45, label="span"),
            Line2D([], [], color=BEFORE, linewidth=1.6, label="attention before"),
            Line2D([], [], color=AFTER, linewidth=2.8, label="after"),
        ],
        loc="lower center", ncols=4, frameon=False, fontsize=9.5, bbox_to_anchor=(0.5, 0),
    )
    return drawn(figure)


def highest(subjects: Sequence[SubjectRecord]) -> float:
    """One scale for all panels, so that events can be compared."""
    values = np.concatenate([numbers(row) for s in subjects for row in (*s.before, *s.after)] + [np.zeros(1)])
    return max(float(np.nanmax(values)), 1e-6)


def _event_panel(axes: Axes, subject: SubjectRecord, event: int, top: float, fps: float) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK, length=3)
    weights = np.array(subject.spans[event])
    edges = np.array([0, *(pixel_frames(latent) for latent in range(1, len(weights) + 1))]) / fps
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(-0.04 * top, 1.08 * top)
    axes.set_yticks([0, top], ["0", f"{100 * top:.2g} %"])
    axes.stairs(weights * top, edges, fill=True, color=MASK, alpha=0.45, linewidth=0)
    centres = (edges[:-1] + edges[1:]) / 2
    for values, colour, line in ((subject.before, BEFORE, 1.6), (subject.after, AFTER, 2.8)):
        # the dots show a frame that stands alone between gaps
        axes.plot(centres, numbers(values[event]), color=colour, linewidth=line, marker="o", markersize=line)
