"""The door for development: which ComfyUI is used, what is unpacked, and that documented commands exist."""

import hashlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from wan_conductor.development import environment, hosts

ROOT = Path(__file__).resolve().parents[2]


def fake_comfyui(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def fake_archive(path: Path, names: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def no_host_yet(tmp_path, monkeypatch):
    """A checkout that has fetched nothing, outside any ComfyUI."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(hosts, "ROOT", tmp_path / "checkout")
    monkeypatch.setattr(hosts, "HOSTS", tmp_path / "hosts")
    return tmp_path


def test_comfyui_path_wins_over_the_comfyui_around_the_pack(no_host_yet, monkeypatch):
    around = fake_comfyui(no_host_yet / "around", "0.20.0")
    monkeypatch.setattr(hosts, "ROOT", around / "custom_nodes" / "wan-conductor")
    assert hosts.find_host(None, Path(sys.executable)) == hosts.Host(around, "0.20.0")
    named = fake_comfyui(no_host_yet / "named", "0.25.0")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert hosts.find_host(None, Path(sys.executable)) == hosts.Host(named, "0.25.0")
    with pytest.raises(hosts.HostError, match=r"0\.18\.2 was asked for, but COMFYUI_PATH = .* holds 0\.25\.0"):
        hosts.find_host("0.18.2", Path(sys.executable))


def test_a_comfyui_path_that_holds_none_is_named_in_the_error(no_host_yet, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(no_host_yet))
    with pytest.raises(hosts.HostError, match=re.escape(f"COMFYUI_PATH = {no_host_yet}: no ComfyUI there")):
        hosts.find_host(None, Path(sys.executable))


def test_only_the_vendored_comfyui_is_unpacked_and_leftovers_go(no_host_yet, monkeypatch):
    names = {
        "pack-1/vendor/ComfyUI/main.py": "",
        "pack-1/vendor/ComfyUI/comfyui_version.py": '__version__ = "0.30.0"',
        "pack-1/src/other.py": "",
    }
    leftover = no_host_yet / "hosts" / "fetching-0.30.0-cut-off"
    leftover.mkdir(parents=True)
    monkeypatch.setattr(hosts, "download", lambda release, python, folder: fake_archive(folder / "pack-1.tar.gz", names))
    host = hosts.pinned_host("0.30.0", Path(sys.executable))
    assert sorted(p.name for p in host.path.iterdir()) == ["comfyui_version.py", "main.py"]
    assert [p.name for p in (no_host_yet / "hosts").iterdir()] == ["0.30.0"]


def test_an_archive_with_another_comfyui_leaves_nothing_behind(no_host_yet, monkeypatch):
    names = {"pack-1/vendor/ComfyUI/main.py": "", "pack-1/vendor/ComfyUI/comfyui_version.py": '__version__ = "0.29.0"'}
    monkeypatch.setattr(hosts, "download", lambda release, python, folder: fake_archive(folder / "pack-1.tar.gz", names))
    with pytest.raises(hosts.HostError, match=r"carries ComfyUI 0\.29\.0, not 0\.30\.0"):
        hosts.pinned_host("0.30.0", Path(sys.executable))
    assert list((no_host_yet / "hosts").iterdir()) == []


def test_a_path_out_of_the_folder_is_not_unpacked(tmp_path):
    archive = fake_archive(tmp_path / "evil.tar.gz", {"pack-1/vendor/ComfyUI/../../../evil.py": ""})
    with pytest.raises(hosts.HostError, match="refuses"):
        hosts.unpack(archive, tmp_path / "out")
    assert not list(tmp_path.rglob("evil.py"))


def test_a_download_that_is_not_the_pinned_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts.subprocess, "run", lambda *_, **__: (tmp_path / "x.tar.gz").write_bytes(b"other"))
    with pytest.raises(hosts.HostError, match=hashlib.sha256(b"other").hexdigest()):
        hosts.download(hosts.RELEASES["0.30.0"], Path(sys.executable), tmp_path)


def test_the_torch_family_is_never_taken_from_the_hosts_requirements(tmp_path):
    lines = ["torch", "torchsde", "torchvision", "torchaudio>=2", "numpy>=1.25.0", "", "#non essential dependencies:", "kornia>=0.7.1"]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    assert environment.host_requirements(tmp_path) == ["torchsde", "numpy>=1.25.0", "kornia>=0.7.1"]


@pytest.fixture
def no_environment_yet(tmp_path, monkeypatch):
    """Counts what is made and installed; the last of pip's calls can be cut off."""
    made, installed = [], []
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMP", tmp_path / ".venv" / "wan_conductor.json")
    monkeypatch.setattr(environment, "UNFINISHED", tmp_path / ".venv" / "installing")

    def create(folder, with_pip, clear):
        if clear:
            shutil.rmtree(folder)
        folder.mkdir()
        made.append(with_pip)

    monkeypatch.setattr(environment.venv, "create", create)
    monkeypatch.setattr(environment, "pip", lambda *arguments: installed.append(arguments))
    monkeypatch.setattr(environment, "pip_works", lambda: bool(made))
    monkeypatch.setattr(environment, "drop_unloadable_torchaudio", lambda: None)
    comfyui = fake_comfyui(tmp_path / "ComfyUI", "0.30.0")
    (comfyui / "requirements.txt").write_text("kornia")
    return made, installed, comfyui


def test_an_environment_is_made_once_and_anew_where_an_installation_was_cut_off(no_environment_yet, monkeypatch):
    made, installed, comfyui = no_environment_yet

    def get_ready():
        environment.make_interpreter()
        environment.install(comfyui)

    with monkeypatch.context() as patch:
        patch.setattr(environment, "drop_unloadable_torchaudio", lambda: sys.exit("cut off"))
        with pytest.raises(SystemExit, match="cut off"):
            get_ready()
    get_ready()
    assert (len(made), len(installed)) == (2, 6)
    get_ready()
    assert (len(made), len(installed)) == (2, 6)
    (comfyui / "requirements.txt").write_text("kornia\nglfw")  # another host: more is installed, into the same environment
    get_ready()
    assert (len(made), len(installed)) == (2, 9) and "glfw" in installed[-1]


def test_the_host_is_told_as_one_json_object(tmp_path):
    told = json.loads(hosts.describe(hosts.Host(tmp_path, "0.18.2"), tmp_path / "python"))
    assert told == {"python": str(tmp_path / "python"), "comfyui": str(tmp_path), "version": "0.18.2"}


def door():
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT))
    return module


def documented_commands() -> list[str]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "playground").rglob("*.md"), ROOT / ".ci" / "run"]
    return sorted({line for page in pages for line in re.findall(r"python3? dev\.py ([^`\n#]*\w)", page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_command_exists(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dev.py", *shlex.split(line)])
    options, _ = door().arguments()
    if options.command == "bench" and options.name:
        assert (ROOT / "development" / "benchmarks" / f"{options.name}.py").exists()


def test_the_registry_and_pip_are_told_the_same():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.findall(r'"([^"]+)"', re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)[1])
    installed = [name for name in dependencies if not name.startswith("comfyui-frontend-package")]  # for the registry's eyes only
    assert len(installed) == len(dependencies) - 1 and sorted(installed) == sorted(environment.own_requirements())
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
