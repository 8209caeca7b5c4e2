"""Temporal Mask: attention to a word rises and falls with its timeline. TempoControl (arXiv 2510.02226), section 3."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional

from .mask_sources import ALWAYS, TimedPhrase, Timing, Together, WrittenSpans
from .objective import ObjectiveLoss, PhraseRef, check_occurrence
from .ranges import check_fps, check_percents, check_range
from .spans import TimelineError
from .timeline import Timeline, TimelineLine, check_timeline

NAME = "Temporal Mask"
REFERENCE_GRID = 1560  # H W of Wan at 832x480, on which the paper's lambdas were chosen
EPSILON = 1e-6  # of the official code, for the min-max and the deviations
TINY = 1e-12


def temporal_attention(maps: Tensor) -> Tensor:
    """a_j = 1560/(H W) sum_xy A_j(x, y): "b g f h w" -> "b g f". The factor makes the lambdas hold at every resolution."""
    return reduce(maps, "b g f h w -> b g f", "mean") * REFERENCE_GRID


def normalised(a: Tensor) -> Tensor:
    """a~ = (a - min a)/(max a - min a + eps) over the latent frames after the first, which is clamped: "b g f" -> "b g f" in 0..1."""
    kept = _after_first(a)
    low, high = kept.amin(-1, keepdim=True), kept.amax(-1, keepdim=True)
    return ((a - low) / (high - low + EPSILON)).clamp(0, 1)


def correlation(a: Tensor, m: Tensor) -> Tensor:
    """r = Cov(m, a~)/(sigma_m sigma_a~), section 3 (temporal alignment): a "b g f", m "g f" -> "b g".

    The first latent frame is dropped (one pixel frame, "unstable"); the last is not. A mask that is constant over the frames left gives
    0 with zero gradient.
    """
    if a.shape[-1] < 2:
        return a.sum(-1) * 0
    a, m = normalised(a)[..., 1:], m[..., 1:]
    da, dm = a - a.mean(-1, keepdim=True), m - m.mean(-1, keepdim=True)
    dm = torch.where(_varies(m)[:, None], dm, 0.0)  # rounding in the mean of a constant mask is not a signal
    covariance = (da * dm).mean(-1)
    return covariance / ((da.square().mean(-1) + EPSILON).sqrt() * (dm.square().mean(-1) + EPSILON).sqrt())


def correlation_loss(a: Tensor, m: Tensor) -> Tensor:
    """L_corr = -r: a "b g f", m "g f" -> "b g"."""
    return -correlation(a, m)


def magnitude_loss(a: Tensor, m: Tensor, level: Tensor | None = None) -> Tensor:
    """L_mag = sum_j (1 - m_j) a_j / sum_j (1 - m_j) - sum_j m_j a_j / sum_j m_j: a "b g f", m "g f" in 0..1 -> "b g".

    Mean attention of inactive frames less that of active frames; binary masks give the plain means. A side without frames counts 0.
    Anchored to a `level` "b g" (beyond the paper), the active frames' mean is drawn to that level in place of being raised without end:
    + |mean - level| instead of - mean.
    """
    active = _weighted_mean(a, m)
    return _weighted_mean(a, 1 - m) + (-active if level is None else (active - level).abs())


def held_level(a: Tensor, m: Tensor) -> Tensor:
    """The level that anchors active frames: a "b g f", m "g f" -> "b g".

    Their own mean, the one that `magnitude_loss` draws to it, or the strongest inactive frame after the first where that is higher: a
    thing at the wrong time moves to the right one, and nothing rises from step to step, which draws it again beside itself. 0 where no
    frame is active.
    """
    inactive = torch.where(_after_first(m) < 0.5, _after_first(a), -torch.inf)
    level = torch.maximum(_weighted_mean(a, m), inactive.amax(-1))
    return torch.where(m.amax(-1) > 0, level, 0.0)


def elsewhere_loss(maps: Tensor, m: Tensor, unedited: Tensor) -> Tensor:
    """Attention of active frames to where the thing is not, in the units of `temporal_attention`: "b g f h w", m "g f" -> "b g".

    Where it is: the square of the mean map of its active frames, over the largest, 0..1, as the step found it in `unedited`; a thing that
    moves is on all its way. Beyond the paper: without it a rise in attention is answered by a second thing in another place.
    """
    there = _weighted_mean(rearrange(unedited, "b g f h w -> b g h w f"), m[:, None, None])
    there = (there / there.amax((-1, -2), keepdim=True).clamp_min(TINY)).square()
    return _weighted_mean(temporal_attention((1 - there)[:, :, None] * maps), m)


def entropy_loss(maps: Tensor, m: Tensor) -> Tensor:
    """L_ent = sum_j m_j H(p_j) / sum_j m_j, p_j = A_j / sum_xy A_j, in nats, shifted by log 1560 - log(H W): "b g f h w", m "g f" -> "b g".

    Low where the active frames hold one clear place; the shift keeps its value comparable between resolutions.
    """
    p = rearrange(maps, "b g f h w -> b g f (h w)") + TINY
    p = p / p.sum(-1, keepdim=True)
    entropy = -(p * p.log()).sum(-1) - math.log(p.shape[-1]) + math.log(REFERENCE_GRID)
    return _weighted_mean(entropy, m)


def leakage_loss(maps: Tensor, m: Tensor, apart: Sequence[tuple[int, int]]) -> Tensor:
    """L_leak = mean over the pairs (g, h) of `apart` of sum_j w_j cos(A_g,j, A_h,j) / sum_j w_j, w = max(m_g, m_h): "b g f h w" -> "b".

    Not in the paper, which has two phrases at most: how much two phrases look at the same places of a latent frame, in frames where one of
    them is to be seen. 1: the same places in the same shares; 0: apart. Without pairs 0.
    """
    if not apart:
        return maps.new_zeros(maps.shape[0])
    unit = functional.normalize(rearrange(maps, "b g f h w -> b g f (h w)"), dim=-1, eps=TINY)
    one, other = (list(of_pairs) for of_pairs in zip(*apart, strict=True))
    overlap = (unit[:, one] * unit[:, other]).sum(-1)
    return _weighted_mean(overlap, torch.maximum(m[one], m[other])).mean(-1)


def is_timed(m: Tensor) -> Tensor:
    """Which masks "g f" change over the frames that the correlation sees: bool "g"."""
    return _varies(m[..., 1:]) if m.shape[-1] > 1 else torch.zeros(m.shape[:-1], dtype=torch.bool, device=m.device)


def _after_first(values: Tensor) -> Tensor:
    """The latent frames after the first, "... f"; a single one is kept."""
    return values[..., 1:] if values.shape[-1] > 1 else values


def _varies(m: Tensor) -> Tensor:
    return m.amax(-1) - m.amin(-1) > 1e-4


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(-1) / weights.sum(-1).clamp_min(EPSILON)


@dataclass(frozen=True)
class TemporalMask:
    """L = lambda_c L_corr + lambda_1 L_mag + lambda_2 L_ent + lambda_l L_leak, averaged over phrases (section 3; defaults of section 4).

    timeline: when each phrase is to be seen. A header's subject is a phrase that is always there (the paper's recipe for movement:
    the verb timed, its subject static). A line's strength weighs it among the others; the strongest line scales the step size.
    lambda_correlation: 1 as in the paper; 0 for its ablation.
    lambda_magnitude: lambda_1. Higher: less of it while not active; unanchored also more while active. Raise it if the word shows all
        the time.
    lambda_entropy: lambda_2. Higher: one clear place while active. Raise it if the scene drifts.
    lambda_leakage: lambda_l, beyond the paper. Higher: phrases keep to places of their own. Raise it if two things become one.
    anchor: hold active frames at the attention (`held_level`) and the place (`elsewhere_loss`) that each step finds; off: as in the paper.
    tau_corr: a sample's step ends as soon as the correlation of its worst timed phrase reaches this.
    mask: soft uses covered shares of a latent frame, binary rounds them.
    fps: frames per second in which the timeline counts seconds; 0: the model's.
    timing: phrases with masks from elsewhere: frames, curves, sounds. One that the timeline has too is seen whenever either says so.
    """

    timeline: Timeline
    lambda_magnitude: float = 0.3
    lambda_entropy: float = 10.0
    tau_corr: float = 0.9
    mask: Literal["soft", "binary"] = "soft"
    occurrence: str | int = "all"
    lambda_correlation: float = 1.0
    lambda_leakage: float = 0.0
    anchor: bool = True
    start_percent: float | None = None
    end_percent: float | None = None
    fps: float = 0.0
    timing: Timing = Timing()
    unedited: list[Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("lambda_magnitude", "lambda_entropy", "lambda_correlation", "lambda_leakage"):
            check_range(NAME, name, getattr(self, name), 0, 1000)
        check_range(NAME, "tau_corr", self.tau_corr, 0, 1)
        check_fps(NAME, self.fps)
        check_percents(NAME, self.start_percent, self.end_percent)
        check_occurrence(NAME, self.occurrence)
        if self.mask not in ("soft", "binary"):
            raise ValueError(f"{NAME}: `mask` = {self.mask!r}: must be soft or binary")

    @property
    def name(self) -> str:
        return NAME

    @cached_property
    def timed(self) -> tuple[TimedPhrase, ...]:
        """Each phrase once: those with strength above 0, joined by phrase, then header subjects that have no mask of their own."""
        said = [line for line in self.timeline.lines if line.strength > 0]
        lines: dict[str, TimelineLine] = {}
        for line in said:
            same = lines.get(_key(line.body), line)
            spans = tuple(dict.fromkeys(same.spans + line.spans))
            lines[_key(line.body)] = replace(same, spans=spans, strength=max(same.strength, line.strength))
        joined = {key: TimedPhrase(line.body, WrittenSpans(line), line.strength) for key, line in lines.items()}
        for timed in self.timing.phrases:
            if timed.strength > 0:
                same = joined.get(_key(timed.phrase))
                joined[_key(timed.phrase)] = _together(same, timed) if same else timed
        for line in said:
            if line.subject:
                joined.setdefault(_key(line.subject), TimedPhrase(line.subject, ALWAYS))
        return tuple(joined.values())

    @cached_property
    def apart(self) -> tuple[tuple[int, int], ...]:
        """Which of `phrases` leakage keeps apart, in pairs: not a subject and what it does, nor two things that one subject does."""
        families = {_key(timed.phrase): {_key(timed.phrase)} for timed in self.timed}
        for line in self.timeline.lines:
            if line.subject and line.strength > 0:
                families[_key(line.body)].add(_key(line.subject))
        return tuple((g, h) for (g, one), (h, other) in combinations(enumerate(families.values()), 2) if not one & other)

    @property
    def phrases(self) -> tuple[PhraseRef, ...]:
        return tuple(PhraseRef(timed.phrase, self.occurrence) for timed in self.timed)

    @property
    def strength(self) -> float:
        return max((timed.strength for timed in self.timed), default=0.0)

    def masks(self, latent_frames: int, fps: float) -> Tensor:
        """m "g f" in the order of `phrases`; a binary mask keeps at least one latent frame per span."""
        binary = self.mask == "binary"
        return torch.stack([timed.source.mask(latent_frames, self.fps or fps, binary) for timed in self.timed])

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        """Raises ValueError for a mask that does not fit the video: only here is its length known, and still before any long wait."""
        if not self.phrases:
            return f"{NAME}: the timeline is empty or every strength is 0"
        if latent_frames < 2:
            return f"{NAME}: the latent has one frame, and one frame has no timing"
        try:
            check_timeline(self.timeline, latent_frames, self.fps or fps)
        except TimelineError as error:
            raise error.named(self.name) from error
        try:
            self.masks(latent_frames, fps)
        except ValueError as error:
            raise ValueError(f"{self.name}: input `timing`: {error}") from error
        return None

    def at_step(self, sigma: float, memory: dict[str, Any]) -> "TemporalMask":
        return replace(self, unedited=[])

    def as_found(self, maps: Tensor) -> Tensor:
        """The maps of the step's first evaluation, which is of the latent as it was; outside a step, `maps` themselves. No gradient."""
        seen = [] if self.unedited is None else self.unedited
        if not seen:
            seen.append(maps.detach())
        return seen[0]

    def magnitude(self, maps: Tensor, a: Tensor, m: Tensor) -> Tensor:
        """L_mag of `maps` "b g f h w", their `temporal_attention` a, m "g f" -> "b g"; anchored or the paper's."""
        if not self.anchor:
            return magnitude_loss(a, m)
        found = self.as_found(maps)
        return magnitude_loss(a, m, held_level(temporal_attention(found), m)) + elsewhere_loss(maps, m, found)

    def loss(self, maps: Tensor, fps: float) -> ObjectiveLoss:
        """The losses of `maps` "b g f h w"; satisfied when the worst timed phrase correlates by tau_corr.

        If all are static, never: nothing says when they have enough. One latent frame: at once.
        """
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        m = self.masks(maps.shape[2], fps).to(maps)
        a = temporal_attention(maps)
        r = correlation(a, m)
        weights = maps.new_tensor([timed.strength for timed in self.timed]) / self.strength
        terms = {
            "correlation": (-r * weights).mean(-1),
            "magnitude": (self.magnitude(maps, a, m) * weights).mean(-1),
            "entropy": (entropy_loss(maps, m) * weights).mean(-1),
        }
        if self.lambda_leakage:
            terms["leakage"] = leakage_loss(maps, m, self.apart)
        timed = is_timed(m)
        worst = torch.where(timed, r.detach(), torch.inf).amin(-1)
        return ObjectiveLoss(
            total=self.lambda_correlation * terms["correlation"]
            + self.lambda_magnitude * terms["magnitude"]
            + self.lambda_entropy * terms["entropy"]
            + (self.lambda_leakage * terms["leakage"] if self.lambda_leakage else 0.0),
            terms={term: value.detach() for term, value in terms.items()},
            satisfied=(worst >= self.tau_corr) & (timed.any() | (maps.shape[2] < 2)),
            traces={"correlation": r.detach(), "attention": normalised(a.detach()), "mask": m},
        )


def _together(one: TimedPhrase, other: TimedPhrase) -> TimedPhrase:
    return TimedPhrase(one.phrase, Together((one.source, other.source)), max(one.strength, other.strength))


def _key(phrase: str) -> str:
    """Phrases are looked up in the prompt without regard to case and spacing."""
    return " ".join(phrase.split()).casefold()
