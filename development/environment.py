"""The virtual environment .venv: torch, the host's requirements, this pack's, and the tools of the checks."""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "wan_conductor.json"
UNFINISHED = VENV / "installing"

TORCH = ["torch==2.13.0"]
# Without their dependencies: they pin other builds of torch.
TORCH_COMPANIONS = ["torchvision==0.28.0", "torchaudio==2.11.0"]
# glfw: ComfyUI 0.18.2 asks for it, 0.30.0 no longer does. opencv: Farneback's flow, which `bench tempocontrol` is proven with.
TOOLS = ["pytest", "ruff", "ty", "playwright", "glfw", "opencv-python-headless"]


def python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def tool(name: str) -> str:
    """A command of the environment, such as pytest."""
    return str(python().with_name(name + (".exe" if os.name == "nt" else "")))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one process at a time makes the environment or fetches a host; the lock dies with its process."""
    folder = ROOT / ".host"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if os.name != "nt":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_interpreter() -> None:
    """Create .venv with a working pip. An installation that was cut off may be broken anywhere, so it is made anew."""
    if not UNFINISHED.exists() and (STAMP.exists() or pip_works()):
        return
    say(f"making {VENV}")
    try:
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{sys.executable} cannot make a virtual environment with pip ({error}); on Debian: apt-get install python3-venv")


def pip_works() -> bool:
    return python().exists() and subprocess.run([str(python()), "-m", "pip", "--version"], capture_output=True).returncode == 0


def install(comfyui: Path) -> None:
    """Install all that is needed to run the ComfyUI in that folder and the checks; does nothing when it is there already."""
    wanted = host_requirements(comfyui) + own_requirements() + TOOLS
    digest = hashlib.sha256(json.dumps([TORCH, TORCH_COMPANIONS, wanted]).encode()).hexdigest()
    if STAMP.exists() and json.loads(STAMP.read_text())["digest"] == digest:
        return
    say("installing torch, the requirements of ComfyUI and the tools (once; some minutes and gigabytes)")
    UNFINISHED.touch()
    pip("install", *TORCH)
    pip("install", "--no-deps", *TORCH_COMPANIONS)
    pip("install", *TORCH, *wanted)
    drop_unloadable_torchaudio()
    UNFINISHED.unlink()
    STAMP.write_text(json.dumps({"digest": digest}))


def host_requirements(comfyui: Path) -> list[str]:
    """The host's requirements without the torch family, which is pinned here."""
    lines = requirement_lines(comfyui / "requirements.txt")
    return [line for line in lines if re.split(r"[<>=~!; \[]", line)[0].lower() not in ("torch", "torchvision", "torchaudio")]


def own_requirements() -> list[str]:
    return requirement_lines(ROOT / "requirements.txt")


def requirement_lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def drop_unloadable_torchaudio() -> None:
    """torchaudio's wheel is built for CUDA; beside a CPU torch its extensions do not load and take the import with them."""
    if subprocess.run([str(python()), "-c", "import torchaudio"], capture_output=True).returncode == 0:
        return
    for extension in VENV.glob("**/site-packages/torchaudio/lib/*.so"):
        extension.unlink()
    subprocess.run([str(python()), "-c", "import torchaudio"], check=True)


def pip(*arguments: str) -> None:
    subprocess.run([str(python()), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True, stdout=sys.stderr)


def enter() -> None:
    """Run this very command again under .venv's interpreter, unless it is running there."""
    # Spinning OpenMP threads on a machine that has other work cost the playground's small tensors a factor of 20; sleeping ones nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    command = [str(python()), *sys.argv]
    if os.name == "nt":
        sys.exit(subprocess.run(command).returncode)
    os.execv(command[0], command)


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
