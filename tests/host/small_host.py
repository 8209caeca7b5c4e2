"""A copy of the host in which Wan's text encoder, image encoder and 5B VAE are small, so that random weights for them fit into a test."""

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
LEFT_OUT = ("models", "output", "input", "custom_nodes", "blueprints", ".git")  # on a user's machine these are large


def copy_small(comfyui: Path, folder: Path) -> Path:
    """The copy's path, inside `folder`."""
    copy = folder / "ComfyUI"
    shutil.copytree(comfyui, copy, ignore=lambda inside, names: LEFT_OUT if Path(inside) == comfyui else ())
    for name, changes in CONFIGS.items():
        config = json.loads((copy / name).read_text(encoding="utf-8"))
        assert changes.keys() <= config.keys(), name
        (copy / name).write_text(json.dumps({**config, **changes}), encoding="utf-8")
    loader = copy / "comfy" / "sd.py"
    text = loader.read_text(encoding="utf-8")
    wide = 'ddconfig = {"dim": 160, "z_dim": self.latent_channels'
    assert text.count(wide) == 1, "comfy/sd.py builds the VAE of the 5B in another way now"
    loader.write_text(text.replace(wide, wide.replace('"dim": 160', ", ".join(f'"{key}": {n}' for key, n in VAE_22.items()))))
    return copy


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server of such a copy for all tests that load Wan's files by their names."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or HOSTS / NEWEST / "ComfyUI")
    folder = tmp_path_factory.mktemp("small")
    with ComfyUIServer(copy_small(comfyui, folder), folder / "base") as running:
        yield RunningServer(running.url, ComfyUIClient(running.url), running.base, running.log)
