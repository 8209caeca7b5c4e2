"""Blend Report: the picture of a run with Multi Prompt Blend, its prompts, its windows, and where neighbouring windows disagree."""

import json

import torch
from comfy_api.latest import io

from ..guidance.blend_record import BlendRecord
from ..guidance.kv_sharing import NAME
from ..guidance.report import GuidanceReport, finite
from .event_report import steps_of
from .report_output import as_batch, pictures_and_numbers, report_input, save_prefix_input


class BlendReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorBlendReport",
            display_name="Blend Report",
            category="Wan Conductor",
            description="Draws what Multi Prompt Blend did: each prompt's share of the video over its time, the windows, and how unlike "
            "neighbouring windows were where they overlap, which is where a jump would be. Connect the report of Guided KSampler.",
            search_aliases=["ditctrl plot", "context windows", "seams", "guidance report", "multi prompt report"],
            is_output_node=True,
            inputs=[
                report_input(),
                save_prefix_input("wan/blend"),
            ],
            outputs=[
                io.Image.Output(tooltip="One picture for each expert that was blended."),
                io.String.Output(
                    display_name="JSON",
                    tooltip="The numbers: windows, shares of the prompts, passes, bytes of keys and values, unlikeness at every step.",
                ),
            ],
        )

    @classmethod
    def execute(cls, report: GuidanceReport, save_prefix: str = "") -> io.NodeOutput:
        from ..guidance.blend_pictures import blend_figure  # matplotlib takes a second to import, too much for the host's start

        patches = [patch for patch in report.patches if patch.name == NAME and patch.measured is not None]
        pictures = []
        for patch in patches:
            steps = f"{patch.model}, step{'s' * (len(patch.steps) > 1)} {steps_of(patch)}"
            pictures.append(blend_figure(BlendRecord.from_dict(patch.measured or {}), report.fps, title=steps))
        images = torch.from_numpy(as_batch(pictures, report, NAME, "it is not on the model, or has one window")).float() / 255
        numbers = json.dumps(finite([vars(patch) for patch in patches]), indent=1, allow_nan=False, ensure_ascii=False)
        return pictures_and_numbers(cls, images, numbers, save_prefix)
