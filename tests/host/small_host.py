"""A copy of the host in which what surrounds Wan is small (text encoder, image encoder, ...), so that random weights fit into a test."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from wan_conductor.development.client import ComfyUIClient
from wan_conductor.development.hosts import HOSTS, NEWEST
from wan_conductor.development.server import ComfyUIServer
from wan_conductor.tests.server import RunningServer

TEXT_ENCODER = {"d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1, "vocab_size": 400}
IMAGE_ENCODER = {"intermediate_size": 64, "num_hidden_layers": 2}
VAE_22 = {"dim": 8, "dec_dim": 8}
CONFIGS = {"comfy/text_encoders/umt5_config_xxl.json": TEXT_ENCODER, "comfy/clip_vision_config_h.json": IMAGE_ENCODER}
# Sizes that the host has written into its code: of the 5B's VAE, and of the audio attention that InfiniteTalk adds to Wan's blocks
CODE = (
    ("comfy/sd.py", '{"dim": 160, "z_dim": self.latent_channels', '{"dim": 8, "dec_dim": 8, "z_dim": self.latent_channels'),
    ("comfy/ldm/wan/model_multitalk.py", "out_dim, num_heads=40,", "out_dim, num_heads=2,"),
)
LEFT_OUT = ("models", "output", "input", "custom_nodes", "blueprints", ".git")  # on a user's machine these are large


def copy_small(comfyui: Path, folder: Path) -> Path:
    """The copy's path, inside `folder`."""
    copy = folder / "ComfyUI"
    shutil.copytree(comfyui, copy, ignore=lambda inside, names: LEFT_OUT if Path(inside) == comfyui else ())
    for name, changes in CONFIGS.items():
        config = json.loads((copy / name).read_text(encoding="utf-8"))
        assert changes.keys() <= config.keys(), name
        (copy / name).write_text(json.dumps({**config, **changes}), encoding="utf-8")
    for name, wide, narrow in CODE:
        text = (copy / name).read_text(encoding="utf-8")
        assert text.count(wide) == 1, f"{name} has {wide!r} no longer, or not once"
        (copy / name).write_text(text.replace(wide, narrow), encoding="utf-8")
    return copy


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server of such a copy for all tests that load Wan's files by their names."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or HOSTS / NEWEST / "ComfyUI")
    folder = tmp_path_factory.mktemp("small")
    with ComfyUIServer(copy_small(comfyui, folder), folder / "base") as running:
        yield RunningServer(running.url, ComfyUIClient(running.url), running.base, running.log)
