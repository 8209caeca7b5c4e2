"""Event Report: the picture of a run with Event Schedule, motion masks and event attention over the frames."""

import json

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.event_subjects import NAME
from ..guidance.event_trace import EventRecord
from ..guidance.report import GuidanceReport, PatchReport, finite
from .report_output import as_batch, pictures_and_numbers, report_input, save_prefix_input


class EventReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorEventReport",
            display_name="Event Report",
            category="Wan Conductor",
            description="Draws what Event Schedule did: where each subject was found in every frame, and how much attention each event's "
            "words got there before and after. Connect the report of Guided KSampler.",
            search_aliases=["ts-attn plot", "motion mask", "event attention", "guidance report", "event schedule report"],
            is_output_node=True,
            inputs=[
                report_input(),
                save_prefix_input("wan/events"),
            ],
            outputs=[
                io.Image.Output(tooltip="One picture for each video of the batch and each expert that was controlled."),
                io.String.Output(
                    display_name="JSON", tooltip="The numbers of the pictures: motion mask, spans, and attention before and after."
                ),
            ],
        )

    @classmethod
    def execute(cls, report: GuidanceReport, save_prefix: str = "") -> io.NodeOutput:
        patches = [patch for patch in report.patches if patch.name == NAME and patch.measured is not None]
        images = torch.from_numpy(drawn_together(patches, report)).float() / 255
        numbers = json.dumps(finite([vars(patch) for patch in patches]), indent=1, allow_nan=False, ensure_ascii=False)
        return pictures_and_numbers(cls, images, numbers, save_prefix)


def drawn_together(patches: list[PatchReport], report: GuidanceReport) -> np.ndarray:
    """A picture for each patch and each of its videos, "n h w 3" uint8; shorter ones get white below."""
    from ..guidance.event_pictures import event_figure  # matplotlib takes a second to import, too much for the host's start

    pictures = []
    for patch in patches:
        record = EventRecord.from_dict(patch.measured or {})
        steps = f"{patch.model}, step{'s' * (len(patch.steps) > 1)} {steps_of(patch)}"
        pictures += [event_figure(record, sample, title=steps) for sample in range(max(1, len(record.samples)))]
    return as_batch(pictures, report, NAME, "no step lay in its part of the schedule, or it is not on the model")


def steps_of(patch: PatchReport) -> str:
    """As people count: `1 - 4`."""
    first, last = patch.steps[0] + 1, patch.steps[-1] + 1
    return str(first) if first == last else f"{first} - {last}"
