"""A classifier as one safetensors file: weights, and as JSON metadata what it reads, what it tells apart, and how well."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .classifier import SIZES, Classifier, CompositionNetwork, FeaturePlan, ModelIdentity
from .classifier_vision import Backbone, VisionHead
from .labels import KNOWN_LABELS, Label, named

KEY = "wan_conductor_composition"
SCHEMA = 1
LARGEST_FILE = 64 * 2**20
MOST = {"blocks": 64, "head_groups": 64, "grid": 128, "sigmas": 16, "labels": 256}
SHARES = ("right_prompt", "wrong_prompt", "chance")  # of the accuracy: what nodes show


class ClassifierFileError(ValueError):
    """A file that is no classifier of this version, and why."""


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write it whole or not at all."""
    told = {
        "schema": SCHEMA,
        "size": classifier.size,
        "plan": asdict(classifier.plan),
        "labels": [asdict(label) for label in classifier.labels],
        "roles": ["a", "b", "c"][: classifier.network.roles],
        "model": asdict(classifier.model),
        "backbone": backbone_of(classifier),
        "card": classifier.card,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    weights = {name: weight.detach().cpu().contiguous() for name, weight in classifier.network.state_dict().items()}
    save_file(weights, part, {"format": "pt", KEY: json.dumps(told, ensure_ascii=False, allow_nan=False)})
    os.replace(part, path)


def backbone_of(classifier: Classifier) -> str:
    """The name of the vision model that it was trained with; empty: none."""
    head = classifier.network.head
    return head.backbone.name if isinstance(head, VisionHead) else ""


def load_classifier(path: Path, backbone: Backbone | None = None) -> Classifier:
    """The classifier of a file, frozen, outside inference mode: its weights must be normal tensors for autograd. `backbone`: the vision
    model, for a file that was trained with one. Raises ClassifierFileError."""
    if path.stat().st_size > LARGEST_FILE:
        raise ClassifierFileError(f"{path.name} is larger than {LARGEST_FILE // 2**20} MB: no classifier is")
    with torch.inference_mode(False):
        try:
            with safe_open(path, "pt") as opened:
                metadata = opened.metadata() or {}
                weights = {name: opened.get_tensor(name) for name in opened.keys()} if KEY in metadata else {}
        except SafetensorError as error:
            raise ClassifierFileError(f"{path.name} is no safetensors file ({error})") from error
        if KEY not in metadata:
            raise ClassifierFileError(f"{path.name} is no composition classifier: its metadata has no `{KEY}`")
        try:
            return built(json.loads(metadata[KEY]), weights, backbone)
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError) as error:
            raise ClassifierFileError(f"{path.name}: its metadata is damaged ({type(error).__name__}: {error})") from error
        except ValueError as error:
            raise ClassifierFileError(f"{path.name}: {error}") from error


def built(told: dict[str, Any], weights: dict[str, torch.Tensor], backbone: Backbone | None) -> Classifier:
    if told["schema"] != SCHEMA:
        raise ValueError(f"schema {told['schema']}, and this version of Wan Conductor reads schema {SCHEMA}: train it anew, or update")
    if told["size"] not in SIZES:
        raise ValueError(f"size {told['size']!r} is none of {', '.join(SIZES)}")
    blocks, grid, sigmas = (told["plan"][name] for name in ("blocks", "grid", "sigmas"))
    frames, height, width = map(int, grid)
    plan = FeaturePlan(tuple(map(int, blocks)), int(told["plan"]["head_groups"]), (frames, height, width), tuple(map(float, sigmas)))
    labels = tuple(Label(**{name: label[name] for name in ("name", "entities", "mirrored", "reversed")}) for label in told["labels"])
    check_plan(plan, labels)
    check_labels(labels)
    check_card(told["card"])
    check_backbone(told["backbone"], backbone)
    network = CompositionNetwork(plan, SIZES[told["size"]], labels, backbone)
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        name = next(name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name))
        raise ValueError(f"weight `{name}` is {found.get(name, 'missing')}, and its metadata asks for {expected.get(name, 'none')}")
    if broken := [name for name, weight in weights.items() if not weight.float().isfinite().all()]:
        raise ValueError(f"weight `{broken[0]}` is not finite")
    network.load_state_dict(weights)
    return frozen(network, told["size"], plan, labels, ModelIdentity(**told["model"]), told["card"])


def check_backbone(wanted: str, given: Backbone | None) -> None:
    if wanted and given is None:
        raise ValueError(f"it was trained with a vision model ({wanted}): connect that one to `clip_vision` (Load CLIP Vision)")
    if given is not None and given.name != wanted:
        raise ValueError(
            f"it was trained with {wanted or 'no vision model'}, and `clip_vision` is {given.name}: connect what it was trained with"
        )


def check_plan(plan: FeaturePlan, labels: tuple[Label, ...]) -> None:
    """Before anything is built from the numbers of a file."""
    counts = {"blocks": plan.blocks, "sigmas": plan.sigmas, "labels": labels}
    for name, values in counts.items():
        if not 1 <= len(values) <= MOST[name]:
            raise ValueError(f"{len(values)} {name}: must be 1 to {MOST[name]}")
    if not all(1 <= n <= MOST["grid"] for n in plan.grid) or math.prod(plan.grid) > 2**14:
        raise ValueError(f"grid {plan.grid}: must be three numbers, frames, height and width, with a product of {2**14} at most")
    if not 1 <= plan.head_groups <= MOST["head_groups"] or min(plan.blocks) < 0 or len(set(plan.blocks)) < len(plan.blocks):
        raise ValueError(f"blocks {plan.blocks} with {plan.head_groups} head groups: must be different blocks, and 1 to 64 groups")
    if not all(0 < sigma <= 1 for sigma in plan.sigmas):
        raise ValueError(f"sigmas {plan.sigmas}: must lie in 0..1")


def check_labels(labels: tuple[Label, ...]) -> None:
    """What the timeline of Composition Guide is read by."""
    if not all(type(label.entities) is int and 1 <= label.entities <= 3 for label in labels):
        raise ValueError(f"labels about {[label.entities for label in labels]} things: must be 1, 2 or 3")
    names = [label.name for label in labels]
    if not all(isinstance(name, str) and name.strip() for name in names) or len(set(names)) < len(names):
        raise ValueError(f"labels {names}: must be different names")
    for label in labels:
        known = named(KNOWN_LABELS, label.name)
        if known is not None and known.entities != label.entities:
            raise ValueError(f"label `{label.name}` about {label.entities} things: the relation of that name is about {known.entities}")


def check_card(card: dict[str, Any]) -> None:
    accuracy = card.get("accuracy") or {}
    if not all(isinstance(accuracy.get(name, 0.0), (int, float)) for name in SHARES):
        raise ValueError(f"accuracy {accuracy}: {', '.join(SHARES)} must be numbers")


def frozen(
    network: CompositionNetwork, size: str, plan: FeaturePlan, labels: tuple[Label, ...], model: ModelIdentity, card: dict[str, Any]
) -> Classifier:
    network.eval().requires_grad_(False)
    return Classifier(network, size, plan, labels, model, card)
