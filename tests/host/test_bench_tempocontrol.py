"""`dev.py bench tempocontrol` end to end on the playground: prompts, the host's sampling, video files, scores."""

import json

import folder_paths
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from wan_conductor.development.benchmarks import tempocontrol
from wan_conductor.development.tempocontrol import sampling
from wan_conductor.development.tempocontrol.prompt_sets import SETS, BenchmarkPrompt
from wan_conductor.guidance.budget import PRESETS
from wan_conductor.host.geometry import is_wan
from wan_conductor.playground import network, sockets

import nodes

MASK = (0, 0, 0, 1, 1)
PROMPTS = [
    BenchmarkPrompt("00_circle", "a red circle on the left", "red circle", MASK, temporal_class="red"),
    BenchmarkPrompt("01_square", "a blue square on the right", "blue square", MASK, temporal_class="blue"),
]
WEIGHTS = ["--model", "wan.safetensors", "--text-encoder", "umt5.safetensors", "--vae", "vae.safetensors"]
SMALL = ["--steps", "3", "--width", "64", "--height", "64", "--sampler", "euler"]


class Colours:
    """The detector's stand-in."""

    def __init__(self, file):
        self.file = file

    def check(self, classes):
        assert classes <= {"red", "blue"}

    def __call__(self, frame):
        red, green, blue = (frame[..., channel].astype(int) for channel in range(3))
        return {name for name, seen in (("red", red - blue > 100), ("blue", blue - red > 100)) if seen.any()}


@pytest.fixture(autouse=True)
def playground(monkeypatch):
    monkeypatch.setattr(tempocontrol, "YoloDetector", Colours)
    monkeypatch.setattr(tempocontrol, "SETS", {"one_object": lambda: PROMPTS})


@pytest.fixture
def loads(monkeypatch):
    """The playground in place of weights; the files that were asked for, load by load."""
    asked = []

    def load(*files):
        asked.append(files)
        return sampling.Sockets(sockets.load_model(), sockets.load_clip(), sockets.load_vae())

    monkeypatch.setattr(sampling, "load", load)
    return asked


def run(capsys, *arguments):
    tempocontrol.main(list(arguments))
    return capsys.readouterr().out.splitlines()


@pytest.mark.outside_inference_mode
def test_it_samples_what_is_missing_and_scores_it_beside_the_paper(loads, capsys, tmp_path):
    lines = run(capsys, *WEIGHTS, *SMALL, "--videos", str(tmp_path), "--preset", "fast")
    assert loads == [("wan.safetensors", "umt5.safetensors", "vae.safetensors", 3.0)]
    videos = {path.relative_to(tmp_path).as_posix(): tempocontrol.read_video(path) for path in tmp_path.rglob("*.mp4")}
    assert sorted(videos) == [f"one_object/{run}/{name}.mp4" for run in ("guided", "plain") for name in ("00_circle", "01_square")]
    assert {video.shape for video in videos.values()} == {(17, 64, 64, 3)}
    assert not np.array_equal(videos["one_object/plain/00_circle.mp4"], videos["one_object/guided/00_circle.mp4"])
    told = json.loads(lines[-1])
    assert told["paper"]["one_object"]["plain"] == [63.94, 67.38, 60.5] and told["detector"] == "yolov10n.pt"
    for which in ("plain", "guided"):
        right = []
        for name, colour in (("00_circle", "red"), ("01_square", "blue")):
            frames = videos[f"one_object/{which}/{name}.mp4"][[0, 4, 8, 12, 16]]
            right += [(colour in Colours("")(frame)) == bool(wanted) for frame, wanted in zip(frames, MASK)]
        assert told["one_object"][which]["accuracy"] == round(100 * np.mean(right), 2)
        assert told["one_object"][which]["videos"] == 2 and told["one_object"][which]["missing"] == 0
    assert lines[0].startswith("| set | run |") and len([line for line in lines if line.startswith("| one_object |")]) == 2

    (tmp_path / "one_object" / "plain" / "01_square.mp4").unlink()
    partly = json.loads(run(capsys, "--videos", str(tmp_path), "--json")[-1])  # finished videos alone: nothing is loaded
    assert len(loads) == 1 and (partly["one_object"]["plain"]["videos"], partly["one_object"]["plain"]["missing"]) == (1, 1)
    run(capsys, *WEIGHTS, *SMALL, "--videos", str(tmp_path), "--json")
    assert len(loads) == 2 and len(list(tmp_path.rglob("*.mp4"))) == 4
    run(capsys, *WEIGHTS, *SMALL, "--videos", str(tmp_path), "--json")
    assert len(loads) == 2, "nothing was missing"


def test_weights_are_loaded_by_the_hosts_own_loaders_and_sampled_with_the_papers_shift(monkeypatch, tmp_path):
    weights = network.load_weights("wan")
    text = weights["text_embedding.0.weight"]
    # as wide as the host expects Wan's text
    weights["text_embedding.0.weight"] = torch.cat([text, text.new_zeros(len(text), 4096 - text.shape[1])], 1)
    save_file(weights, tmp_path / "wide_wan.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], {".safetensors"}))
    asked = []
    # the playground's text encoder and codec are none that the host detects in a file
    monkeypatch.setattr(nodes.CLIPLoader, "load_clip", lambda self, name, kind: asked.append((name, kind)) or ("clip",))
    monkeypatch.setattr(nodes.VAELoader, "load_vae", lambda self, name: asked.append(name) or ("vae",))
    loaded = sampling.load("wide_wan.safetensors", "umt5.safetensors", "wan_vae.safetensors", 3.0)
    assert is_wan(loaded.model) and loaded.model.get_model_object("model_sampling").shift == 3.0
    assert (loaded.clip, loaded.vae, asked) == ("clip", "vae", [("umt5.safetensors", "wan"), "wan_vae.safetensors"])


def test_the_prompts_are_listed_without_loading_anything(loads, capsys, monkeypatch):
    monkeypatch.setattr(tempocontrol, "SETS", SETS)
    told = [json.loads(line) for line in run(capsys, "--list")]
    assert len(told) == 80 + 82 + 100 and not loads
    assert [line["set"] for line in (told[0], told[-1])] == ["one_object", "movement"]
    assert all(len(line["mask"]) == 21 for line in told)
    assert len(run(capsys, "--list", "--sets", "movement", "--limit", "3")) == 3


def test_without_videos_or_weights_it_says_what_to_give(capsys, tmp_path):
    with pytest.raises(SystemExit):
        tempocontrol.main(["--videos", str(tmp_path)])
    assert f"no videos under {tmp_path}: give --model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tempocontrol.main(["--model", "wan.safetensors"])
    assert "sampling takes all of" in capsys.readouterr().err


def test_the_preset_paper_is_the_papers_recipe():
    mask, budget = sampling.Recipe().guidance("one_object", PROMPTS[0])
    assert (mask.tau_corr, mask.anchor, mask.lambda_magnitude, mask.lambda_entropy) == (0.9, False, 0.3, 10.0)
    assert (budget.iterations, budget.step_size, budget.depth, budget.end_percent) == (10, 5e-4, 1.0, 0.1)
    assert sampling.Recipe().guidance("two_objects", PROMPTS[0])[1].step_size == 1e-3
    mask, budget = sampling.Recipe().guidance("movement", PROMPTS[0])
    assert (mask.tau_corr, budget.step_size) == (0.85, 1e-3)
    mask, budget = sampling.Recipe("fast").guidance("movement", PROMPTS[0])
    assert (mask.tau_corr, mask.anchor, budget) == (0.9, True, PRESETS["fast"])
