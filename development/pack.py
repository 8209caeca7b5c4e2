"""Brings a ComfyUI and this pack (as the package `wan_conductor`) into the running process."""

import importlib.util
import logging
import runpy
import sys
from pathlib import Path

from .hosts import Host

ROOT = Path(__file__).resolve().parents[1]


def enter_host(host: Host) -> None:
    """Make `import comfy` and `import wan_conductor` work here. Log lines go to standard error.

    The repository root leaves sys.path: its `nodes/` would shadow the host's `nodes.py`.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")  # the host's own lines are many
    logging.getLogger("wan_conductor").setLevel(logging.INFO)
    sys.path[:] = [str(host.path), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    runpy.run_path(str(ROOT / "development" / "cpu_vision_ops" / "prestartup_script.py"))
    import comfy.cli_args
    import torch

    comfy.cli_args.args.use_pytorch_cross_attention = True  # as the host chooses on a GPU; on a CPU a fifth faster than its own choice
    comfy.cli_args.args.cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    load_pack()


def load_pack() -> None:
    """Register the repository root as the package `wan_conductor`, whatever its folder is called."""
    if "wan_conductor" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location("wan_conductor", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wan_conductor"] = module
    spec.loader.exec_module(module)
