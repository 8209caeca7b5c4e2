"""Multi Prompt Blend: several prompts over one longer video, without seams. DiTCtrl (CVPR 2025), section 3; KV sharing is kv_sharing.py.

Where paper and official code differ, the code is followed: the triangle lies over whole windows and blends predictions of the clean video
at every step, and windows between two prompts have the prompts' embeddings mixed.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from einops import einsum
from torch import Tensor
from torch.nn import functional

from .kv_sharing import NAME, KVSharing
from .latent_time import TEMPORAL_STRIDE, pixel_frames

Mode = Literal["blend", "word swap"]
Plan = Literal["fast", "faithful"]
MOST_WINDOWS = 1000  # half an hour of video; what lies beyond is a slip of the keyboard, and its weights would fill the memory


@dataclass(frozen=True)
class WindowPrompt:
    """What a window shows: prompt number `prompt`, or, on the way to the next one, a mix that holds `share` (0..1) of that."""

    prompt: int
    share: float = 0.0

    @property
    def nearer(self) -> int:
        return self.prompt + (self.share > 0.5)


@dataclass(frozen=True)
class Evaluation:
    """One pass of the model over one window. `source`: the window whose keys and values it reads; `keeps`: others read its own."""

    window: int
    source: int | None = None
    keeps: bool = False


@dataclass(frozen=True)
class MultiPromptBlend:
    """How a video is divided among prompts.

    window: F, latent frames that the model sees at once. Higher: more context, more memory; about 21 is what Wan was trained on.
    overlap: o, latent frames that neighbouring windows share, below F. Higher: softer transitions, more windows for the same length.
    repeats: windows of each prompt, one or more. Higher: that prompt lasts longer.
    transitions: n, windows between two prompts. Higher: a slower change.
    sharing: how windows attend to the one before; None: not at all.
    plan: fast, one pass for each window: it reads the one before and is read by the next. faithful, as the official code in shared steps:
    every window but the first and last is run twice, once reading and once being read, and the mean is taken: 2 (S - 1) passes.
    mode: word swap is no blend: the videos of a batch have one prompt each, the same noise, and all read the first.
    retain_first_frame: with a start image, every window is shown it, not only the first.
    """

    window: int
    overlap: int
    repeats: tuple[int, ...]
    transitions: int = 1
    sharing: KVSharing | None = field(default_factory=KVSharing)
    plan: Plan = "fast"
    mode: Mode = "blend"
    retain_first_frame: bool = True

    def __post_init__(self) -> None:
        frames = pixel_frames(self.window)
        if self.window < 2:
            raise ValueError(f"{NAME}: `frames_per_window` = {frames}: a window needs at least 5 frames (2 latent ones)")
        if not 0 <= self.overlap < self.window:
            shared = f"`overlap` = {TEMPORAL_STRIDE * self.overlap}"
            raise ValueError(f"{NAME}: {shared}: must be 0 or more, and below `frames_per_window` = {frames}")
        if not 0 <= self.transitions <= 16:
            raise ValueError(f"{NAME}: `transitions` = {self.transitions}: must lie in 0..16")
        if not self.repeats or min(self.repeats) < 1:
            raise ValueError(f"{NAME}: `repeats` = {self.repeats}: one prompt at least, each with one window or more")
        windows = sum(self.repeats) + self.transitions * (len(self.repeats) - 1)
        if windows > MOST_WINDOWS:
            remedy = "shorten the durations, or raise `frames_per_window`"
            raise ValueError(f"{NAME}: the prompts ask for {windows} windows, and {MOST_WINDOWS} is the most: {remedy}")
        if self.plan not in get_args(Plan) or self.mode not in get_args(Mode):
            raise ValueError(f"{NAME}: `plan` = {self.plan!r}, `mode` = {self.mode!r}: must be among {get_args(Plan)}, {get_args(Mode)}")
        if self.mode == "word swap" and len(self.repeats) < 2:
            raise ValueError(f"{NAME}: `mode` = word swap: give two prompts at least, the first is the source")

    @property
    def name(self) -> str:
        return NAME

    @property
    def prompts(self) -> tuple[WindowPrompt, ...]:
        """What each window shows; in word swap each video of the batch."""
        if self.mode == "word swap":
            return tuple(map(WindowPrompt, range(len(self.repeats))))
        return window_prompts(self.repeats, self.transitions)

    @property
    def stride(self) -> int:
        return self.window - self.overlap

    @property
    def latent_frames(self) -> int:
        """Length of the whole video: F + (S - 1)(F - o); in word swap that of one window."""
        return latent_length(1 if self.mode == "word swap" else len(self.prompts), self.window, self.overlap)

    def frames_of(self, window: int) -> range:
        return range(window * self.stride, window * self.stride + self.window)

    def evaluations(self, windows: Sequence[int], shared: bool) -> list[Evaluation]:
        """The passes of one step over `windows` (numbers, ascending); only neighbours share."""
        if not shared or len(windows) < 2:
            return [Evaluation(window) for window in windows]
        if self.mode == "word swap":
            return [Evaluation(windows[0], keeps=True), *(Evaluation(window, source=windows[0]) for window in windows[1:])]
        before = {later: earlier for earlier, later in itertools.pairwise(windows) if later == earlier + 1}
        read = set(before.values())
        plan = []
        for window in windows:
            if self.plan == "faithful" and window in before and window in read:
                plan += [Evaluation(window, source=before[window]), Evaluation(window, keeps=True)]
            else:
                plan.append(Evaluation(window, before.get(window), keeps=window in read))
        return plan


def window_prompts(repeats: Sequence[int], transitions: int) -> tuple[WindowPrompt, ...]:
    """S = sum of repeats + n (P - 1) windows: each prompt's own, and between neighbours n with shares j / (n + 1), j = 1..n."""
    windows: list[WindowPrompt] = []
    for prompt, count in enumerate(repeats):
        windows += [WindowPrompt(prompt)] * count
        if prompt + 1 < len(repeats):
            windows += [WindowPrompt(prompt, j / (transitions + 1)) for j in range(1, transitions + 1)]
    return tuple(windows)


def latent_length(windows: int, window: int, overlap: int) -> int:
    """Lg = F + (S - 1)(F - o) latent frames."""
    return window + (windows - 1) * (window - overlap)


def repeats_for(durations: Sequence[float | None], window: int, overlap: int, transitions: int) -> tuple[int, ...]:
    """Windows for each prompt, so that it lasts as near as possible to its duration in latent frames; None: as short as possible.

    A window rules the F - o frames around its middle. A prompt also has half of the transitions beside it, and at the ends of the video
    the half overlap that no other window shares.
    """
    stride = window - overlap
    repeats = []
    for prompt, duration in enumerate(durations):
        ends = (prompt == 0) + (prompt == len(durations) - 1)
        beside = transitions * stride / 2 * (2 - ends) + overlap / 2 * ends
        repeats.append(1 if duration is None else max(1, round((duration - beside) / stride)))
    return tuple(repeats)


def triangle(window: int) -> Tensor:
    """w_i = min(u_i, 2 - u_i), u_i = 2 (i + 1/2) / F, i = 0..F-1: "f", fp32, symmetric and above 0."""
    u = 2 * (torch.arange(window) + 0.5) / window
    return torch.minimum(u, 2 - u)


def blend_weights(windows: int, window: int, overlap: int) -> Tensor:
    """Weight of each window in each frame of the video, "s t" fp32: triangles, divided by their sum, so that every frame has sum 1."""
    weights = torch.zeros(windows, latent_length(windows, window, overlap))
    for index in range(windows):
        start = index * (window - overlap)
        weights[index, start : start + window] = triangle(window)
    return weights / weights.sum(0)


def prompt_weights(blend: MultiPromptBlend) -> Tensor:
    """How much of each prompt is in each frame, "p t" fp32, sum 1."""
    share = torch.zeros(len(blend.prompts), len(blend.repeats))
    for window, shown in enumerate(blend.prompts):
        share[window, shown.prompt] += 1 - shown.share
        if shown.share:
            share[window, shown.prompt + 1] += shown.share
    return einsum(blend_weights(len(blend.prompts), blend.window, blend.overlap), share, "s t, s p -> p t")


def between(earlier: Tensor, later: Tensor, share: float) -> Tensor:
    """c = (1 - w) c_i + w c_(i+1), w = `share`, row by row: "b t c". The shorter text is padded with zeros, as UMT5's own padding is."""
    rows = max(earlier.shape[1], later.shape[1])
    earlier, later = (functional.pad(text, (0, 0, 0, rows - text.shape[1])) for text in (earlier, later))
    return (1 - share) * earlier + share * later
