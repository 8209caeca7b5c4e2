"""Timing Report in the host: a picture per video, shown on the node, saved where the host saves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.optimise import optimise_latent
from wan_conductor.guidance.report import GuidanceReport, GuidedStep, PatchReport, SkippedStep
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.nodes.timing_report import TimingReport

pytestmark = pytest.mark.usefixtures("host_folders")


@pytest.fixture
def report():
    objective = TemporalMask(parse_timeline("1s - 2s cat"), lambda_entropy=0.1)
    with torch.inference_mode(False), torch.enable_grad():
        result = optimise_latent(torch.randn(2, 3, 13, 2, 2), lambda z: z.softmax(1)[:, :1], [objective], GuidanceBudget(iterations=2))
    steps = [GuidedStep(0, 1.0, "model", [["cat"]], 1.0, True, result.history)]
    return GuidanceReport(fps=16.0, latent_frames=13, sampler="euler", steps=steps)


def shown(output):
    return output.ui.as_dict()["images"]


def test_it_shows_one_picture_for_each_video_and_saves_nothing_unasked(report, host_folders):
    output = TimingReport.execute(report)
    images, numbers = output.result
    assert images.shape == (2, 450, 700, 3)
    assert images.dtype == torch.float32
    assert 0 <= images.min() and images.max() <= 1
    assert [image["type"] for image in shown(output)] == ["temp", "temp"]
    assert GuidanceReport.from_json(numbers) == report
    assert list((host_folders / "output").iterdir()) == []


def test_a_prefix_saves_picture_and_numbers_beside_each_other_and_never_overwrites(report, host_folders):
    for _ in range(2):
        output = TimingReport.execute(report, "wan/timing")
    names = sorted(path.name for path in (host_folders / "output" / "wan").iterdir())
    pictures = [f"timing_0000{number}_.png" for number in (1, 2, 3, 4)]
    assert names == sorted([*pictures, "timing_00001_.json", "timing_00003_.json"])
    first = host_folders / "output" / "wan" / "timing_00003_"
    assert json.loads(first.with_suffix(".json").read_text(encoding="utf-8"))["sampler"] == "euler"
    saved = np.asarray(Image.open(first.with_suffix(".png")))
    np.testing.assert_allclose(saved, output.result[0][0].numpy() * 255, atol=1)
    assert [image["type"] for image in shown(output)] == ["output", "output"]


def test_a_prefix_outside_the_output_folder_is_refused(report, host_folders):
    with pytest.raises(Exception, match="outside the output folder"):
        TimingReport.execute(report, "../timing")
    assert not list(Path(host_folders).glob("*.png"))


def test_a_run_without_guided_steps_shows_why():
    empty = GuidanceReport(fps=16.0, latent_frames=1, skipped=[SkippedStep(None, "one latent frame")])
    images, numbers = TimingReport.execute(empty).result
    assert images.shape == (1, 450, 700, 3)
    assert json.loads(numbers)["skipped"][0]["reason"] == "one latent frame"


def test_a_run_in_mode_bias_shows_mask_and_bias_of_every_phrase_and_expert():
    measured = {"phrases": ["cat", "dog"], "mask": [[0.0] * 4 + [1.0] * 9, [1.0] * 13], "bias": [[-2.0] * 4 + [2.0] * 9, [1.0] * 13]}
    patches = [PatchReport("Temporal Mask", model, [0, 1], measured) for model in ("high noise", "low noise")]
    images, numbers = TimingReport.execute(GuidanceReport(fps=16.0, latent_frames=13, patches=patches)).result
    assert images.shape == (1, 60 + 74 + 4 * 120, 700, 3)
    line = ((images[0] * 255 - torch.tensor([0xD5, 0x5E, 0x00])).abs().amax(-1) <= 4).nonzero().float()
    first = line[(line[:, 0] > 60) & (line[:, 0] < 150)]
    before, after = first[first[:, 1] < 250], first[first[:, 1] > 350]
    assert before[:, 0].mean() > after[:, 0].mean() + 40  # the bias rises with the mask: rows count downwards
    assert json.loads(numbers)["patches"][0]["measured"] == measured


def test_the_node_draws_at_the_end_of_a_graph():
    schema = TimingReport.GET_SCHEMA()
    assert schema.node_id == "WanConductorTimingReport"
    assert schema.is_output_node
    assert [entry.io_type for entry in schema.outputs] == ["IMAGE", "STRING"]
    assert schema.inputs[0].io_type == "GUIDANCE_REPORT"
