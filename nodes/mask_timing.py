"""Mask to Timing: a phrase follows the masks of a batch, one for each frame."""

from typing import Literal

from comfy_api.latest import io
from torch import Tensor

from ..guidance.mask_sources import Fit, FrameValues, Timing, full_range
from .timing_socket import first_inputs, last_inputs, made, timing_output

NAME = "Mask to Timing"


def frame_value_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "range", options=["as is", "stretch"], default="as is",
            tooltip="as is: values lie in 0..1 already. stretch: the lowest becomes 0 and the highest 1.",
        ),
        io.Combo.Input(
            "fit", options=["exact", "stretch", "hold"], default="exact",
            tooltip="If there is not one for each frame (or each latent frame) of the video: exact refuses, stretch spreads them over the "
            "video, hold cuts them or holds the last.",
        ),
    ]


class MaskToTiming(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorMaskToTiming",
            display_name=NAME,
            category="Wan Conductor",
            description="When a phrase is to be seen, from a batch of masks: one for each frame of the video, or for each latent frame.",
            search_aliases=["mask batch", "mask to float", "temporal mask", "mask schedule", "fade mask", "timing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *first_inputs(),
                io.Mask.Input("masks", tooltip="One mask for each frame: white, and the phrase is to be seen; black, and it is not."),
                io.Combo.Input(
                    "measure", options=["mean", "max"], default="mean",
                    tooltip="What counts of a mask: its mean brightness, or its brightest pixel (seen as soon as anything is masked).",
                ),
                *frame_value_inputs(),
                *last_inputs(),
            ],
            outputs=[timing_output()],
        )

    @classmethod
    def execute(
        cls, phrase: str, masks: Tensor, measure: Literal["mean", "max"] = "mean", range: Literal["as is", "stretch"] = "as is",
        fit: Fit = "exact", strength: float = 1.0, length: int = 0, fps: float = 16.0, timing: Timing | None = None,
    ) -> io.NodeOutput:
        pixels = masks.detach().float().cpu().reshape(masks.shape[0] if masks.ndim > 2 else 1, -1)
        values = tuple((pixels.mean(1) if measure == "mean" else pixels.amax(1)).tolist())
        source = FrameValues(full_range(values) if range == "stretch" else values, fit, f"{NAME}: input `masks`")
        return made(cls, NAME, phrase, source, strength, length, fps, timing)
