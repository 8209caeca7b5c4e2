"""The host's CLIP_VISION as a frozen backbone of a classifier: pictures in, tokens out, differentiable in the pictures."""

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from torch import Tensor, nn
from torch.nn import functional

from .gradient import frozen_weights, replaced


class FrozenVision:
    """`name` and `width` say which one a classifier was trained with. Works under inference mode, with weights on any device."""

    def __init__(self, clip_vision: Any, node: str):
        if not isinstance(clip_vision.model, comfy.clip_model.CLIPVisionModelProjection):
            kind = type(clip_vision.model).__name__
            raise ValueError(f"{node}: input `clip_vision` = {kind}: connect a CLIP or SigLIP vision model (Load CLIP Vision)")
        self.clip_vision, config = clip_vision, clip_vision.config if hasattr(clip_vision, "config") else {}
        encoder = clip_vision.model.vision_model.encoder
        self.width = int(encoder.layers[0].layer_norm1.weight.shape[0])
        self.size = int(config.get("image_size", clip_vision.image_size))
        self.name = f"{clip_vision.model_type}, width {self.width}, {len(encoder.layers)} layers, {self.size} pixels"

    def __call__(self, pictures: Tensor) -> Tensor:
        """ "n 3 h w" in 0..1 -> last hidden states "n t d" in fp32, on the device of the pictures.

        Not the host's own preprocessing: it rounds to bytes, and rounding has no gradient.
        """
        comfy.model_management.load_model_gpu(self.clip_vision.patcher)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.clip_vision.image_mean, self.clip_vision.image_std))
        device = self.clip_vision.load_device
        scaled = functional.interpolate(pictures.to(device), (self.size, self.size), mode="bilinear", align_corners=False)
        scaled = (scaled - mean.to(scaled)) / std.to(scaled)
        model = self.clip_vision.model
        with replaced(comfy.model_management, "in_training", True), frozen_weights(model), layers_may_write_in_place(model):
            hidden = model(pixel_values=scaled, intermediate_output=-2)[0]
        return hidden.float().to(pictures.device)


@contextlib.contextmanager
def layers_may_write_in_place(model: nn.Module) -> Iterator[None]:
    """CLIP's layers add to their input where it lies, after a norm has saved it for the backward pass: give the norms copies."""
    with contextlib.ExitStack() as hooks:
        for module in model.modules():
            if type(module).__name__ == "LayerNorm":
                hooks.callback(module.register_forward_pre_hook(lambda _, inputs: tuple(one.clone() for one in inputs)).remove)
        yield
