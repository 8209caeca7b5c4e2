"""The editor's workflow JSON as the API prompt that pressing Run would queue: subgraphs laid flat, bypassed and muted nodes left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NOTES = ("Note", "MarkdownNote")
WIDGETS = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3", "COLOR")
MUTED, BYPASSED = 2, 4
INPUTS, OUTPUTS = -10, -20  # the two ends of a subgraph, which stand in its links like nodes

Prompt = dict[str, dict[str, Any]]
Schema = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Link:
    node: int
    slot: int
    target: int
    target_slot: int


@dataclass(frozen=True)
class Sheet:
    """The graph, or one subgraph where it stands as a node of another sheet."""

    nodes: dict[int, dict[str, Any]]
    links: dict[int, Link]
    subgraphs: dict[str, dict[str, Any]] = field(repr=False)
    prefix: str = ""
    inputs: tuple[str, ...] = ()
    around: "Sheet | None" = None
    instance: int = 0

    def subgraph(self, node: dict[str, Any]) -> "Sheet | None":
        """What is inside `node`, if it is a subgraph."""
        inner = self.subgraphs.get(node["type"])
        if inner is None:
            return None
        names = tuple(one["name"] for one in inner["inputs"])
        return Sheet(nodes_of(inner), links_of(inner), self.subgraphs, f"{self.prefix}{node['id']}:", names, self, node["id"])

    def source(self, link: int | None) -> list[Any] | None:
        """The output that an input gets its value from, as the API writes it; None where nothing reaches it."""
        if link is None:
            return None
        node, slot = self.links[link].node, self.links[link].slot
        if node == INPUTS:
            assert self.around is not None
            sockets = {socket["name"]: socket for socket in self.around.nodes[self.instance]["inputs"]}
            outer = sockets.get(self.inputs[slot])
            return outer and self.around.source(outer["link"])
        return self.output(self.nodes[node], slot)

    def output(self, node: dict[str, Any], slot: int) -> list[Any] | None:
        if node["mode"] == MUTED:
            return None
        if node["mode"] == BYPASSED:
            return self.source(passed_through(node, slot))
        inner = self.subgraph(node)
        if inner is None:
            return [f"{self.prefix}{node['id']}", slot]
        ends = [number for number, link in inner.links.items() if (link.target, link.target_slot) == (OUTPUTS, slot)]
        return inner.source(ends[0]) if ends else None

    def live(self) -> Iterator[tuple["Sheet", dict[str, Any]]]:
        """Every node that takes part, with the sheet that it lies on."""
        for node in self.nodes.values():
            if node["mode"] in (MUTED, BYPASSED) or node["type"] in NOTES:
                continue
            inner = self.subgraph(node)
            if inner is None:
                yield self, node
            else:
                yield from inner.live()


def nodes_of(graph: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {node["id"]: node for node in graph["nodes"]}


def links_of(graph: dict[str, Any]) -> dict[int, Link]:
    """Links are lists outside of subgraphs and objects inside."""
    links = {}
    for link in graph["links"]:
        if isinstance(link, dict):
            link = [link[key] for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
        links[link[0]] = Link(*link[1:5])
    return links


def passed_through(node: dict[str, Any], slot: int) -> int | None:
    """The link that a bypassed node hands on: of its input at the same place if the types agree, else of the first that does."""
    wanted = node["outputs"][slot]["type"]
    inputs = node["inputs"]
    agreeing = [socket["link"] for socket in [*inputs[slot : slot + 1], *inputs] if socket["type"] == wanted]
    return agreeing[0] if agreeing else None


def to_prompt(graph: dict[str, Any], schema: Schema) -> Prompt:
    """The API prompt of a workflow in the editor's format; `schema` is what the server answers at /object_info."""
    subgraphs = {one["id"]: one for one in graph.get("definitions", {}).get("subgraphs", [])}
    prompt = {}
    for sheet, node in Sheet(nodes_of(graph), links_of(graph), subgraphs).live():
        if node["type"] not in schema:
            raise ValueError(f"node {sheet.prefix}{node['id']}: the server has no {node['type']}")
        inputs = widget_values(node, schema[node["type"]])
        for socket in node["inputs"]:
            if (source := sheet.source(socket["link"])) is not None:
                inputs[socket["name"]] = source
        title = node.get("title", schema[node["type"]]["display_name"])
        prompt[f"{sheet.prefix}{node['id']}"] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


def widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Input -> value of a node's widgets."""
    given = iter(node.get("widgets_values") or [])
    return dict(values_in_order(info["input"], info.get("input_order", info["input"]), given))


def values_in_order(inputs: dict[str, Any], order: dict[str, Any], given: Iterator[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Required inputs, then optional ones; what a seed does after a run follows it, the inputs of a chosen option follow its combo.

    Widgets that the pages add, such as the upload button of Load Image, come last, and are no inputs.
    """
    for section in ("required", "optional"):
        for name in order.get(section, ()):
            kind, options = [*inputs[section][name], {}][:2]
            if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
                continue
            try:
                value = next(given)
            except StopIteration:  # saved before the node had this input
                return
            yield prefix + name, value
            if options.get("control_after_generate"):
                next(given)
            if kind == "COMFY_DYNAMICCOMBO_V3":
                chosen = next(option["inputs"] for option in options["options"] if option["key"] == value)
                yield from values_in_order(chosen, chosen, given, f"{prefix}{name}.")
