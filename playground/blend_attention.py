"""DiTCtrl's analysis of attention (section 3.1) carried to Wan: how much of self-attention from a window to the one before is semantic.

There the video-to-video part of joint attention is looked at by eye. Here the drawn world says where the object is in both windows, so that
attention of the object to itself can be compared with what position alone, the offset in time, height and width, would give.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from torch import Tensor

from ..guidance.objective import PhraseRef
from ..guidance.patch import AttentionCall, AttentionSite, Handler, ModelCall, Proceed, VideoGrid
from ..guidance.pictures import DPI, INK, drawn
from . import metrics
from .blend_stories import Story, stories
from .evaluate_blend import BLEND, sample_variant
from .sampling import Playground

PART_OF_SCHEDULE = 0.3  # amid the shared part
COVERED = 0.25  # of a token's cells by the object: from there on the token is its
Maps = dict[int, Tensor]  # block -> attention "h n m" of a window's tokens to those of the window before


@dataclass(frozen=True, eq=False)
class KeptAttention:
    """A patch for measurement alone: keeps queries and keys "h n d" past RoPE of the first video's positive rows, in one step."""

    object: str
    grids: list[VideoGrid] = field(default_factory=list)
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)  # (first frame of the window, block)
    name: str = "Kept attention"
    start_percent: float = PART_OF_SCHEDULE
    end_percent: float = PART_OF_SCHEDULE + 1e-3

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        return (PhraseRef(self.object),)

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        return None

    def new_record(self) -> None:
        return None

    def handler(self, call: ModelCall, record: Any) -> Handler | None:
        if not call.prompts:
            return None
        row = int(call.prompts[0].rows.nonzero()[0])
        self.grids.append(call.grid)

        def keep(site: AttentionSite, attention: AttentionCall, proceed: Proceed) -> Tensor | None:
            if site.kind == "self":
                both = (tensor[row, call.grid.video_tokens] for tensor in (attention.q, attention.k))
                q, k = (rearrange(tensor, "n (h d) -> h n d", h=attention.heads).clone() for tensor in both)
                self.kept[call.frames[0], site.block] = q, k
            return None

        return keep


def attention_to_window_before(kept: KeptAttention, window: int, before: int) -> Maps:
    """softmax(Q K^T / sqrt d) of the window that begins at latent frame `window` over the keys of the one that begins at `before`."""
    blocks = sorted(block for first, block in kept.kept if first == window)
    pairs = {block: (kept.kept[window, block][0], kept.kept[before, block][1]) for block in blocks}
    return {block: (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) for block, (q, k) in pairs.items()}


def object_tokens(video: Tensor, color: str, grid: VideoGrid, start: int) -> Tensor:
    """Which tokens of the window that begins at latent frame `start` hold the object: canvas video "f c h w" -> bool "n"."""
    area = metrics.color_areas(video[start : start + grid.frames])[color]
    covered = reduce(area, "f (h a) (w b) -> f h w", "mean", h=grid.height, w=grid.width)
    return (covered >= COVERED).flatten()


@cache
def offsets(grid: VideoGrid) -> Tensor:
    """A number for each offset in time, height and width between two tokens of windows laid over each other, "n n"."""
    axes = torch.meshgrid(*(torch.arange(size) for size in (grid.frames, grid.height, grid.width)), indexing="ij")
    number = torch.zeros(grid.token_count, grid.token_count, dtype=torch.long)
    for place, size in zip(axes, (grid.frames, grid.height, grid.width)):
        number = number * (2 * size - 1) + (place.flatten()[:, None] - place.flatten()[None, :] + size - 1)
    return number


def by_position(attention: Tensor, grid: VideoGrid, here: Tensor, there: Tensor) -> Tensor:
    """What attention "h n m" would be if it knew positions alone: its mean over background pairs of equal offset, rows summing to 1.

    An offset that no background pair has counts with all its pairs.
    """
    number, background = offsets(grid).flatten(), (~here[:, None] & ~there[None, :]).flatten()
    size = int(number.max()) + 1
    means = []
    for weights in (background.float(), torch.ones(len(number))):
        count = torch.bincount(number, weights, minlength=size)
        means.append([torch.bincount(number, head.flatten() * weights, minlength=size) / count for head in attention.float()])
    alone = torch.stack([torch.where(of_background.isfinite(), of_background, of_all) for of_background, of_all in zip(*means)])[:, number]
    alone = rearrange(alone, "h (n m) -> h n m", n=grid.token_count)
    return alone / alone.sum(-1, keepdim=True)


def object_to_itself(attention: Tensor, grid: VideoGrid, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the object's attention that goes to the object in the window before, "h", and the share by position alone."""
    of_object = lambda weights: weights[:, here][..., there].sum(-1).mean(-1)  # noqa: E731
    return of_object(attention), of_object(by_position(attention, grid, here, there))


def attention_between_windows(playground: Playground, picture: Path, seed: int, count: int = 6) -> dict[str, Any]:
    """Over `count` moving stories without sharing: per block the object's attention to itself in the window before, and by position alone.

    `lift` is the quotient, per block and per head: 1, position explains all. Also writes the picture.
    """
    seen, alone = [], []
    for index, story in enumerate(stories(count, seed, changes=("motion",))):
        maps, grid, here, there, video = of_story(playground, story, seed + index)
        if not (here.any() and there.any()):
            continue
        shares = [object_to_itself(attention, grid, here, there) for attention in maps.values()]
        seen.append(torch.stack([share for share, _ in shares]))
        alone.append(torch.stack([share for _, share in shares]))
        example = maps, grid, here, there, video
    if not seen:
        raise ValueError(f"evaluate blend: --seed {seed}: none of {count} stories shows its object in both windows; take another seed")
    share, position = torch.stack(seen).mean(0), torch.stack(alone).mean(0)  # "l h"
    lift = share / position.clamp_min(1e-6)
    from PIL import Image

    Image.fromarray(attention_figure(lift.numpy(), *example)).save(picture)
    of_block = lambda values: [round(float(value), 4) for value in values.mean(1)]  # noqa: E731
    return {
        "stories": len(seen), "object_to_object": of_block(share), "by_position_alone": of_block(position),
        "lift_by_block": [round(float(value), 3) for value in share.mean(1) / position.mean(1)],
        "lift_by_head": [[round(float(value), 3) for value in row] for row in lift],
    }  # fmt: skip


def of_story(playground: Playground, story: Story, seed: int) -> tuple[Maps, VideoGrid, Tensor, Tensor, Tensor]:
    """Maps of the second window to the first, the tokens of the object in each, and the video."""
    kept = KeptAttention(story.name)
    video = sample_variant(playground, "blend", story, 1, seed, BLEND, (kept,))[0]
    grid, (color,) = kept.grids[0], story.colors
    here, there = (object_tokens(video, color, grid, start) for start in (BLEND.stride, 0))
    return attention_to_window_before(kept, BLEND.stride, 0), grid, here, there, video


def attention_figure(lift: np.ndarray, maps: Maps, grid: VideoGrid, here: Tensor, there: Tensor, video: Tensor) -> np.ndarray:
    """Left: lift per block and head. Right: the first window, and where the second one's object looks in it, per block: "h w 3" uint8."""
    frames = grid.frames
    width, height, left = 1200, 68 * (len(maps) + 1) + 70, 0.26
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.05, 0.12, left - 0.09, 0.72))
    axes.imshow(np.log2(lift), origin="lower", aspect="auto", cmap="PuOr_r", norm=CenteredNorm(0), interpolation="nearest")
    for (block, head), value in np.ndenumerate(lift):
        dark = abs(np.log2(value)) > 0.75 * np.abs(np.log2(lift)).max()
        axes.text(head, block, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.set_xlabel("head", fontsize=9, color=INK)
    axes.set_ylabel("block", fontsize=9, color=INK)
    axes.set_title("attention of the object to itself in the\nwindow before, over position alone", fontsize=9.5, loc="left", color=INK)
    rows: Sequence[tuple[str, Any]] = [
        ("window before", ((video[:frames].clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()),
        *((f"block {block}", excess(attention, grid, here, there)) for block, attention in reversed(maps.items())),
    ]
    cell = (1 - left - 0.09) / frames
    for row, (words, pictures) in enumerate(rows):
        bottom = 0.9 - (row + 1) * 0.86 / len(rows)
        figure.text(left + 0.075, bottom + 0.4 / len(rows), words, ha="right", va="center", fontsize=9, color=INK)
        for frame in range(frames):
            panel = figure.add_axes((left + 0.085 + frame * cell, bottom, cell * 0.94, 0.8 / len(rows)))
            norm = CenteredNorm(0, float(np.abs(pictures).max())) if row else None
            panel.imshow(pictures[frame], cmap="PuOr_r", norm=norm, interpolation="nearest", aspect="auto")
            panel.set_axis_off()
    title = "Where the object of the second window looks in the first (orange: more than position alone would give)"
    figure.text(left + 0.085, 0.94, title, fontsize=9.5, color=INK)
    return drawn(figure)


def excess(attention: Tensor, grid: VideoGrid, here: Tensor, there: Tensor) -> np.ndarray:
    """Attention of the object's tokens beyond position alone, mean over heads and those tokens: "f h w"."""
    beyond = (attention - by_position(attention, grid, here, there))[:, here].mean((0, 1))
    return rearrange(beyond, "(f h w) -> f h w", f=grid.frames, h=grid.height).numpy()
