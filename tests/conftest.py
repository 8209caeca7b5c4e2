"""Makes the pack importable as `wan_conductor` without putting its root on sys.path (our `nodes/` would shadow the host's `nodes.py`)."""

import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads, and for the servers: the tensors are too small to share out

ROOT = Path(__file__).resolve().parents[1]


def load_pack() -> None:
    """Register the repository root as the package `wan_conductor`."""
    if "wan_conductor" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location("wan_conductor", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["wan_conductor"] = module
    spec.loader.exec_module(module)


load_pack()

from wan_conductor.tests.server import server  # noqa: E402, F401
