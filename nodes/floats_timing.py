"""Floats to Timing: a phrase follows a list of numbers, one for each frame."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..guidance.mask_sources import FrameValues, full_range
from .mask_timing import frame_value_inputs
from .timing_socket import first_inputs, last_inputs, made, timing_output

NAME = "Floats to Timing"


class FloatsToTiming(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorFloatsToTiming",
            display_name=NAME,
            category="Wan Conductor",
            description="When a phrase is to be seen, from a list of numbers: one for each frame of the video, or for each latent frame.",
            search_aliases=["float list", "floats", "keyframes", "float schedule", "timing"],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,  # whether another pack hands on one list or an execution list, all of it arrives at once
            inputs=[
                *first_inputs(),
                io.MultiType.Input(
                    "values", [io.Float, io.Int],
                    tooltip="One number for each frame: 1, and the phrase is to be seen; 0, and it is not.",
                ),
                *frame_value_inputs(),
                *last_inputs(),
            ],
            outputs=[timing_output()],
        )

    @classmethod
    def execute(
        cls, phrase: list, values: list, range: Sequence = ("as is",), fit: Sequence = ("exact",), strength: Sequence = (1.0,),
        length: Sequence = (0,), fps: Sequence = (16.0,), timing: list | None = None,
    ) -> io.NodeOutput:
        numbers = tuple(numbers_in(values))
        source = FrameValues(full_range(numbers) if range[0] == "stretch" else numbers, fit[0], f"{NAME}: input `values`")
        return made(cls, NAME, phrase[0], source, strength[0], length[0], fps[0], timing[0] if timing else None)


def numbers_in(values: Any) -> list[float]:
    """Every number in lists of lists, arrays and tensors, in order."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return [number for value in values for number in numbers_in(value)]
    try:
        return [float(values)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{NAME}: input `values` holds {values!r}: must hold numbers only") from error
