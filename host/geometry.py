"""Which models are Wan, which of their tokens are video, and which latent frames a model call holds."""

from collections.abc import Mapping
from typing import Any

import torch
from comfy.ldm.wan.model import SCAILWanModel, WanModel

from ..guidance.patch import VideoGrid


def wan_diffusion_model(model: Any) -> WanModel | None:
    """The WanModel inside a MODEL, or None; looks through a torch.compile wrapper."""
    diffusion_model = getattr(getattr(model, "model", None), "diffusion_model", None)
    diffusion_model = getattr(diffusion_model, "_orig_mod", diffusion_model)
    return diffusion_model if isinstance(diffusion_model, WanModel) else None


def is_wan(model: Any) -> bool:
    return wan_diffusion_model(model) is not None


def require_wan(model: Any, node_name: str, input_name: str = "model") -> None:
    """Raise ValueError, naming node, input and what was connected, unless `model` is a Wan video model."""
    if not is_wan(model):
        found = type(getattr(model, "model", model)).__name__
        raise ValueError(
            f"{node_name}: input `{input_name}` = {found}: this is not a Wan video model; connect a Wan 2.1 or Wan 2.2 diffusion model."
        )


def takes_start_image(model: Any) -> bool:
    """I2V models of Wan 2.1 and 2.2: their input has more channels than the latent."""
    return model.model.diffusion_model.in_dim > model.model.latent_format.latent_channels


def video_grid(diffusion_model: WanModel, x: torch.Tensor, call: Mapping[str, Any] | None = None) -> VideoGrid:
    """The grid of the latent `x` "b c f h w" as the diffusion model receives it; `call` holds the other keyword arguments of that call.

    Not from transformer_options["grid_sizes"], which several Wan classes leave out and which counts reference frames.
    """
    frames, height, width = (-(-size // patch) for size, patch in zip(x.shape[2:], diffusion_model.patch_size, strict=True))
    reference = (call or {}).get("reference_latent")
    offset = 0
    if reference is not None and isinstance(diffusion_model, SCAILWanModel):
        offset = reference.shape[2] * height * width  # reference frames are put before the video's; every other class appends them
    elif reference is not None and getattr(diffusion_model, "ref_conv", None) is not None:
        _, patch_height, patch_width = diffusion_model.patch_size
        offset = (reference.shape[-2] // patch_height) * (reference.shape[-1] // patch_width)
    return VideoGrid(frames, height, width, offset)


def window_frames(transformer_options: Mapping[str, Any], frames: int) -> tuple[int, ...]:
    """Latent frames of the whole video that a call over `frames` latent frames holds: all, or those of the host's context window.

    ComfyUI 0.30.0 puts a causal anchor frame before every window after the first.
    """
    window = transformer_options.get("context_window")
    if window is None:
        return tuple(range(frames))
    anchor = causal_anchor(window)
    indices = (*anchor, *window.index_list)
    if len(indices) != frames:
        raise RuntimeError(f"context window of {len(indices)} latent frames around a model call of {frames}")
    return indices


def causal_anchor(window: Any) -> tuple[int, ...]:
    """The anchor frame of a context window as a tuple of one, or of none."""
    anchor = getattr(window, "causal_anchor_index", None)
    return () if anchor is None or anchor < 0 else (anchor,)
