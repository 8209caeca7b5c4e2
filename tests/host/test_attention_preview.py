"""Attention Preview in the host: the maps that a run keeps are those that its numbers were made of, and the node draws them."""

import json

import numpy as np
import pytest
import tiny_wan
import torch
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.host.attach import attach
from wan_conductor.host.stages import Settings, Stage, sample_stages
from wan_conductor.nodes.attention_preview import AttentionPreview

pytestmark = pytest.mark.usefixtures("host_folders")
BUDGET = GuidanceBudget(end_percent=0.4, iterations=3, step_size=0.05, depth=1.0)
FRAMES, STEPS = 5, 5
TIMELINE = "50% - end  cat\n0% - 50%  jumps"


@pytest.fixture(scope="module")
def report():
    """Of a run of Guided KSampler with two videos of 5 latent frames on a grid of 2 x 3 tokens."""
    with torch.inference_mode():
        model = attach(attach(tiny_wan.load(layers=2), temporal_mask(TIMELINE)), BUDGET)
        settings = Settings(1, STEPS, "euler", "simple", prompt(), prompt("bad", seed=2), None)
        latent = {"samples": torch.zeros(2, 16, FRAMES, 4, 6)}
        return sample_stages([Stage(model, "model", 3.0, 0, STEPS, True, True)], latent, settings)[1]


def scaled(maps):
    """Attention of each latent frame as Timing Report draws it: mean over the picture, 0..1 over the frames after the first."""
    a = maps.double().mean((-2, -1))
    low, high = a[..., 1:].amin(-1, keepdim=True), a[..., 1:].amax(-1, keepdim=True)
    return ((a - low) / (high - low)).clamp(0, 1)


def test_the_maps_of_a_run_are_those_that_its_numbers_were_made_of(report):
    assert [step.step for step in report.steps] == [0, 1] and list(report.maps) == [PhraseRef("cat"), PhraseRef("jumps")]
    for place, maps in enumerate(report.maps.values()):
        for kept, step in ((maps.first, report.steps[0]), (maps.last, report.steps[-1])):
            assert kept.step == step.step and kept.before.shape == kept.after.shape == (2, FRAMES, 2, 3)
            assert kept.before.dtype == torch.float16 and kept.before.device.type == "cpu"
            for sample in range(2):
                traces = (step.loop.iterations[0], step.loop.after(sample))
                for values, record in zip((kept.before, kept.after), traces):
                    told = torch.tensor(record.objectives[0].traces["attention"][sample][place])
                    # attention varies by few per cent here, and fp16 rounds it to a tenth of one: a share of the scale
                    torch.testing.assert_close(scaled(values[sample]), told.double(), atol=0.05, rtol=0)


def test_maps_differ_between_phrases_videos_and_before_and_after(report):
    cat, jumps = report.maps.values()
    assert not torch.equal(cat.first.before, jumps.first.before)
    assert not torch.equal(cat.first.before[0], cat.first.before[1])
    assert not torch.equal(cat.first.before, cat.first.after)


def test_a_run_under_a_stock_sampler_keeps_none(monkeypatch):
    monkeypatch.setattr("wan_conductor.guidance.phrase_maps.small", lambda maps: pytest.fail("copied"))
    model = attach(attach(tiny_wan.load(layers=2), temporal_mask()), BUDGET)
    noise = tiny_wan.latent_like(frames=FRAMES, height=4, width=4)
    assert tiny_wan.sample(model, prompt(), prompt("bad", seed=2), noise, steps=STEPS, cfg=3.0, sampler="euler").isfinite().all()


def test_the_node_shows_one_picture_for_each_video_and_saves_nothing_unasked(report, host_folders):
    images = torch.rand(2 * 17, 32, 48, 3)
    output = AttentionPreview.execute(report, images)
    pictures, numbers = output.result
    assert pictures.shape[0] == 2 and pictures.shape[2:] == (1200, 3) and pictures.dtype == torch.float32
    assert not torch.equal(pictures[0], pictures[1])
    told = json.loads(numbers)
    assert [[one["phrase"] for one in video] for video in told] == [["cat", "jumps"]] * 2
    assert told[0][0]["mask"][-1] == 1.0 and told[0][1]["mask"][-1] == 0.0
    assert len(output.ui.as_dict()["images"]) == 2
    assert list((host_folders / "output").iterdir()) == []


def test_a_prefix_saves_pictures_and_numbers(report, host_folders):
    AttentionPreview.execute(report, torch.rand(34, 32, 48, 4), "wan/attention")
    names = sorted(path.name for path in (host_folders / "output" / "wan").iterdir())
    assert names == ["attention_00001_.json", "attention_00001_.png", "attention_00002_.png"]


def test_each_video_is_drawn_from_its_own_frames(report):
    images = torch.zeros(34, 32, 48, 3)
    images[17:, ..., 1] = 1.0
    first, second = (np.round(picture.numpy() * 255) for picture in AttentionPreview.execute(report, images).result[0])
    green = [(picture == (0, 255, 0)).all(-1).sum() for picture in (first, second)]
    assert green[0] == 0 and green[1] > 50_000


@pytest.mark.parametrize("count", [17, 33, 35, 10])
def test_frames_that_are_not_the_runs_are_refused_with_the_remedy(report, count):
    with pytest.raises(ValueError, match=rf"Attention Preview: input `images` = {count} frames.* 34 frames in all: connect VAE Decode"):
        AttentionPreview.execute(report, torch.zeros(count, 8, 8, 3))


def test_a_run_without_measured_attention_shows_why():
    empty = GuidanceReport(fps=16.0, latent_frames=5, maps={})
    pictures, numbers = AttentionPreview.execute(empty, torch.zeros(3, 8, 8, 3)).result
    assert pictures.shape == (1, 450, 700, 3) and json.loads(numbers) == []
