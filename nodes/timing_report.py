"""Timing Report: the picture of a guided run, timeline against attention, before and after."""

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.report import GuidanceReport
from .report_output import pictures_and_numbers, report_input, save_prefix_input


class TimingReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorTimingReport",
            display_name="Timing Report",
            category="Wan Conductor",
            description="Draws what guidance did: for every phrase its mask and the model's attention to it before and after, in the "
            "guided steps. Connect the report of Guided KSampler.",
            search_aliases=["temporal mask plot", "attention plot", "guidance report", "tempocontrol report", "timeline report"],
            is_output_node=True,
            inputs=[
                report_input(),
                save_prefix_input("wan/timing"),
            ],
            outputs=[
                io.Image.Output(tooltip="One picture for each video of the batch."),
                io.String.Output(display_name="JSON", tooltip="All numbers of the run: masks, attention, losses of every iteration, cost."),
            ],
        )

    @classmethod
    def execute(cls, report: GuidanceReport, save_prefix: str = "") -> io.NodeOutput:
        from ..guidance.bias_pictures import bias_figure, biased
        from ..guidance.pictures import timing_figure  # matplotlib takes a second to import, too much for the host's start

        if biased(report) and not report.steps:
            pictures = bias_figure(report)[None]
        else:
            pictures = np.stack([timing_figure(report, sample) for sample in range(report.samples)])
        images = torch.from_numpy(pictures).float() / 255
        numbers = report.to_json(indent=1)
        return pictures_and_numbers(cls, images, numbers, save_prefix)
