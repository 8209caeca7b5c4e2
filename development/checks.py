"""The tests in their lanes, and the linters."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import environment, hosts
from .server import link_folder

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Lane:
    """One pytest process. `comfyui` is the host it runs with, or None where no ComfyUI may be imported."""

    name: str
    folder: str
    comfyui: hosts.Host | None = None


def lanes(only: str | None) -> list[Lane]:
    """Unit, host on each version, browser. COMFYUI_PATH, where set, is the one version that is tested."""
    named = hosts.own_host() if os.environ.get("COMFYUI_PATH") else None
    versions = [named] if named else [hosts.pinned_host(version, environment.python()) for version in hosts.RELEASES]
    every = [
        Lane("unit", "tests/unit"),
        *(Lane(f"host {host.version}", "tests/host", host) for host in versions),
        Lane("browser", "tests/browser", versions[0]),
    ]
    return [lane for lane in every if only in (None, lane.folder.removeprefix("tests/"))]


def test(only: str | None, pytest_arguments: list[str]) -> int:
    """Run the lanes one after the other; a summary follows the last. Returns the exit status."""
    chosen = lanes(only)
    if any(lane.name == "browser" for lane in chosen):
        get_chromium()
    results = [(lane, *run_lane(lane, pytest_arguments)) for lane in chosen]
    sys.stdout.write("\n")
    for lane, status, seconds, closing_line in results:
        sys.stdout.write(f"{'passed' if status == 0 else 'FAILED'}  {lane.name:12}  {seconds:6.1f} s  {closing_line}\n")
    return int(any(status != 0 for _, status, _, _ in results))


def run_lane(lane: Lane, pytest_arguments: list[str]) -> tuple[int, float, str]:
    """Exit status, seconds, and pytest's closing line."""
    variables = {key: value for key, value in os.environ.items() if key != "COMFYUI_PATH"}
    if lane.comfyui:
        variables["COMFYUI_PATH"] = str(lane.comfyui.path)
    sys.stdout.write(f"\n=== {lane.name} ===\n")
    sys.stdout.flush()
    started = time.monotonic()
    command = [environment.tool("pytest"), lane.folder, *pytest_arguments]
    closing_line = ""
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            closing_line = line.strip() or closing_line
    return process.returncode, time.monotonic() - started, closing_line.strip("= ")


def chromium() -> str | None:
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def get_chromium() -> None:
    """Install Debian's Chromium where there is none and this may be done; the browser tests say so where it may not."""
    if chromium() or not shutil.which("apt-get") or os.name == "nt" or os.geteuid() != 0:
        return
    environment.say("installing chromium")
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium"]):
        subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def lint() -> int:
    """ruff over everything, the type checker over what ships and what develops it. Returns the exit status."""
    commands = [([environment.tool("ruff"), "check", "."], ROOT), (type_check(), package_view())]
    return max([subprocess.run(command, cwd=folder).returncode for command, folder in commands])


def type_check() -> list[str]:
    checked = [f"wan_conductor/{name}" for name in ("guidance", "host", "nodes", "playground", "development", "dev.py")]
    comfyui = hosts.pinned_host(hosts.NEWEST, environment.python()).path
    paths = [argument for path in (comfyui, ROOT) for argument in ("--extra-search-path", str(path))]
    return [environment.tool("ty"), "check", "--python", str(environment.VENV), *paths, *checked]


def package_view() -> Path:
    """A folder in which this pack is the package `wan_conductor`, so that its relative imports resolve whatever the checkout is called."""
    view = hosts.HOSTS / "types"
    view.mkdir(exist_ok=True)
    link_folder(view / "wan_conductor", ROOT)
    shutil.copyfile(ROOT / "pyproject.toml", view / "pyproject.toml")
    return view
