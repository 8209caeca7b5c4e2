"""Install proof: the files of the package alone, in an empty custom_nodes, load in a ComfyUI that has not seen this checkout."""

import compileall
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wan_conductor.nodes import NODES
from wan_conductor.tests.unit.test_distribution import shipped

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_PATH = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "0.30.0" / "ComfyUI").resolve()
SECONDS = 0.3  # of processor time that the pack may add to the host's start
ABSENT = ("matplotlib", "PIL.ImageDraw", "scipy", "pandas", "torchaudio", "torchvision.io")  # heavy, and needed by a running node at most

START = """
import asyncio, json, logging, runpy, sys, time, warnings
comfyui, pack, empty, vision_ops = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, comfyui)
runpy.run_path(vision_ops)
import comfy.options
comfy.options.enable_args_parsing()
import utils.install_util  # before `nodes` puts comfy/, which has another utils, on the path
import nodes, server  # what a host has imported before it looks for packs
import comfy.context_windows, comfy_api.latest
asyncio.run(nodes.load_custom_node(empty))
complaints = []
class Listen(logging.Handler):
    def emit(self, record):
        complaints.append(record.getMessage())
logging.getLogger().addHandler(Listen(logging.WARNING))
warnings.simplefilter("always")
warnings.showwarning = lambda message, *_: complaints.append(str(message))
before = set(sys.modules)
offered = set(nodes.NODE_CLASS_MAPPINGS)
began = time.process_time()
loaded = asyncio.run(nodes.load_custom_node(pack))
seconds = time.process_time() - began
print("told", json.dumps({
    "loaded": loaded, "seconds": seconds, "complaints": complaints, "modules": sorted(set(sys.modules) - before),
    "nodes": sorted(set(nodes.NODE_CLASS_MAPPINGS) - offered), "web": nodes.EXTENSION_WEB_DIRS.get("wan-conductor"),
}))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """What a fresh host says of the pack, copied as the Manager copies it."""
    pack = tmp_path_factory.mktemp("clean") / "custom_nodes" / "wan-conductor"
    for name in shipped():
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, pack / name)
    compileall.compile_dir(pack, quiet=1)  # as after the first start
    empty = pack.with_name("empty")  # what the host itself imports to load any pack
    empty.mkdir()
    (empty / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    shutil.copyfile(ROOT / "pyproject.toml", empty / "pyproject.toml")
    vision_ops = ROOT / "development" / "cpu_vision_ops" / "prestartup_script.py"
    command = [sys.executable, "-c", START, *map(str, (COMFYUI_PATH, pack, empty, vision_ops))]
    run = subprocess.run(command, cwd=pack.parent, capture_output=True, text=True)
    told = [line for line in run.stdout.splitlines() if line.startswith("told ")]
    assert told, run.stdout + run.stderr
    return json.loads(told[-1].removeprefix("told ")), pack


def test_every_node_is_registered_without_a_complaint(started):
    told, pack = started
    assert told["loaded"] and told["complaints"] == []
    assert told["nodes"] == sorted(node.GET_SCHEMA().node_id for node in NODES)
    assert Path(told["web"]) == pack / "web"


def test_nothing_heavy_is_imported_when_the_host_starts(started):
    modules = started[0]["modules"]
    assert not [name for name in modules if name.startswith(ABSENT)]
    # files of the pack, what of the host no other part of it had imported, and einops
    assert not [name for name in modules if not name.startswith((str(started[1]).replace(".", "_x_"), "comfy", "einops"))]


def test_the_pack_adds_little_to_the_hosts_start(started):
    assert started[0]["seconds"] < SECONDS
