"""The picture of a run of Temporal Mask in mode bias: what was asked for, and how far attention was moved."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .latent_time import pixel_frames
from .pictures import AFTER, DPI, INK, MASK, drawn, fonts, wrapped
from .report import GuidanceReport, PatchReport
from .temporal_mask import NAME


def biased(report: GuidanceReport) -> list[PatchReport]:
    """The runs in mode bias, one for each expert and node."""
    return [patch for patch in report.patches if patch.name == NAME and patch.measured and patch.measured["bias"]]


def bias_figure(report: GuidanceReport, width: int = 700, height: int = 450) -> np.ndarray:
    """Mask (shaded) and bias in logits (line) of every phrase of `biased(report)`, a row each: "h w 3" uint8."""
    rows = [(patch, *of_phrase) for patch in biased(report) for of_phrase in zip(*(patch.measured or {}).values(), strict=True)]
    top, bottom, left, right = 60, 74, 136, 52
    height = max(height, top + bottom + 120 * len(rows))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=left / width, right=1 - right / width, top=1 - top / height, bottom=bottom / height, hspace=0.4)
    for axes, (patch, phrase, mask, bias) in zip(grid, rows, strict=True):
        edges = np.array([0, *(pixel_frames(latent) for latent in range(1, len(mask) + 1))]) / report.fps
        axes.stairs(mask, edges, fill=True, color=MASK, alpha=0.45, linewidth=0)
        axes.set(xlim=(0, edges[-1]), ylim=(-0.04, 1.08), yticks=[0, 1])
        of_bias = axes.twinx()
        of_bias.stairs(bias, edges, baseline=None, color=AFTER, linewidth=2.4)
        reach = 1.1 * max(*map(abs, bias), 1e-3)
        of_bias.set_ylim(-reach, reach)
        for one in (axes, of_bias):
            one.spines[["top"]].set_visible(False)
            one.tick_params(labelsize=8.5, colors=INK, length=3)
        steps = f"step {patch.steps[0] + 1}" + (f" to {patch.steps[-1] + 1}" if len(patch.steps) > 1 else "")
        axes.set_title(f"{patch.model}, {steps}", fontsize=9.5, loc="left", color=INK, pad=3)
        place = axes.get_position()
        middle, words = (place.y0 + place.y1) / 2, wrapped(phrase, 13)
        figure.text((left - 28) / width, middle, words, ha="right", va="center", fontsize=10, color=INK, family=fonts(), parse_math=False)
    grid[-1].set_xlabel("seconds", fontsize=9.5, color=INK)
    figure.text(12 / width, 1 - 24 / height, f"{NAME}, mode bias: attention is set, not measured", fontsize=10, color=INK)
    handles = [Patch(color=MASK, alpha=0.45, label="mask"), Line2D([], [], color=AFTER, linewidth=2.4, label="bias, in logits (right)")]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=9.5, bbox_to_anchor=(0.5, 0))
    return drawn(figure)
