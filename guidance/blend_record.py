"""What a blended run leaves for its report: its windows, what it cost, and how unlike neighbouring windows were, as plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .blend import MultiPromptBlend, prompt_weights
from .report import Number, finite


@dataclass(frozen=True)
class BlendRecord:
    """One blended run of one model.

    windows: how many; in word swap videos. passes: of the model over one window, all steps together. shared_steps: how many steps, and
    sharing: which ones of this run, from 0, in which windows read the one before. kv_bytes: the most that keys and values took while
    they waited.
    words: each prompt, "" where its text is unknown. frames: of each window, latent [start, stop). shown: of each window, prompt from 0
    and share of the next one. shares: how much of each prompt is in each latent frame, "p t". unlike: `unlikeness` of the
    predictions of windows s and s + 1 where they overlap, "step s-1"; empty for a step that was not measured.
    """

    windows: int
    passes: int
    shared_steps: int
    kv_bytes: int
    words: list[str]
    frames: list[list[int]]
    shown: list[list[float]]
    shares: list[list[float]]
    sharing: list[int]
    unlike: list[list[Number]]

    @staticmethod
    def from_dict(measured: dict[str, Any]) -> "BlendRecord":
        return BlendRecord(**{field.name: measured[field.name] for field in fields(BlendRecord)})


def blend_record(
    blend: MultiPromptBlend, passes: int, sharing: list[int], kv_bytes: int, words: list[str], unlike: list[list[Number]]
) -> BlendRecord:
    swap = blend.mode == "word swap"
    windows = range(len(blend.prompts))
    frames = [[0, blend.window] if swap else [blend.frames_of(window).start, blend.frames_of(window).stop] for window in windows]
    shown = [[shown.prompt, shown.share] for shown in blend.prompts]
    shares = [] if swap else prompt_weights(blend).tolist()
    return BlendRecord(len(windows), passes, len(sharing), kv_bytes, words, frames, shown, shares, sharing, unlike)


class SeamWatch:
    """Compares each window's prediction with that of the one before where they overlap. A later run at the same sigma replaces one."""

    def __init__(self, blend: MultiPromptBlend) -> None:
        self.overlap = 0 if blend.mode == "word swap" else blend.overlap
        self.seams = len(blend.prompts) - 1
        self._of_sigma: dict[float, dict[int, Tensor]] = {}
        self._before: tuple[int, Tensor] | None = None

    def see(self, sigma: float, window: int, predicted: Tensor) -> None:
        """The prediction of the clean video "b c f h w" of that window."""
        if not self.overlap:
            return
        if self._before is not None and self._before[0] == window - 1:
            found = unlikeness(self._before[1], predicted[:, :, : self.overlap])
            self._of_sigma.setdefault(sigma, {})[window - 1] = found.detach()
        self._before = window, predicted[:, :, -self.overlap :].detach()

    def step_over(self) -> None:
        self._before = None

    def of_steps(self, sigmas: Sequence[float]) -> list[list[Number]]:
        """Per step the unlikeness at every seam; empty where not all were seen."""
        steps = [self._of_sigma.get(sigma, {}) for sigma in sigmas]
        return [finite([float(seen[seam]) for seam in range(self.seams)]) if len(seen) == self.seams else [] for seen in steps]


def unlikeness(earlier: Tensor, later: Tensor) -> Tensor:
    """|a - b| / sqrt((|a|^2 + |b|^2) / 2) of the same frames as two windows predict them: 0 alike, about 1.4 unrelated; a scalar."""
    earlier, later = earlier.float(), later.float()
    size = ((earlier.square().sum() + later.square().sum()) / 2).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return (earlier - later).norm() / size
