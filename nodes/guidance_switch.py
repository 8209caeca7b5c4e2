"""Guidance Switch: all guidance of a MODEL on or off at one place, to compare."""

from typing import Any

from comfy_api.latest import io

from ..host.attach import without_guidance
from .pair import low_noise_or_blocker, pair_inputs, pair_outputs, require_wan_pair

NAME = "Guidance Switch"


class GuidanceSwitch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorGuidanceSwitch",
            display_name=NAME,
            category="Wan Conductor",
            description="Turns all guidance that the nodes before it put on a model off, and on again: the same seed with and without, for "
            "comparing. LoRAs and patches of others stay.",
            search_aliases=["bypass guidance", "a/b", "compare", "toggle", "on off", "without guidance", "plain"],
            inputs=[
                *pair_inputs(),
                io.Boolean.Input(
                    "guidance", default=True, label_on="on", label_off="off",
                    tooltip="On: the models pass through. Off: nothing of Wan Conductor acts on them, as if its nodes were not there.",
                ),
            ],
            outputs=pair_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, guidance: bool, model_low_noise: Any = None) -> io.NodeOutput:
        require_wan_pair(model, model_low_noise, NAME)
        if not guidance:
            model, model_low_noise = without_guidance(model), model_low_noise and without_guidance(model_low_noise)
        return io.NodeOutput(model, low_noise_or_blocker(model_low_noise, NAME))
