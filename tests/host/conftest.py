"""Puts a real ComfyUI (COMFYUI_PATH, default .host/0.30.0) into the test process, on the CPU; tests run in inference mode, like nodes."""

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve().parent
COMFYUI_PATH = Path(os.environ.get("COMFYUI_PATH") or HERE.parents[1] / ".host" / "0.30.0" / "ComfyUI").resolve()


def start_host() -> None:
    if not (COMFYUI_PATH / "comfy").is_dir():
        raise pytest.UsageError(f"no ComfyUI at {COMFYUI_PATH}: set COMFYUI_PATH, or let dev.py fetch the host")
    runpy.run_path(str(HERE.parents[1] / "development" / "cpu_vision_ops" / "prestartup_script.py"))
    sys.path.insert(0, str(COMFYUI_PATH))
    sys.path.append(str(HERE))  # `from tiny_wan import ...`
    import comfy.cli_args

    comfy.cli_args.args.cpu = True


start_host()

from small_host import small_server  # noqa: E402, F401


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "outside_inference_mode: the test body runs as plain PyTorch, not as the host runs a node")


def pytest_report_header() -> str:
    import comfyui_version

    return f"ComfyUI {comfyui_version.__version__} at {COMFYUI_PATH}"


@pytest.fixture(autouse=True)
def node_execution(request: pytest.FixtureRequest) -> Iterator[None]:
    """The host executes every node inside `torch.inference_mode()`."""
    if request.node.get_closest_marker("outside_inference_mode"):
        yield
        return
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="session")
def previews_outside_the_host(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nodes that show pictures leave them in the host's temp folder."""
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))


@pytest.fixture(scope="session")
def t2v() -> Any:
    """A tiny text-to-video Wan that tests may clone and patch, but not change."""
    import tiny_wan

    return tiny_wan.load()


@pytest.fixture
def host_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's output and temp folders, empty, under the test's own folder."""
    import folder_paths

    for kind in ("output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return tmp_path
