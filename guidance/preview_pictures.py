"""The Attention Preview as a picture: where attention to each phrase lay, as heat over the decoded frames, latent frame by latent frame."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional

from .latent_time import frames_of_latent, pixel_frames
from .phrase_maps import PhraseMaps
from .pictures import DPI, INK, MASK, drawn, fonts, short, wrapped
from .report import GuidanceReport

HEAT = np.array([0xB3, 0x3C, 0x00]) / 255  # darker than any greyed frame: lightness alone tells how much
MOST_FRAMES, MOST_COLUMNS = 26, 13  # Wan's 81 pixel frames in two lines; of a longer video as many latent frames, evenly spread
LEFT, RIGHT, TOP, GAP, BAR, BETWEEN = 150, 10, 36, 3, 10, 16
SECONDS = 24


def preview_figure(report: GuidanceReport, frames: np.ndarray, sample: int = 0, width: int = 1200) -> np.ndarray:
    """The decoded video, and below it for each phrase its mask and heat over greyed frames before and after guidance: "h w 3" uint8.

    `report` with maps. frames "t h w 3" in 0..1: video `sample` of the run, t = 4 (F - 1) + 1 for its F latent frames; of each latent frame
    the middle one is shown. Heat runs from the least attention to a phrase to the most, before and after and over all frames alike: it
    tells when, where and how much. "before": as the first guided step found the latent; "after": as the last one left it.
    """
    latents = report.latent_frames
    if len(frames) != pixel_frames(latents):
        raise ValueError(f"{len(frames)} frames: a video of {latents} latent frames has {pixel_frames(latents)}")
    heat = {ref: heats(maps, sample) for ref, maps in (report.maps or {}).items()}
    shown = np.unique(np.linspace(0, latents - 1, min(MOST_FRAMES, latents)).round().astype(int))
    lines = np.array_split(shown, -(-len(shown) // MOST_COLUMNS))
    tile = (width - LEFT - RIGHT) / len(lines[0])
    picture = (tile - GAP) * frames.shape[1] / frames.shape[2]
    strip = BAR + GAP + 2 * (picture + GAP) + BETWEEN
    block = SECONDS + picture + BETWEEN + len(heat) * strip
    height = round(TOP + len(lines) * block)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, words, color=INK, va="center", family=fonts(), parse_math=False, **style)

    def row(y: float, pictures: Sequence[np.ndarray], words: str) -> None:
        text(LEFT - 8, y + picture / 2, words, ha="right", fontsize=11)
        for column, image in enumerate(pictures):
            place = ((LEFT + column * tile) / width, 1 - (y + picture) / height, (tile - GAP) / width, picture / height)
            axes = figure.add_axes(place)
            axes.imshow(image, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
            axes.set_axis_off()

    text(12, 18, headline(report, sample), fontsize=12)
    for number, line in enumerate(lines):
        y = TOP + number * block + SECONDS
        text(LEFT - 8, y - 11, "seconds", ha="right", fontsize=9)
        for column, latent in enumerate(line):
            middle = LEFT + column * tile + (tile - GAP) / 2
            text(middle, y - 11, f"{shown_frame(latent) / report.fps:.2f}", ha="center", fontsize=9)
        tiles = [tile_of(frames, latent, round(tile - GAP), round(picture)) for latent in line]
        row(y, tiles, "video")
        y += picture + BETWEEN
        for ref, of_phrase in heat.items():
            mask = mask_of(report, ref.phrase)
            for column, weight in enumerate([] if mask is None else [mask[latent] for latent in line]):
                bar(figure, weight, LEFT + column * tile, y, tile - GAP, width, height)
            top = y + BAR + GAP
            text(10, top + picture + GAP / 2, wrapped(short(ref.phrase, 36), 9), fontsize=11, weight="bold")
            for place, words in enumerate(("before", "after")):
                hot = [heated(image, of_phrase[place, latent]) for image, latent in zip(tiles, line, strict=True)]
                row(top + place * (picture + GAP), hot, words)
            y += strip
    return drawn(figure)


def preview_numbers(report: GuidanceReport, sample: int = 0) -> list[dict[str, Any]]:
    """Per phrase its mask "f", and the mean share of attention that a latent frame's tokens give it, "f": in the first and the last guided
    step, before and after the edit."""
    told = []
    for ref, maps in (report.maps or {}).items():
        steps = {
            when: {
                "step": step.step,
                **{name: [round(share, 6) for share in values[sample].float().mean((-2, -1)).tolist()]
                   for name, values in (("before", step.before), ("after", step.after))},
            }
            for when, step in (("first", maps.first), ("last", maps.last))
        }  # fmt: skip
        told.append({"phrase": ref.phrase, "occurrence": ref.occurrence, "mask": mask_of(report, ref.phrase), **steps})
    return told


def mask_of(report: GuidanceReport, phrase: str) -> list[float] | None:
    """The mask "f" that Temporal Mask gave this phrase; None: it has none, other guidance measured it."""
    for step in report.steps:
        for phrases, objective in zip(step.phrases, step.loop.iterations[0].objectives, strict=True):
            if "mask" in objective.traces and phrase in phrases:
                return objective.traces["mask"][phrases.index(phrase)]
    return None


def heats(maps: PhraseMaps, sample: int) -> np.ndarray:
    """Heat "2 f h w" in 0..1 before and after: 0 the least attention, 1 the most, of both together.

    The first latent frame, a single pixel frame of which the method drops attention as unstable, has no say in the scale.
    """
    both = torch.stack([maps.first.before[sample], maps.last.after[sample]]).float().numpy()
    judged = both[:, 1:] if both.shape[1] > 1 else both
    low, high = judged.min(), judged.max()
    return ((both - low) / max(high - low, 1e-12)).clip(0, 1)


def shown_frame(latent: int) -> int:
    """The pixel frame that stands for a latent frame: the middle of those it covers."""
    covered = frames_of_latent(latent)
    return covered[len(covered) // 2]


def tile_of(frames: np.ndarray, latent: int, width: int, height: int) -> np.ndarray:
    """The frame of a latent frame at the size of a tile, "h w 3"."""
    frame = torch.from_numpy(np.ascontiguousarray(frames[shown_frame(latent)], dtype=np.float32)).permute(2, 0, 1)[None]
    sized = functional.interpolate(frame, (height, width), mode="bilinear", antialias=True)
    return sized[0].permute(1, 2, 0).clamp(0, 1).numpy()


def heated(tile: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A tile "h w 3" greyed and lightened, with heat of any grid "h w" in 0..1 laid over it."""
    over = functional.interpolate(torch.from_numpy(heat)[None, None], tile.shape[:2], mode="bilinear", antialias=True)
    share = 0.92 * over[0, 0].numpy()[..., None]
    grey = 0.7 + 0.3 * tile.mean(-1, keepdims=True)
    return (1 - share) * grey + share * HEAT


def headline(report: GuidanceReport, sample: int) -> str:
    maps = list((report.maps or {}).values())
    first, last = min(one.first.step for one in maps) + 1, max(one.last.step for one in maps) + 1
    parts = [f"before: as step {first} found the latent", f"after: as step {last} left it", "darker: more attention, one scale per phrase"]
    return "   \N{MIDDLE DOT}   ".join([*parts, *([f"sample {sample + 1} of {report.samples}"] if report.samples > 1 else [])])


def bar(figure: Figure, weight: float, x: float, y: float, wide: float, width: int, height: int) -> None:
    """The mask of one latent frame, filled from the bottom."""
    place = (x / width, 1 - (y + BAR) / height)
    figure.add_artist(Rectangle(place, wide / width, BAR / height, facecolor="#F2F2F2", edgecolor="#BBBBBB", linewidth=0.6))
    if weight > 0:
        figure.add_artist(Rectangle(place, wide / width, weight * BAR / height, facecolor=MASK, edgecolor="none"))
