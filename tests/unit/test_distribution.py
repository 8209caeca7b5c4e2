"""What the Comfy Registry and the Manager's scanner read from the files, without running them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wan_conductor.development import environment

ROOT = Path(__file__).resolve().parents[2]
OF_THE_HOST = {
    "comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "nodes", "server",  # its own
    "PIL", "sentencepiece", "torch", "tqdm",  # what it cannot run without
}  # fmt: skip
UNTRACKED = ("output", "node_modules")  # made by development


def shipped() -> list[str]:
    """The tracked files that `.comfyignore` leaves in the package."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the pack's")

    def listed(*options: str) -> list[str]:
        told = subprocess.run(["git", "ls-files", "-z", "--cached", *options], cwd=ROOT, capture_output=True, text=True, check=True)
        return told.stdout.rstrip("\0").split("\0")

    left_out = set(listed("--ignored", "--exclude-from=.comfyignore"))
    return [name for name in listed() if name not in left_out and (ROOT / name).exists()]


def test_the_package_holds_the_pack_and_nothing_of_its_development():
    files = shipped()
    folders = {name.split("/")[0] for name in files}
    assert {"guidance", "host", "nodes", "playground", "subgraphs", "web", "workflows"} <= folders
    assert {"__init__.py", "pyproject.toml", "requirements.txt"} <= folders
    assert not folders & {".ci", ".github", ".host", ".venv", "dev.py", "development", "node_modules", "output", "tests"}
    of_the_playground = {Path(name).name for name in files if re.fullmatch(r"playground/\w+\.py", name)}
    assert of_the_playground == {"__init__.py", "codec.py", "network.py", "sockets.py"}  # what its loader runs
    assert not [entry for entry in left_out() if not list(ROOT.glob(entry)) and entry not in UNTRACKED]
    assert sum((ROOT / name).stat().st_size for name in files) < 40 * 2**20


def left_out() -> list[str]:
    return [entry.rstrip("/") for entry in (ROOT / ".comfyignore").read_text(encoding="utf-8").split()]


def test_every_node_id_is_written_out_where_a_scanner_finds_it():
    found = []
    for path in sorted((ROOT / "nodes").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema":
                (value,) = [keyword.value for keyword in call.keywords if keyword.arg == "node_id"]
                assert isinstance(value, ast.Constant), f"{path.name}: node_id must be a literal"
                found.append(value.value)
    assert all(re.fullmatch(r"WanConductor[A-Za-z0-9]+", one) for one in found)
    pages = sorted(page.stem for page in (ROOT / "web" / "docs").glob("*.md"))
    assert sorted(found) == pages


def test_requirements_name_every_package_that_is_imported_and_no_other():
    imported = set()
    for name in shipped():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    assert imported - OF_THE_HOST - sys.stdlib_module_names == set(environment.own_requirements())


def test_the_registry_is_told_all_that_it_shows():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    told = dict(re.findall(r'^([\w-]+) = "(.*)"$', project.partition("[tool.comfy]")[2].partition("\n[")[0], re.MULTILINE))
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= set(told)
    for picture in ("Icon", "Banner"):
        url, _, path = told[picture].partition("/main/")
        assert url == "https://raw.githubusercontent.com/wan-conductor/wan-conductor" and (ROOT / path).is_file()


def test_publishing_waits_for_the_tests():
    publish, tests = ((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8") for name in ("publish", "test"))
    jobs = publish.partition("\njobs:")[2]
    assert re.search(r"^  test:\n    uses: \./\.github/workflows/test\.yml$", jobs, re.MULTILINE)
    assert re.search(r"^  publish:\n    needs: test$", jobs, re.MULTILINE)
    assert "workflow_call:" in tests and "- run: .ci/run" in tests
