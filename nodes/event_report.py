"""Event Report: the picture of a run with Event Schedule, motion masks and event attention over the frames."""

import json

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.event_subjects import NAME
from ..guidance.event_trace import EventRecord
from ..guidance.report import GuidanceReport, PatchReport, finite
from .report_output import pictures_and_numbers, report_input


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
                io.String.Input(
                    "save_prefix", default="", advanced=True,
                    tooltip="Also saves the pictures (.png) and the numbers (.json) under this name in the output folder, for example "
                    "wan/events. Empty: preview only.",
                ),
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
    from ..guidance.pictures import message

    pictures = []
    for patch in patches:
        record = EventRecord.from_dict(patch.measured or {})
        steps = f"{patch.model}, step{'s' * (len(patch.steps) > 1)} {steps_of(patch)}"
        pictures += [event_figure(record, sample, title=steps) for sample in range(max(1, len(record.samples)))]
    if not pictures:
        skipped = "; ".join(dict.fromkeys(entry.reason for entry in report.skipped if entry.reason.startswith(NAME)))
        why = skipped or "no step lay in its part of the schedule, or it is not on the model"
        pictures = [message(f"{NAME} did not act in this run: {why}", 700, 450)]
    height = max(len(picture) for picture in pictures)
    return np.stack([np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in pictures])


def steps_of(patch: PatchReport) -> str:
    """As people count: `1 - 4`."""
    first, last = patch.steps[0] + 1, patch.steps[-1] + 1
    return str(first) if first == last else f"{first} - {last}"
