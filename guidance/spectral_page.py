"""What all pictures of the Spectral Report look like: page, colours, maps, words."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from .pictures import DPI, INK

# Perceptually even or diverging maps that every kind of colour vision tells apart; white is the neutral middle.
AMOUNT, SIGNED, GAIN = (colormaps[name].with_extremes(bad="#E4E4E4") for name in ("cividis", "PuOr_r", "BrBG"))
BETTER_COLOUR, WORSE_COLOUR = "#01665E", "#8C510A"
MOST_POINTS = 3000  # of a scatter, B.1


def page(
    rows: int, columns: int, width: int, height: int, headline: str, legend: Sequence[tuple[str, str]] = ()
) -> tuple[Figure, np.ndarray]:
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 30 / height), w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout=layout)
    figure.text(12 / width, 1 - 18 / height, headline, fontsize=10, color=INK, va="center")
    for place, (words, colour) in enumerate(reversed(legend)):
        x, y = 1 - (14 + 66 * place) / width, 1 - 18 / height
        figure.text(x, y, words, fontsize=10, color=colour, weight="bold", ha="right", va="center")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.tick_params(labelsize=8.5, colors=INK, length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure, panels


def draw_map(figure: Figure, axes: Axes, cells: np.ndarray, title: str, colours, norm: Normalize | None) -> None:
    """A layer x step map, deep layers on top."""
    image = axes.imshow(np.ma.masked_invalid(cells), origin="lower", aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.08)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    bar.locator = MaxNLocator(4)
    bar.outline.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.set_ylabel("layer", fontsize=9, color=INK)
    set_title(axes, title)


def label_edges(panels: np.ndarray, below: str, beside: str) -> None:
    for axes in panels[-1]:
        axes.set_xlabel(below, fontsize=9, color=INK)
    for axes in panels[:, 0]:
        axes.set_ylabel(beside, fontsize=9, color=INK)


def set_title(axes: Axes, words: str) -> None:
    axes.set_title(words, fontsize=9.5, loc="left", color=INK, pad=5)


def note(axes: Axes, words: str) -> None:
    """Words in the upper right corner, above what is drawn."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + (high - low) * 0.17 * (1 + words.count("\n")))
    axes.text(0.98, 0.96, words.replace("-", "\N{MINUS SIGN}"), transform=axes.transAxes, ha="right", va="top", fontsize=9, color=INK)


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def thinned(kept: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS of the places where `kept`, evenly."""
    places = np.flatnonzero(kept)
    return places[np.linspace(0, len(places) - 1, MOST_POINTS).astype(int)] if len(places) > MOST_POINTS else places
