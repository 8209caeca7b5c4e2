"""The translations in locales/: every node and input of the schema has its text, no text is stale, and the server offers them."""

import json
from pathlib import Path
from typing import Any

import pytest
import wan_conductor.nodes as pack

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = [path.name for path in sorted(LOCALES.iterdir())]
NODES = {node.define_schema().node_id: node for node in pack.NODES}
SYNTAX = "@{}|"  # the editor's message compiler reads these

each_language = pytest.mark.parametrize("language", LANGUAGES)


def translated(language: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def keys_of(inputs: dict[str, Any], prefix: str = "") -> dict[str, bool]:
    """The editor's keys of all inputs, those of every choice of a dynamic combo too -> whether the input has a tooltip.

    The sockets of an autogrow input, however many, show their English names: only the input itself has an entry.
    """
    keys: dict[str, bool] = {}
    for section in ("required", "optional"):
        for name, (kind, *options) in inputs.get(section, {}).items():
            settings = options[0] if options else {}
            keys[prefix + name] = bool(settings.get("tooltip"))
            if settings.get("control_after_generate"):
                keys["control_after_generate"] = False  # a widget that the editor adds
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for choice in settings["options"]:
                    keys |= keys_of(choice["inputs"], f"{prefix}{name}_")
    return keys


def texts(entry: Any) -> list[str]:
    return [entry] if isinstance(entry, str) else [text for part in entry.values() for text in texts(part)]


def test_there_is_chinese():
    assert "zh" in LANGUAGES


@each_language
def test_the_nodes_are_those_of_the_schema(language):
    assert set(translated(language)) == set(NODES)


@each_language
@pytest.mark.parametrize("node_id", NODES)
def test_a_node_is_translated_whole_and_nothing_is_stale(language, node_id):
    entry, info = translated(language)[node_id], NODES[node_id].GET_NODE_INFO_V1()
    assert set(entry) == {"display_name", "description", "inputs", "outputs"}
    inputs = keys_of(info["input"])
    assert set(entry["inputs"]) == set(inputs)
    for key, has_tooltip in inputs.items():
        assert set(entry["inputs"][key]) == {"name", *(["tooltip"] if has_tooltip else [])}, key
    outputs = list(zip(info["output"], info["output_name"]))
    assert set(entry["outputs"]) == {str(index) for index in range(len(outputs))}
    for index, (kind, name) in enumerate(outputs):  # a socket named as its type takes the editor's own word for that type
        assert set(entry["outputs"][str(index)]) == {"tooltip", *(["name"] if name != kind else [])}, name
    assert all(text.strip() for text in texts(entry))


@each_language
def test_no_text_holds_what_the_editor_reads_as_syntax(language):
    caught = [text for text in texts(translated(language)) if any(character in text for character in SYNTAX)]
    assert not caught


@each_language
def test_names_are_told_apart_within_a_node(language):
    entries = translated(language)
    assert len({entry["display_name"] for entry in entries.values()}) == len(entries)
    for node_id, entry in entries.items():
        names = [one["name"] for one in entry["inputs"].values()]
        assert len(set(names)) == len(names), node_id


@each_language
def test_the_server_offers_them(server, language):
    assert server.client.get("/i18n")[language]["nodeDefs"].items() >= translated(language).items()
