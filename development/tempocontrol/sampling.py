"""Videos of the benchmark through the host's own loaders and sampling, plain and with Temporal Mask."""

import importlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...guidance.budget import PRESETS, GuidanceBudget
from ...guidance.temporal_mask import TemporalMask
from ...host.attach import attach
from ...host.stages import Settings, Stage, sample_stages
from ...host.tokens import encode_with_tokens
from .prompt_sets import BenchmarkPrompt

FPS = 16


@dataclass(frozen=True)
class Recipe:
    """The paper's sampling; `preset`: its guidance too, or this pack's default."""

    preset: str = "paper"
    steps: int = 50
    cfg: float = 6.0
    shift: float = 3.0
    sampler: str = "uni_pc"
    scheduler: str = "simple"
    seed: int = 42
    width: int = 832
    height: int = 480
    negative: str = ""

    def guidance(self, of_set: str, prompt: BenchmarkPrompt) -> tuple[TemporalMask, GuidanceBudget]:
        """As in the paper: no anchor, steps of 1e-3 but for one object (section 4), tau_corr 0.85 for movement (official code)."""
        mask, budget = TemporalMask(prompt.timeline), PRESETS[self.preset]
        if self.preset != "paper":
            return mask, budget
        mask = replace(mask, anchor=False, tau_corr=0.85 if of_set == "movement" else 0.9)
        return mask, budget if of_set == "one_object" else replace(budget, step_size=1e-3)


@dataclass(frozen=True)
class Sockets:
    """What the loaders of a graph hold."""

    model: Any
    clip: Any
    vae: Any


def load(model: str, text_encoder: str, vae: str, shift: float) -> Sockets:
    """Files in the model folders of the ComfyUI that is used (COMFYUI_PATH), loaded by its own nodes."""
    host, advanced = importlib.import_module("nodes"), importlib.import_module("comfy_extras.nodes_model_advanced")
    (loaded,) = host.UNETLoader().load_unet(model, "default")
    (loaded,) = advanced.ModelSamplingSD3().patch(loaded, shift)
    return Sockets(loaded, *host.CLIPLoader().load_clip(text_encoder, "wan"), *host.VAELoader().load_vae(vae))


@torch.inference_mode()
def sample_video(sockets: Sockets, of_set: str, prompt: BenchmarkPrompt, guided: bool, recipe: Recipe) -> np.ndarray:
    """4F - 3 frames "t h w 3" uint8 for the F latent frames of the prompt's mask."""
    mask, budget = recipe.guidance(of_set, prompt)
    model = attach(sockets.model, mask) if guided else sockets.model
    positive, negative = (encode_with_tokens(sockets.clip, text) for text in (prompt.prompt, recipe.negative))
    settings = Settings(recipe.seed, recipe.steps, recipe.sampler, recipe.scheduler, positive, negative, budget)
    empty = {"samples": torch.zeros(1, 16, len(prompt.mask), recipe.height // 8, recipe.width // 8)}
    latent, _ = sample_stages([Stage(model, "model", recipe.cfg, 0, recipe.steps, True, True)], empty, settings)
    images = sockets.vae.decode(latent["samples"]).reshape(-1, recipe.height, recipe.width, 3)
    return (images.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def write_video(path: Path, frames: np.ndarray) -> None:
    """An MP4 that appears whole or not at all, so that a run which was cut off goes on where it ended."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished_{path.name}")
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(unfinished, path)
