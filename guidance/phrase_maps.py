"""Where attention to each phrase lay in a run: the small maps that Attention Preview draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .objective import PhraseAt, PhraseRef, RestOfPrompt

MOST_TOKENS = 64  # of a kept map, each way: finer than a tile of the preview


@dataclass(frozen=True)
class StepMaps:
    """Attention to one phrase in one guided step, "b f h w" fp16 in main memory: of the latent as it was, and of the one that was kept."""

    step: int
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class PhraseMaps:
    """The first and the last guided step that measured a phrase; of a single step, both are that one.

    Two steps of two maps with at most MOST_TOKENS tokens each way in two bytes: no more than 32 KiB for each latent frame of a video,
    2 MiB for three phrases of 81 pixel frames.
    """

    first: StepMaps
    last: StepMaps


def small(maps: Tensor) -> Tensor:
    """Maps "b g f h w" of one evaluation as they are kept: averaged down to MOST_TOKENS each way, fp16, in main memory."""
    maps, (b, g, f, h, w) = maps.detach(), maps.shape
    if max(h, w) > MOST_TOKENS:
        size = (min(h, MOST_TOKENS), min(w, MOST_TOKENS))
        maps = functional.adaptive_avg_pool2d(maps.flatten(0, 2)[:, None], size).view(b, g, f, *size)
    return maps.to("cpu", torch.float16)


def depth_agreement(by_block: Tensor) -> Tensor:
    """How alike the first k blocks and all of them look: maps "l b g n" of every block -> "l b g", k = 1..l.

    Pearson correlation, over the video tokens, of the mean map of the first k blocks with the mean map of all; 1 for all, 0 for a flat map.
    """
    means = by_block.detach().cumsum(0)
    unit = functional.normalize(means - means.mean(-1, keepdim=True), dim=-1)
    return (unit * unit[-1:]).sum(-1)


class Evaluations:
    """The maps of one guided step, evaluation by evaluation, until it is known which of them each sample kept.

    `of_run`: where the run keeps its maps; None: nobody will look, and nothing is copied. Only phrases that somebody named are kept, as
    all heads see them.
    """

    def __init__(self, phrases: Sequence[PhraseRef], of_run: dict[PhraseRef, PhraseMaps] | None) -> None:
        self._of_run = {} if of_run is None else of_run
        named = [] if of_run is None else [ref for ref in phrases if not isinstance(ref, RestOfPrompt | PhraseAt)]
        self._places = {ref: phrases.index(ref) for ref in named}
        self._maps: list[Tensor] = []  # "b g f h w" of each evaluation

    def seen(self, maps: Tensor) -> Tensor:
        """One evaluation's "b g f h w", in the order of the phrases; handed on as it is."""
        if self._places:
            self._maps.append(small(maps[:, list(self._places.values())]))
        return maps

    def keep(self, step: int, kept: Sequence[int]) -> None:
        """`kept`: which evaluation saw the latent that sample b kept; one beyond the last stands for that (`LoopHistory.after`)."""
        if not self._maps:
            return
        last = torch.stack([self._maps[min(place, len(self._maps) - 1)][sample] for sample, place in enumerate(kept)])
        for place, ref in enumerate(self._places):
            maps = StepMaps(step, self._maps[0][:, place].clone(), last[:, place].clone())
            self._of_run[ref] = PhraseMaps(self._of_run[ref].first if ref in self._of_run else maps, maps)
