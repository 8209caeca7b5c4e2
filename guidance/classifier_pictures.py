"""How well a classifier answers, as a picture: loss, confusion matrix, and accuracy by prompt, by step and by layer."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .classifier import Classifier
from .composition_pictures import HEAT, bare
from .pictures import DPI, INK, drawn, fonts, numbers, short

RIGHT, WRONG, ALONE, CHANCE = "#0072B2", "#D55E00", "#56B4E9", "#777777"


def classifier_figure(classifier: Classifier, width: int = 900) -> np.ndarray:
    """ "h w 3" uint8."""
    names = [label.name for label in classifier.labels]
    accuracy = classifier.card["accuracy"]
    side = 26 * max(len(names), 6)
    height = 60 + side + 120 + 230
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    told = f"{classifier.card['held_back']} held-back views of {classifier.card['videos']} videos   ·   {classifier.model}"
    figure.text(12 / width, 1 - 18 / height, short(told, 120), fontsize=10, color=INK, va="center", parse_math=False)
    confusion_panel(axes(130, 60, side, side), np.array(accuracy["confusion"], dtype=float), names)
    room = 130 + side + 70
    loss_panel(axes(room, 60, max(width - room - 20, 160), side), classifier.card["training"]["measured"])
    top = 60 + side + 120
    bars(
        axes(60, top, 190, 180),
        "accuracy",
        ["as told", "told wrongly"],
        [accuracy["right_prompt"], accuracy["wrong_prompt"]],
        [RIGHT, WRONG],
        accuracy["chance"],
    )
    steps = [f"{sigma:.3f}" for sigma in classifier.plan.sigmas]
    bars(axes(310, top, 240, 180), "one step alone (sigma)", steps, accuracy["by_sigma"], [ALONE] * len(steps), accuracy["chance"])
    layers = [str(block) for block in classifier.plan.blocks]
    bars(axes(610, top, 270, 180), "one block alone", layers, accuracy["by_layer"], [ALONE] * len(layers), accuracy["chance"])
    return drawn(figure)


def confusion_panel(axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    """Rows: what is shown; columns: the answer; shares of each row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, [short(name, 16) for name in names], rotation=90, fontsize=8, family=fonts())
    axes.set_yticks(places, [short(name, 16) for name in names], fontsize=8, family=fonts())
    axes.set_title("shown (rows), answered (columns)", fontsize=10, loc="left", color=INK)
    for row, column in zip(*shares.nonzero()):
        tone = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=7, color=tone)


def loss_panel(axes: Axes, measured: list[dict[str, float]]) -> None:
    bare(axes)
    axes.set_title("loss", fontsize=10, loc="left", color=INK)
    axes.set_xlabel("update", fontsize=9, color=INK)
    steps = [one["step"] for one in measured]
    for name, label, colour, style in (("trained", "trained", CHANCE, "--"), ("held_back", "held back", RIGHT, "-")):
        axes.plot(steps, numbers([one[name] for one in measured]), style, color=colour, linewidth=2, label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8.5)


def bars(axes: Axes, title: str, names: list[str], shares: list[float], colours: list[str], chance: float) -> None:
    bare(axes)
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.bar(range(len(names)), shares, color=colours, width=0.7)
    axes.axhline(chance, color=CHANCE, linewidth=1.2, linestyle="--")
    axes.set(ylim=(0, 1.05), yticks=[0, 0.5, 1])
    axes.set_xticks(range(len(names)), names, fontsize=8)
    for place, share in enumerate(shares):
        axes.text(place, share + 0.01, f"{100 * share:.0f} %", ha="center", fontsize=8, color=INK)
