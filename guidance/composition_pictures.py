"""The Composition Report as a picture: scores over the updates, where each thing went before and after, and its maps."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .composition_record import CompositionRecord, SceneRecord
from .pictures import DPI, INK, drawn, fonts, numbers, short, wrapped

# Things: Okabe-Ito, told apart with every kind of colour vision, and by markers. Relations: other colours, by lightness, and by dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RELATION_COLOURS = ("#111111", "#8C510A", "#777777", "#5E3C99", "#BBA000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
HEAT = LinearSegmentedColormap.from_list("attention", ["#F4F4F4", "#08306B"])  # lightness alone tells how much
LEFT, RIGHT, TOP, BOTTOM, GAP, LEGEND, TILE = 96, 14, 56, 16, 58, 18, 60


def composition_figure(record: CompositionRecord, width: int = 700) -> np.ndarray:
    """Scores per evaluation (left), paths before and after (right), maps before and after of every thing (below): "h w 3" uint8."""
    plot = 230
    legend = LEGEND * len(record.constraints) + 6
    maps_top = TOP + plot + GAP + legend + 12
    aspect = record.frame[1] / record.frame[0]
    shown = len(record.after.maps[0])
    tile = min(TILE / aspect, (width - LEFT - RIGHT) / shown)
    strip = 2 * (tile * aspect + 3) + 10
    height = round(maps_top + len(record.entities) * strip + BOTTOM)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    def text(x: float, y: float, words: str, **style) -> None:
        figure.text(x / width, 1 - y / height, words, color=INK, va="center", family=fonts(), parse_math=False, **style)

    half = (width - LEFT - RIGHT) / 2
    text(12, 18, headline(record), fontsize=10)
    scores_panel(axes(LEFT - 40, TOP, half, plot), record)
    paths_panel(axes(LEFT + half - 4, TOP, half - 10, plot), record)
    for index, constraint in enumerate(record.constraints):
        y = TOP + plot + GAP + LEGEND * index
        line = Line2D(
            [(LEFT - 40) / width, (LEFT - 14) / width], [1 - y / height] * 2, linewidth=2.2, **line_style(index)
        )
        figure.add_artist(line)
        before, after = record.before.scores[index], record.after.scores[index]
        text(LEFT - 8, y, f"{score(before)} \N{RIGHTWARDS ARROW} {score(after)}   {short(constraint, 70)}", fontsize=9)
    for entity, name in enumerate(record.entities):
        y = maps_top + entity * strip
        text(LEFT - 42, y + strip / 2 - 5, wrapped(name, 9), ha="center", fontsize=9, weight="bold")
        for row, (when, scene) in enumerate((("before", record.before), ("after", record.after))):
            top = y + row * (tile * aspect + 3)
            text(LEFT - 4, top + tile * aspect / 2, when[:1].upper(), ha="right", fontsize=7)
            for frame in range(shown):
                image = axes(LEFT + frame * tile, top, tile - 2, tile * aspect)
                image.imshow(np.array(scene.maps[entity][frame], dtype=float), cmap=HEAT, vmin=0, vmax=1, aspect="auto")
                image.set_axis_off()
    return drawn(figure)


def headline(record: CompositionRecord) -> str:
    steps = [step.step + 1 for step in record.steps]
    guided = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} - {steps[-1]}"
    parts = [guided, f"sample {record.sample + 1}", "maps: B before, A after; each over its own peak"]
    return "   \N{MIDDLE DOT}   ".join(parts)


def scores_panel(axes: Axes, record: CompositionRecord) -> None:
    """A line for each constraint over all evaluations; a grey line where a guided step begins, a dot where its latent was kept."""
    bare(axes)
    axes.set(ylim=(-0.03, 1.05), yticks=[0, 0.5, 1], xlabel="evaluation")
    axes.set_title("score", fontsize=10, loc="left", color=INK)
    start = 0
    for step in record.steps:
        count = len(step.scores)
        if start:
            axes.axvline(start - 0.5, color="#CCCCCC", linewidth=1)
        for index in range(len(record.constraints)):
            values = numbers([row[index] for row in step.scores])
            axes.plot(np.arange(start, start + count), values, linewidth=2, **line_style(index))
            axes.plot([start + step.kept], values[[step.kept]], "o", color=line_style(index)["color"], markersize=4.5)
        start += count
    axes.set_xlim(-0.6, start - 0.4)


def paths_panel(axes: Axes, record: CompositionRecord) -> None:
    """Centres over the frames, in the frame's box: before thin and pale, after bold; a marker stands at the last one."""
    half_width, half_height = record.frame
    axes.set(xlim=(-half_width, half_width), ylim=(half_height, -half_height), xticks=[], yticks=[], aspect="equal")
    axes.set_title("paths: thin before, bold after", fontsize=10, loc="left", color=INK)
    for entity, name in enumerate(record.entities):
        for scene, width, alpha in ((record.before, 1.2, 0.55), (record.after, 2.6, 1.0)):
            x, y = path(scene, entity)
            axes.plot(x, y, color=colour(entity), linewidth=width, alpha=alpha, solid_capstyle="round")
            axes.plot(*last_of(x, y), MARKERS[entity % len(MARKERS)], color=colour(entity), markersize=3 + 1.5 * width, alpha=alpha)
        for place in zip(*last_of(*path(record.after, entity)), strict=True):
            axes.annotate(
                short(name, 16), place, (6, 6), textcoords="offset points", fontsize=8.5, color=colour(entity), family=fonts(),
                parse_math=False,
            )


def path(scene: SceneRecord, entity: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.array([[np.nan if value is None else value for value in place] for place in scene.centres[entity]], dtype=float)
    return places[:, 0], places[:, 1]


def last_of(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last known place of a path, or none."""
    known = np.isfinite(x + y)
    return x[known][-1:], y[known][-1:]


def bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, colors=INK, length=3)


def colour(entity: int) -> str:
    return COLOURS[entity % len(COLOURS)]


def line_style(constraint: int) -> dict[str, Any]:
    return {"color": RELATION_COLOURS[constraint % len(RELATION_COLOURS)], "linestyle": DASHES[constraint % len(DASHES)]}


def score(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
