"""Composition Report: the picture of a run with Composition Guide, scores, paths and maps, before and after."""

import json

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.composition import NAME
from ..guidance.composition_record import CompositionRecord, composition_records
from ..guidance.report import GuidanceReport, finite
from .report_output import as_batch, pictures_and_numbers, report_input, save_prefix_input


class CompositionReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorCompositionReport",
            display_name="Composition Report",
            category="Wan Conductor",
            description="Draws what Composition Guide did: the score of every relation at each update, where each thing was over the "
            "frames before and after, and the model's attention to it. Connect the report of Guided KSampler.",
            search_aliases=["cvg plot", "relation score", "centroid path", "attention map", "guidance report", "composition guide report"],
            is_output_node=True,
            inputs=[
                report_input(),
                save_prefix_input("wan/composition"),
            ],
            outputs=[
                io.Image.Output(tooltip="One picture for each Composition Guide and each video of the batch."),
                io.String.Output(display_name="JSON", tooltip="The numbers of the pictures: scores of every update, centres, radii, maps."),
            ],
        )

    @classmethod
    def execute(cls, report: GuidanceReport, save_prefix: str = "") -> io.NodeOutput:
        records = list(composition_records(report))
        images = torch.from_numpy(drawn_together(records, report)).float() / 255
        told = json.dumps(finite([record.to_dict() for record in records]), indent=1, allow_nan=False, ensure_ascii=False)
        return pictures_and_numbers(cls, images, told, save_prefix)


def drawn_together(records: list[CompositionRecord], report: GuidanceReport) -> np.ndarray:
    """A picture for each record, "n h w 3" uint8; shorter ones get white below."""
    from ..guidance.composition_pictures import composition_figure  # matplotlib takes a second to import, too much for the host's start

    pictures = [composition_figure(record) for record in records]
    return as_batch(pictures, report, NAME, "no step lay in the guided span, or it is not on the model")
