"""What the queued prompt tells before anything is sampled: how long the videos will be that a node's MODEL goes to, if any."""

from collections.abc import Iterator, Mapping
from typing import Any

# The host's nodes whose latent is of their `length`, in frames. Another pack's may be seconds, or one part of a latent.
FRAME_COUNTED = frozenset(
    "EmptyHunyuanLatentVideo Wan22ImageToVideoLatent WanImageToVideo WanFirstLastFrameToVideo WanFunInpaintToVideo WanFunControlToVideo "
    "Wan22FunControlToVideo WanVaceToVideo WanCameraImageToVideo WanPhantomSubjectToVideo WanTrackToVideo WanHuMoImageToVideo "
    "WanSoundImageToVideo WanSoundImageToVideoExtend WanInfiniteTalkToVideo".split()
)
NUMBERS = ("PrimitiveInt", "INTConstant")  # whose output is their `value`: another node's may be what it counts from
LATENTS = ("latent_image", "latent", "samples")

Prompt = Mapping[str, Mapping[str, Any]]  # the API's format: node id -> {"class_type", "inputs"}; a link is [node id, output]


def frames_of_videos(prompt: Prompt | None, node_id: str | None) -> tuple[int, ...]:
    """Pixel frames of the videos that the model goes to, shortest first; none unless numbers tell all. Later checks see the latents."""
    found = {length_behind(prompt or {}, latent) for latent in latents_along_the_model(prompt or {}, node_id)}
    known = sorted(frames for frames in found if frames is not None)
    return tuple(known) if len(known) == len(found) else ()


def latents_along_the_model(prompt: Prompt, node_id: str | None) -> Iterator[str]:
    """The nodes whose latents are sampled with what leaves `node_id` as a model."""
    reached = [node_id]
    for one in reached:
        for name, node in prompt.items():
            if name not in reached and any(origin == one for slot, origin in links(node) if carries_the_model(slot)):
                reached.append(name)
                yield from (origin for slot, origin in links(node) if slot in LATENTS)


def length_behind(prompt: Prompt, node_id: str, seen: tuple[str, ...] = ()) -> int | None:
    """The frames that the node which makes this latent says; through samplers, but not through nodes that may change its length."""
    node = prompt.get(node_id, {})
    inputs = node.get("inputs", {})
    if node.get("class_type") in FRAME_COUNTED:
        frames = number_behind(prompt, inputs.get("length"))
        reference = node["class_type"] == "WanVaceToVideo" and "reference_image" in inputs
        return frames + 4 if frames and reference else frames  # VACE keeps its reference as a latent frame before the video's
    if node_id in seen or not any(carries_the_model(slot) for slot, _ in links(node)):
        return None
    before = [length_behind(prompt, origin, (*seen, node_id)) for slot, origin in links(node) if slot in LATENTS]
    return next(iter(before), None)


def number_behind(prompt: Prompt, value: Any) -> int | None:
    if is_link(value):
        origin = prompt.get(str(value[0]), {})
        value = origin.get("inputs", {}).get("value") if origin.get("class_type") in NUMBERS else None
    return value if isinstance(value, int) and value >= 1 else None


def is_parked(prompt: Prompt | None, node_id: str | None) -> bool:
    """Whether what leaves `node_id` goes to nothing that runs: its link taken off, or the saving behind it muted.

    Nodes of the same kind do not count: they only pass it on. A node that an expansion made is never parked.
    """
    if prompt is None or node_id is None or node_id not in prompt:
        return False
    from nodes import NODE_CLASS_MAPPINGS  # the host's, filled only when it has started

    reached = [node_id]
    for one in reached:
        reached += [name for name, node in prompt.items() if name not in reached and any(origin == one for _, origin in links(node))]
    kinds = {prompt[name]["class_type"] for name in reached} - {prompt[node_id]["class_type"]}
    return not any(getattr(NODE_CLASS_MAPPINGS.get(kind), "OUTPUT_NODE", False) for kind in kinds)


def links(node: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(slot, str(value[0])) for slot, value in node.get("inputs", {}).items() if is_link(value)]


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def carries_the_model(slot: str) -> bool:
    return slot == "guider" or slot.startswith("model")
