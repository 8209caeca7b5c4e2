"""Pictures of a guided run: mask against attention before and after, and the filmstrip of plain above guided."""

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from .latent_time import TEMPORAL_STRIDE, pixel_frames
from .report import GuidanceReport, GuidedStep, timed_phrases

# Okabe-Ito: told apart with every kind of colour vision, and in grey by line width and lightness.
MASK, BEFORE, AFTER, INK = "#56B4E9", "#999999", "#D55E00", "#222222"
DPI = 100
MOST_PANELS = 3
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "WenQuanYi Micro Hei", "SimHei")


@dataclass(frozen=True)
class Trace:
    """What one panel shows of one phrase; lists run over latent frames."""

    mask: list[float]
    before: list[float | None]
    after: list[float | None]
    correlation: tuple[float | None, float | None] | None  # None: a static phrase has none


def timing_figure(report: GuidanceReport, sample: int = 0, width: int = 700, height: int = 450) -> np.ndarray:
    """Mask (shaded), attention before (thin) and after (bold) of every phrase (rows) in the guided steps (columns): "h w 3" uint8.

    At most three steps: first, middle, last. Grows beyond `height` when phrases need the room.
    """
    rows = _phrases(report)
    steps = [step for step in report.steps if any(_trace(step, key, sample) for key in rows)]
    if len(steps) > MOST_PANELS:
        steps = [steps[0], steps[len(steps) // 2], steps[-1]]
    if not steps:
        return message(report.summary(), width, height)
    top, bottom, left = 111, 74, 136
    height = max(height, top + bottom + 104 * len(rows))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    grid = figure.subplots(len(rows), len(steps), sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(left=left / width, right=1 - 14 / width, top=1 - top / height, bottom=bottom / height, wspace=0.08, hspace=0.36)
    for row, key in enumerate(rows):
        for column, step in enumerate(steps):
            _panel(grid[row, column], _trace(step, key, sample), report.fps)
        place = grid[row, 0].get_position()
        middle, words = (place.y0 + place.y1) / 2, wrapped(key[2], 13)
        figure.text((left - 28) / width, middle, words, ha="right", va="center", fontsize=10, color=INK, family=fonts(), parse_math=False)
    for column, step in enumerate(steps):
        grid[-1, column].set_xlabel("seconds", fontsize=9.5, color=INK)
        place = grid[0, column].get_position()
        figure.text(place.x0, 1 - 63 / height, f"step {step.step + 1}", fontsize=10, color=INK, weight="bold")
        figure.text(place.x0, 1 - 80 / height, _how_it_ended(step, sample), fontsize=9, color=INK)
    figure.text(12 / width, 1 - 20 / height, _headline(report, sample), fontsize=10, color=INK)
    figure.text(12 / width, 1 - 37 / height, _depth(report), fontsize=9, color=INK)
    figure.legend(
        handles=[
            Patch(color=MASK, alpha=0.45, label="mask"),
            Line2D([], [], color=BEFORE, linewidth=1.6, label="attention before this step"),
            Line2D([], [], color=AFTER, linewidth=2.8, label="after"),
        ],
        loc="lower center", ncols=3, frameon=False, fontsize=9.5, bbox_to_anchor=(0.5, 0),
    )
    return drawn(figure)


def filmstrip(
    plain_frames: np.ndarray,
    guided_frames: np.ndarray,
    mask: Sequence[float] | Sequence[Sequence[float]],
    labels: Sequence[str] = ("plain", "guided"),
    phrases: Sequence[str] = ("mask",),
    fps: float = 16.0,
    columns: int = 13,
    width: int = 1300,
) -> np.ndarray:
    """Plain frames above guided ones, the mask as a bar under each frame: "h w 3" uint8.

    Frames "t h w 3" in 0..255 (uint8) or 0..1; `mask` per pixel frame or per latent frame, one or one per phrase.
    """
    masks = np.atleast_2d(np.asarray(mask, dtype=np.float64))
    count, frame_height, frame_width = plain_frames.shape[:3]
    if masks.shape[1] != count:
        if pixel_frames(masks.shape[1]) != count:
            raise ValueError(f"filmstrip: mask has {masks.shape[1]} values: needs one for each of the {count} frames or of their latents")
        masks = np.concatenate([masks[:, :1], masks[:, 1:].repeat(TEMPORAL_STRIDE, axis=1)], axis=1)
    shown = np.unique(np.linspace(0, count - 1, min(columns, count)).round().astype(int))
    left, gap, bar, top = 96, 4, 16, 30
    cell = (width - left - 8) / len(shown)
    image = (cell - gap) * frame_height / frame_width
    strip = image + gap + len(masks) * (bar + 3) + 10
    height = round(top + 2 * strip + 4)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def text(x: float, y: float, words: str, **style) -> None:
        figure.text(x / width, 1 - y / height, words, color=INK, va="center", parse_math=False, **style)

    for row, (frames, label) in enumerate(zip((plain_frames, guided_frames), labels, strict=True)):
        y = top + row * strip
        text(left - 10, y + image / 2, label, ha="right", fontsize=12, weight="bold", family=fonts())
        for column, index in enumerate(shown):
            x = left + column * cell
            axes = figure.add_axes((x / width, 1 - (y + image) / height, (cell - gap) / width, image / height))
            axes.imshow(_bytes(frames[index]), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if row == 0:
                text(x + (cell - gap) / 2, top / 2 + 2, f"{index / fps:.1f} s", ha="center", fontsize=9)
            for phrase, weights in enumerate(masks):
                _bar(figure, weights[index], x, y + image + gap + phrase * (bar + 3), cell - gap, bar, width, height)
        for phrase, name in enumerate(phrases[: len(masks)]):
            text(left - 10, y + image + gap + bar / 2 + phrase * (bar + 3), short(name, 14), ha="right", fontsize=9, family=fonts())
    return drawn(figure)


def _phrases(report: GuidanceReport) -> list[tuple[int, int, str]]:
    """(objective, phrase, words) of everything with a mask, in order of appearance."""
    keys = {}
    for step in report.steps:
        for place, objective in enumerate(step.loop.iterations[0].objectives):
            if "attention" in objective.traces:
                keys.update(dict.fromkeys((place, index, words) for index, words in enumerate(step.phrases[place])))
    return list(keys)


def _trace(step: GuidedStep, key: tuple[int, int, str], sample: int) -> Trace | None:
    place, index, words = key
    if place >= len(step.phrases) or index >= len(step.phrases[place]) or step.phrases[place][index] != words:
        return None
    first, last = (record.objectives[place].traces for record in (step.loop.iterations[0], step.loop.after(sample)))
    if "attention" not in first:
        return None
    timed = timed_phrases(first["mask"])[index]
    return Trace(
        first["mask"][index],
        first["attention"][sample][index],
        last["attention"][sample][index],
        (first["correlation"][sample][index], last["correlation"][sample][index]) if timed else None,
    )


def _panel(axes: Axes, trace: Trace | None, fps: float) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK, length=3)
    axes.set_ylim(-0.04, 1.08)
    axes.set_yticks([0, 1])
    if trace is None:
        axes.set_title("not guided here", fontsize=9, loc="left", color=BEFORE, pad=3)
        return
    edges = np.array([0, *(pixel_frames(latent) for latent in range(1, len(trace.mask) + 1))]) / fps
    centres = (edges[:-1] + edges[1:]) / 2
    axes.set_xlim(0, edges[-1])
    axes.stairs(np.array(trace.mask), edges, fill=True, color=MASK, alpha=0.45, linewidth=0)
    axes.plot(centres, numbers(trace.before), color=BEFORE, linewidth=1.6)
    axes.plot(centres, numbers(trace.after), color=AFTER, linewidth=2.8, solid_capstyle="round")
    words = "always" if trace.correlation is None else "r  " + " \N{RIGHTWARDS ARROW} ".join(_number(value) for value in trace.correlation)
    axes.set_title(words, fontsize=9.5, loc="left", color=INK, pad=3)


def _how_it_ended(step: GuidedStep, sample: int) -> str:
    kept = step.loop.kept[sample]
    ending = {"satisfied": "mask matched", "iterations": "limit reached", "patience": "no longer better"}
    stop = step.loop.stop[sample]
    return f"{kept} update{'' if kept == 1 else 's'}, {ending.get(stop, stop)}"


def _headline(report: GuidanceReport, sample: int) -> str:
    samples = len(report.steps[0].loop.kept)
    parts = [f"{len(report.steps)} guided step" + "s" * (len(report.steps) != 1)]
    parts += [part for part in (f"preset {report.preset}" if report.preset else "", report.sampler) if part]
    if report.cost_factor is not None:
        parts.append(f"{report.cost_factor:.2f}x the plain cost")
    if samples > 1:
        parts.append(f"sample {sample + 1} of {samples}")
    if report.skipped:
        parts.append(f"{len(report.skipped)} skipped")
    return "   \N{MIDDLE DOT}   ".join(parts)


def _depth(report: GuidanceReport) -> str:
    if report.enough_blocks is None:
        return ""
    enough, used = report.enough_blocks
    if enough == used:
        return f"all {used} blocks in use are needed" if used > 1 else ""
    share = report.steps[0].depth * enough / used
    return f"the first {enough} of the {used} blocks in use look at the same places: depth {share:.2f} would do"


def _bar(figure: Figure, weight: float, x: float, y: float, w: float, h: float, width: int, height: int) -> None:
    place = (x / width, 1 - (y + h) / height)
    figure.add_artist(Rectangle(place, w / width, h / height, facecolor="#F2F2F2", edgecolor="#BBBBBB", linewidth=0.8))
    if weight > 0:
        figure.add_artist(Rectangle(place, w / width, weight * h / height, facecolor=MASK, edgecolor="none"))


def message(words: str, width: int, height: int) -> np.ndarray:
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    figure.text(0.5, 0.5, wrapped(words, 60), ha="center", va="center", fontsize=12, color=INK, family=fonts(), parse_math=False)
    return drawn(figure)


def drawn(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A phrase in a script for which this machine has no font shows boxes; one warning per character helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _bytes(frame: np.ndarray) -> np.ndarray:
    frame = np.asarray(frame)
    return frame if frame.dtype == np.uint8 else (frame * 255).round().clip(0, 255).astype(np.uint8)


def numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def wrapped(words: str, width: int) -> str:
    """Lines of at most `width` columns, broken at spaces where there are any: text without spaces (CJK) breaks anywhere."""
    lines, line = [], ""
    for word in words.split():
        while columns(word) > width:
            begins = beginning(word, width)
            lines, line, word = [*lines, *([line] if line else []), begins], "", word[len(begins) :]
        if columns(line) + columns(word) + bool(line) > width:
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line] if line else lines)


def columns(words: str) -> int:
    """How wide it stands: a Chinese or Japanese character is as wide as two others."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in words)


def beginning(words: str, width: int) -> str:
    """As many of the first characters as stand in `width` columns, one at least."""
    return words[: max(1, sum(columns(words[:end]) <= width for end in range(1, len(words) + 1)))]


def short(words: str, width: int) -> str:
    return words if columns(words) <= width else beginning(words, width - 1) + "\N{HORIZONTAL ELLIPSIS}"


def fonts() -> list[str]:
    """Matplotlib's own font, and for phrases in Chinese or Japanese what this machine has."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]
