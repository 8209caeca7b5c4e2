"""A real ComfyUI process with this pack in its custom_nodes and a base directory of its own, so that nothing is written into ComfyUI."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
CUSTOM_NODES = {"wan-conductor": ROOT, "cpu_vision_ops": Path(__file__).resolve().parent / "cpu_vision_ops"}


class ServerError(RuntimeError):
    """ComfyUI did not start or did not stay up; the text ends with the last lines of its log."""


def prepare_base(base: Path, comfyui: Path) -> list[str]:
    """Fill a base directory (custom_nodes with links to this pack and to what a CPU host needs) and return main.py's arguments for it."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, target in CUSTOM_NODES.items():
        link_folder(base / "custom_nodes" / name, target)
    models = comfyui / "models"
    kinds = {folder.name: folder.name for folder in models.glob("*") if folder.is_dir() and folder.name != "configs"}
    shared_models = base / "extra_model_paths.yaml"  # JSON is YAML too
    shared_models.write_text(json.dumps({"comfyui": {"base_path": str(models), **kinds}}))
    return [
        *("--base-directory", str(base)),
        *("--extra-model-paths-config", str(shared_models)),
        *("--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"),
    ]


def link_folder(link: Path, target: Path) -> None:
    """Make `link` point to the folder `target`."""
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink():
        link.unlink()
    if os.name == "nt":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(target)], check=True, stdout=subprocess.DEVNULL)
    else:
        link.symlink_to(target, target_is_directory=True)


def device_arguments() -> list[str]:
    """`--cpu` where torch finds no accelerator."""
    import torch

    return [] if torch.cuda.is_available() or torch.backends.mps.is_available() else ["--cpu"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyUIServer:
    """Context manager: a ComfyUI server that answers at `.url` inside the block and is gone, with all its children, after it.

    Args:
        comfyui: folder of the ComfyUI to run; never written to.
        base: folder for its input, output, temp, user and custom_nodes; made when missing.
        extra: further arguments of main.py.
    """

    def __init__(self, comfyui: Path, base: Path, extra: tuple[str, ...] = ()):
        self.comfyui = comfyui
        self.base = base
        self.extra = extra
        self.log = base / "server.log"
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ComfyUIServer":
        port = free_port()
        arguments = [*prepare_base(self.base, self.comfyui), "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"]
        self.url = f"http://127.0.0.1:{port}"
        with open(self.log, "wb") as log:
            self.process = launch(self.comfyui, [*arguments, *device_arguments(), *self.extra], log)
        try:
            self.wait_until_ready(seconds=240)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                raise ServerError(f"ComfyUI ended while starting\n{self.last_log_lines()}")
            try:
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5) as reply:
                    self.system_stats: dict[str, Any] = json.load(reply)
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        raise ServerError(f"ComfyUI did not answer within {seconds:g} s\n{self.last_log_lines()}")

    def stop(self) -> None:
        """End the whole process group: first politely, then not."""
        if self.process is None or self.process.poll() is not None:
            return
        for sign, patience in ((signal.SIGTERM, 10), (getattr(signal, "SIGKILL", signal.SIGTERM), 10)):
            if os.name == "nt":
                self.process.kill()
            else:
                os.killpg(self.process.pid, sign)
            try:
                self.process.wait(patience)
                return
            except subprocess.TimeoutExpired:
                continue

    def last_log_lines(self, count: int = 40) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def launch(comfyui: Path, arguments: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start main.py as the leader of a process group of its own."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(comfyui / "main.py"), *arguments]
    own_group = os.name != "nt"
    return subprocess.Popen(
        command, cwd=comfyui, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=own_group
    )


def run_in_foreground(comfyui: Path, base: Path, extra: list[str]) -> int:
    """ComfyUI for hands: in this terminal, until Ctrl-C."""
    command = [sys.executable, str(comfyui / "main.py"), *prepare_base(base, comfyui), *device_arguments(), *extra]
    try:
        return subprocess.run(command, cwd=comfyui).returncode
    except KeyboardInterrupt:
        return 0
