"""What the Comfy Registry and the Manager's scanner read from the files, without running them."""

import ast
import os
import re
import shutil
import subprocess
import sys
import textwrap
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


def workflow(name: str) -> str:
    return (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")


def test_publishing_waits_for_the_tests_and_those_for_a_new_version():
    jobs, tests = workflow("publish").partition("\njobs:")[2], workflow("test")
    of_tests = "    needs: version\n    if: needs.version.outputs.new == 'true'\n    uses: ./.github/workflows/test.yml"
    assert re.search(rf"^  test:\n{re.escape(of_tests)}$", jobs, re.MULTILINE)
    assert re.search(r"^  publish:\n    needs: test$", jobs, re.MULTILINE)
    assert "workflow_call:" in tests and "- run: .ci/run" in tests


@pytest.mark.skipif(not (shutil.which("git") and shutil.which("bash")), reason="the script of the workflow needs git and bash")
def test_only_a_new_version_in_pyproject_is_published(tmp_path):
    script = textwrap.dedent(re.search(r"^        run: \|\n((?: {10}.*\n)+)", workflow("publish"), re.MULTILINE)[1])

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    def pushed(text: str) -> str:
        (tmp_path / "pyproject.toml").write_text(text)
        git("add", ".")
        git("commit", "--quiet", "-m", text)
        return git("rev-parse", "HEAD")

    def told(before: str) -> str:
        output = tmp_path.parent / "output"
        output.write_text("")
        variables = {**os.environ, "BEFORE": before, "GITHUB_OUTPUT": str(output)}
        subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=variables, check=True, capture_output=True)
        return output.read_text().strip()

    git("init", "--quiet")
    first = pushed('version = "0.1.0"\n')
    second = pushed('version = "0.1.0"\nline-length = 140\n')
    assert told(first) == "new=false"
    pushed('version = "0.2.0"\nline-length = 140\n')
    assert told(second) == "new=true"
    assert told("") == "new=true"  # by hand
    assert told("0" * 40) == "new=true"  # the first push of a branch
