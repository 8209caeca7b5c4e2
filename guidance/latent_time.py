"""Pixel time becomes latent frames here and nowhere else.

Wan's VAE has a causal stride of four: latent 0 is pixel frame 0, latent j covers pixel frames 4j-3 .. 4j.
"""

import math

import torch
from torch import Tensor

TEMPORAL_STRIDE = 4
ROUNDING = 1e-6


def pixel_frames(latent_frames: int) -> int:
    """Number of pixel frames of a video of `latent_frames` latent frames: 4 (F - 1) + 1."""
    if latent_frames < 1:
        raise ValueError(f"latent_frames = {latent_frames}: at least 1")
    return TEMPORAL_STRIDE * (latent_frames - 1) + 1


def frames_of_latent(latent: int) -> range:
    """The pixel frames that a latent frame covers: 0, or 4j-3 .. 4j."""
    return range(pixel_frames(latent) if latent else 0, pixel_frames(latent + 1))


def latent_frames_of(frames: int) -> int:
    """Number of latent frames of a video of `frames` pixel frames, rounded down as the host does."""
    return (frames - 1) // TEMPORAL_STRIDE + 1


def frames_per_second(latent_channels: int, chosen: float | None = None) -> float:
    """`chosen` where a node gives one (0 and None mean automatic), else 24 for the 48-channel Wan 2.2 5B and 16 for every other Wan."""
    if chosen is not None and (not math.isfinite(chosen) or chosen < 0):
        raise ValueError(f"fps = {chosen}: finite, and above 0 (or 0 for automatic)")
    return float(chosen) if chosen else (24.0 if latent_channels == 48 else 16.0)


def latent_weights(start_frame: float, end_frame: float, latent_frames: int) -> Tensor:
    """Share of each latent frame that the pixel time [start_frame, end_frame) covers: "f", fp32, 0..1.

    Frames may be fractions: pixel frame p is the interval [p, p + 1).
    """
    after = torch.arange(pixel_frames(1), pixel_frames(latent_frames) + 1, TEMPORAL_STRIDE, dtype=torch.float64)
    first = torch.cat([torch.zeros(1, dtype=torch.float64), after[:-1]])
    covered = (after.clamp(max=end_frame) - first.clamp(min=start_frame)).clamp(min=0)
    return (covered / (after - first)).float()


def binary(weights: Tensor) -> Tensor:
    """The latents of one span as 0 and 1, "f" -> "f": weight >= 0.5; a span too short for that keeps its most covered latent."""
    mask = weights >= 0.5 - ROUNDING
    if not mask.any() and weights.max() > 0:
        mask[weights.argmax()] = True
    return mask.to(weights.dtype)


def curve_weights(curve: Tensor, strongest: bool = False) -> Tensor:
    """A value for each pixel frame "p" as one for each latent "f": the mean over its frames, or the `strongest` of them (events)."""
    later = curve[1:].reshape(-1, TEMPORAL_STRIDE)
    return torch.cat([curve[:1], later.amax(1) if strongest else later.mean(1)])


def curve_mask(curve: Tensor) -> Tensor:
    """The latents of a curve over pixel frames "p" as 0 and 1, "f": each stretch of frames at 0.5 or more is one span of `binary`."""
    on = torch.cat([torch.zeros(1), (curve >= 0.5 - ROUNDING).float(), torch.zeros(1)]).diff()
    latent_frames = latent_frames_of(len(curve))
    mask = torch.zeros(latent_frames)
    for start, end in zip((on > 0).nonzero().flatten().tolist(), (on < 0).nonzero().flatten().tolist()):
        mask = torch.maximum(mask, binary(latent_weights(start, end, latent_frames)))
    return mask
