"""A real ComfyUI server for tests: the one of COMFYUI_PATH, with this pack as users have it, and a client that talks to it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from wan_conductor.development.client import ComfyUIClient
from wan_conductor.development.hosts import HOSTS, NEWEST
from wan_conductor.development.server import ComfyUIServer


@dataclass(frozen=True)
class RunningServer:
    url: str
    client: ComfyUIClient
    base: Path
    log_file: Path

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for a test file, in a base directory of its own; ended with all its children whatever happens."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or HOSTS / NEWEST / "ComfyUI")
    with ComfyUIServer(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield RunningServer(running.url, ComfyUIClient(running.url), running.base, running.log)
