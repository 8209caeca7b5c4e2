"""The demo's numbers and files, from what a server would have left: the sampling itself is in test_server_prompts."""

import json
import random
from types import SimpleNamespace

import comfy.latent_formats
import numpy as np
import pytest
import safetensors.torch
import torch
from wan_conductor.development import demo
from wan_conductor.playground import codec, network, world


def drawn(name):
    """A clip whose one object comes and goes, saved as SaveLatent does; and when it is there."""
    clips = iter(world.sample_clip(random.Random(seed), "one") for seed in range(100))
    clip = next(clip for clip in clips if 0 < clip.subjects[0].visible.sum() < 13)
    latent = codec.latent_of_canvas(world.draw([clip]), network.load_weights("codec"))
    safetensors.torch.save_file({"latent_tensor": comfy.latent_formats.Wan21().process_out(latent).contiguous()}, name)
    return clip.subjects[0]


def report_of(phrase, mask):
    traces = {"traces": {"mask": [mask]}}
    return {"fps": 16.0, "steps": [{"phrases": [[phrase]], "loop": {"iterations": [{"objectives": [traces]}]}}]}


def test_accuracy_is_the_share_of_latent_frames_that_are_as_asked(tmp_path):
    subject = drawn(tmp_path / "one.latent")
    there = subject.visible.tolist()
    others = [1 - there[0], *there[1:]]
    assert demo.accuracy(tmp_path / "one.latent", report_of(subject.name, there)) == 1
    assert demo.accuracy(tmp_path / "one.latent", report_of(subject.name, [1 - value for value in there])) == 0
    assert demo.accuracy(tmp_path / "one.latent", report_of(subject.name, others)) == pytest.approx(12 / 13, abs=1e-4)


def test_it_leaves_its_files_and_prints_one_json_object_last(tmp_path, monkeypatch, capsys):
    subject = drawn(tmp_path / "one.latent")
    report = json.dumps(report_of(subject.name, subject.visible.tolist()))
    prompt = json.loads(demo.PROMPT.read_text(encoding="utf-8"))
    served = {
        "images": [{"filename": "picture.png", "subfolder": "", "type": "output"}],
        "latents": [{"filename": "a.latent", "subfolder": "", "type": "output"}],
    }

    def fetch(file):
        if file["filename"].endswith(".json"):
            return report.encode()
        return (tmp_path / "one.latent").read_bytes() if file["filename"].endswith(".latent") else b"picture"

    class Server:
        url, log = "http://nowhere", "server.log"
        __enter__, __exit__ = (lambda self: self), (lambda *_: None)

    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "demo")
    monkeypatch.setattr(demo, "ComfyUIServer", lambda *_: Server())
    client = SimpleNamespace(run=lambda *_: {"outputs": dict.fromkeys(prompt, served)}, fetch=fetch)
    monkeypatch.setattr(demo, "ComfyUIClient", lambda url: client)
    monkeypatch.setattr(demo, "enter_host", lambda host: None)
    monkeypatch.setattr(demo, "frames", lambda video: np.zeros((49, 8, 8, 3), dtype=np.uint8))
    with torch.inference_mode(False):
        assert demo.demo(SimpleNamespace(path=tmp_path, version="0.30.0")) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told.keys() == {"temporal_accuracy", "seconds", "outputs"}
    assert told["temporal_accuracy"] == {"plain": 1.0, "guided": 1.0}
    names = {"plain.mp4", "guided.mp4", "filmstrip.png", "timing.png", "report.json"}
    assert {path.rsplit("/", 1)[-1] for path in told["outputs"].values()} == names
    assert names <= {path.name for path in (tmp_path / "demo").iterdir()}
