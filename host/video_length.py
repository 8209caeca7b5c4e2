"""How long the video will be that a node's MODEL is sampled to, as far as the queued prompt tells it before anything is sampled."""

from collections.abc import Iterator, Mapping
from typing import Any

LENGTHS = ("length", "num_frames")
LATENTS = ("latent_image", "latent", "samples")

Prompt = Mapping[str, Mapping[str, Any]]  # the API's format: node id -> {"class_type", "inputs"}; a link is [node id, output]


def frames_of_video(prompt: Prompt | None, node_id: str | None) -> int | None:
    """Pixel frames of the shortest video that the model goes to; None where no number says so. Later checks see the latent itself."""
    found = [frames for latent in latents_along_the_model(prompt or {}, node_id) if (frames := length_behind(prompt or {}, latent))]
    return min(found, default=None)


def latents_along_the_model(prompt: Prompt, node_id: str | None) -> Iterator[str]:
    """The nodes whose latents are sampled with what leaves `node_id` as a model."""
    reached = [node_id]
    for one in reached:
        for name, node in prompt.items():
            if name not in reached and any(origin == one for slot, origin in links(node) if carries_the_model(slot)):
                reached.append(name)
                yield from (origin for slot, origin in links(node) if slot in LATENTS)


def length_behind(prompt: Prompt, node_id: str, seen: tuple[str, ...] = ()) -> int | None:
    """The number on the node that makes this latent; through samplers, but not through nodes that may change its length."""
    node = prompt.get(node_id, {})
    inputs = node.get("inputs", {})
    for value in (inputs[name] for name in LENGTHS if name in inputs):
        given = prompt.get(str(value[0]), {}).get("inputs", {}).get("value") if is_link(value) else value
        return given if isinstance(given, int) and given >= 1 else None
    if node_id in seen or not any(carries_the_model(slot) for slot, _ in links(node)):
        return None
    before = [length_behind(prompt, origin, (*seen, node_id)) for slot, origin in links(node) if slot in LATENTS]
    return next(iter(before), None)


def links(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(slot, str(value[0])) for slot, value in node.get("inputs", {}).items() if is_link(value)]


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def carries_the_model(slot: str) -> bool:
    return slot == "guider" or slot.startswith("model")
