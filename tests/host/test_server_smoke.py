"""The pack in a real ComfyUI server, loaded as a user's ComfyUI loads it."""

import re
import urllib.request
from pathlib import Path

import wan_conductor.nodes as pack

ROOT = Path(__file__).resolve().parents[2]


def test_the_pack_loads_without_a_complaint(server):
    log = server.log()
    ours = [line for line in log.splitlines() if "wan-conductor" in line or "wan_conductor" in line]
    assert re.search(r"seconds: .*custom_nodes/wan-conductor", log), ours
    assert not [line for line in ours if "FAILED" in line or "Error" in line]
    assert "Traceback" not in log


def test_every_node_is_offered_with_its_texts(server):
    offered = server.client.get("/object_info")
    for node in pack.NODES:
        schema = node.define_schema()
        info = offered[schema.node_id]
        assert info["display_name"] and info["description"] and info["category"] == "Wan Conductor"
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        silent = [name for name, (_, *options) in inputs.items() if not (options and options[0].get("tooltip"))]
        assert not silent, f"{schema.node_id}: inputs without a tooltip: {silent}"


def test_every_node_has_its_help_page(server):
    for node in pack.NODES:
        page = f"{server.url}/extensions/wan-conductor/docs/{node.define_schema().node_id}.md"
        with urllib.request.urlopen(page) as reply:
            assert reply.status == 200 and len(reply.read()) > 100


def test_the_template_browser_offers_every_workflow(server):
    offered = server.client.get("/workflow_templates")["wan-conductor"]
    assert sorted(offered) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
