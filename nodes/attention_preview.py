"""Attention Preview: heat over the decoded frames, where and when the model looked for each phrase."""

import json

import numpy as np
import torch
from comfy_api.latest import io

from ..guidance.latent_time import pixel_frames
from ..guidance.report import GuidanceReport, finite
from .report_output import pictures_and_numbers, report_input, save_prefix_input

NAME = "Attention Preview"


class AttentionPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorAttentionPreview",
            display_name=NAME,
            category="Wan Conductor",
            description="A filmstrip for every phrase: where the model looked for it in each latent frame, as heat over the decoded video, "
            "before and after guidance. Connect Guided KSampler's report and the frames decoded from its latent.",
            search_aliases=["attention map", "heat map", "filmstrip", "cross attention", "temporal mask preview", "guidance report"],
            is_output_node=True,
            inputs=[
                report_input(),
                io.Image.Input(
                    "images",
                    tooltip="All frames that VAE Decode makes of the same sampler's latent, at any size; no frame cut or added.",
                ),
                save_prefix_input("wan/attention"),
            ],
            outputs=[
                io.Image.Output(tooltip="One picture for each video of the batch."),
                io.String.Output(
                    display_name="JSON", tooltip="Per video and phrase: the mask, and its mean share of attention in each latent frame."
                ),
            ],
        )

    @classmethod
    def execute(cls, report: GuidanceReport, images: torch.Tensor, save_prefix: str = "") -> io.NodeOutput:
        from ..guidance.pictures import message  # matplotlib takes a second to import, too much for the host's start
        from ..guidance.preview_pictures import preview_figure, preview_numbers

        videos = videos_of(images, report) if report.maps else []
        pictures = [preview_figure(report, video, sample) for sample, video in enumerate(videos)]
        pictures = np.stack(pictures or [message(f"No attention was measured in this run: {report.summary()}", 700, 450)])
        told = [preview_numbers(report, sample) for sample in range(len(videos))]
        numbers = json.dumps(finite(told), indent=1, allow_nan=False, ensure_ascii=False)
        return pictures_and_numbers(cls, torch.from_numpy(pictures).float() / 255, numbers, save_prefix)


def videos_of(images: torch.Tensor, report: GuidanceReport) -> np.ndarray:
    """The decoded batch "(b t) h w c", video after video as VAE Decode gives it, as "b t h w 3"; refuses one of another length."""
    length = pixel_frames(report.latent_frames)
    if len(images) != report.samples * length:
        videos = "a video" if report.samples == 1 else f"{report.samples} videos"
        raise ValueError(
            f"{NAME}: input `images` = {len(images)} frames, but the report is of {videos} of {report.latent_frames} latent frames, "
            f"{report.samples * length} frames in all: connect VAE Decode of the same Guided KSampler, before frames are cut or added."
        )
    return images[..., :3].float().cpu().numpy().reshape(report.samples, length, *images.shape[1:3], 3)
