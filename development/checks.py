"""The tests in their lanes, and the linters."""

import os
import re
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
    """One process, of node for web and of pytest elsewhere. `comfyui` is the host it runs with, or None where none may be imported."""

    name: str
    folder: str
    comfyui: hosts.Host | None = None


def lanes(only: str | None) -> list[Lane]:
    """Unit, web, host on each version, browser. COMFYUI_PATH, where set, is the one version that is tested."""
    named = hosts.own_host() if os.environ.get("COMFYUI_PATH") else None
    versions = [named] if named else [hosts.pinned_host(version, environment.python()) for version in hosts.RELEASES]
    every = [
        Lane("unit", "tests/unit"),
        Lane("web", "tests/web"),
        *(Lane(f"host {host.version}", "tests/host", host) for host in versions),
        Lane("browser", "tests/browser", versions[0]),
    ]
    return [lane for lane in every if only in (None, lane.folder.removeprefix("tests/"))]


def test(only: str | None, pytest_arguments: list[str]) -> int:
    """Run the lanes one after the other; a summary follows the last. Returns the exit status."""
    chosen = lanes(only)
    if any(lane.name == "browser" for lane in chosen):
        get_chromium()
    results = [(lane, *(run_web(lane) if lane.name == "web" else run_lane(lane, pytest_arguments))) for lane in chosen]
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


def run_web(lane: Lane) -> tuple[int, float, str]:
    """The same of node's test runner."""
    sys.stdout.write(f"\n=== {lane.name} ===\n")
    node = node_tool("node")
    if node is None:
        return no_node("NO WEB TEST WAS RUN")
    started = time.monotonic()
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / lane.folder).glob("*.test.js"))
    run = subprocess.run([node, "--test", "--test-reporter=spec", *files], cwd=ROOT, capture_output=True, text=True, errors="replace")
    sys.stdout.write(run.stdout + run.stderr)
    counts = dict(re.findall(r"^\S (pass|fail) (\d+)$", run.stdout, re.MULTILINE))
    ran_none = not int(counts.get("pass", 0))
    closing_line = f"{counts.get('pass', 0)} passed, {counts.get('fail', '?')} failed"
    return run.returncode or int(ran_none), time.monotonic() - started, closing_line


def node_tool(name: str) -> str | None:
    """node or npm, installed where there is none and this may be done."""
    if not shutil.which(name):
        install_packages("nodejs", "npm")
    return shutil.which(name)


def no_node(what: str) -> tuple[int, float, str]:
    """Without node the checks of web/ are left out on a user's machine and fail in continuous integration."""
    sentence = f"{what}: no node and npm, and installing them takes apt-get and root"
    sys.stdout.write(f"{sentence}\n")
    return int(bool(os.environ.get("CI"))), 0.0, sentence


def chromium() -> str | None:
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def get_chromium() -> None:
    """Install Debian's Chromium where there is none and this may be done; the browser tests say so where it may not."""
    if not chromium():
        install_packages("chromium")


def install_packages(*names: str) -> None:
    """Debian's packages, where there is apt-get and this user is root."""
    if not shutil.which("apt-get") or os.name == "nt" or os.geteuid() != 0:
        return
    environment.say(f"installing {' and '.join(names)}")
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *names]):
        subprocess.run(command, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def lint() -> int:
    """ruff over everything, the type checkers over what ships and what develops it. Returns the exit status."""
    commands = [([environment.tool("ruff"), "check", "."], ROOT), (type_check(), package_view())]
    return max([subprocess.run(command, cwd=folder).returncode for command, folder in commands] + [lint_web()])


def lint_web() -> int:
    """TypeScript over the JSDoc types of web/."""
    node, npm = node_tool("node"), node_tool("npm")
    if node is None or npm is None:
        return no_node("WEB WAS NOT CHECKED")[0]
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists() and subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=ROOT).returncode:
        return 1
    return subprocess.run([node, str(compiler)], cwd=ROOT).returncode


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
