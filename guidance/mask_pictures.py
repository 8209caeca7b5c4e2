"""Pictures of masks before anything runs: what each phrase is asked to do, latent frame by latent frame."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .latent_time import pixel_frames
from .mask_sources import TimedPhrase
from .pictures import DPI, INK, MASK, drawn, fonts, short, wrapped

LEFT, RIGHT, TOP, BOTTOM, ROW = 112, 12, 24, 34, 46
TRACE = "#444444"


def mask_figure(phrases: Sequence[TimedPhrase], latent_frames: int, fps: float, binary: bool = False, width: int = 460) -> np.ndarray:
    """One row per phrase: its mask in each latent frame (filled), over it what that was made from (line): "h w 3" uint8.

    A source that does not fit a video of this length says so in its row.
    """
    frames = pixel_frames(latent_frames)
    edges = np.array([0, *(pixel_frames(latent) for latent in range(1, latent_frames + 1))]) / fps
    height = TOP + BOTTOM + ROW * len(phrases)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    grid = figure.subplots(len(phrases), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=LEFT / width, right=1 - RIGHT / width, top=1 - TOP / height, bottom=BOTTOM / height, hspace=0.3)
    for axes, timed in zip(grid, phrases, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=INK, length=3)
        axes.set(ylim=(-0.05, 1.08), yticks=[], xlim=(0, edges[-1]))
        try:
            mask, trace = timed.source.mask(latent_frames, fps, binary), timed.source.frames(frames, fps)
        except ValueError as error:
            axes.text(0.01, 0.5, wrapped(str(error), 62), transform=axes.transAxes, va="center", fontsize=6.5, color=INK, clip_on=False)
            continue
        axes.stairs(mask.numpy(), edges, fill=True, color=MASK, alpha=0.6, linewidth=0)
        if trace is not None:
            axes.plot((np.arange(frames) + 0.5) / fps, trace.numpy(), color=TRACE, linewidth=0.9)
    for axes, timed in zip(grid, phrases, strict=True):
        place = axes.get_position()
        words = short(timed.phrase, 30) + (f" x{timed.strength:g}" if timed.strength != 1 else "")
        figure.text(
            (LEFT - 8) / width, (place.y0 + place.y1) / 2, wrapped(words, 14), ha="right", va="center", fontsize=9, color=INK,
            family=fonts(), parse_math=False,
        )
    video = f"{frames} frames, {latent_frames} latent frames at {fps:g} fps"
    figure.text(LEFT / width, 1 - 14 / height, video, fontsize=8.5, color=INK)
    grid[-1].set_xlabel("seconds", fontsize=8.5, color=INK, labelpad=1)
    return drawn(figure)
