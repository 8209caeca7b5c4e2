"""Makes a workflow's prompt small, and puts nodes of this pack into it as a user does: on the MODEL links, with Conductor Text Encode."""

import copy
from collections.abc import Iterator
from typing import Any

from wan_conductor.tests.editor_graph import Prompt, Schema

SAMPLERS = ("KSampler", "KSamplerAdvanced", "CFGGuider")  # what takes a MODEL and the conditioning
SIDE, STEPS = 64, 4
ENCODERS = ("CLIPTextEncode", "WanConductorTextEncode")


def small(prompt: Prompt, frames: int) -> Prompt:
    """`prompt` for a small video in few steps; of two experts that share the steps each takes half of them."""
    sizes = {"width": SIDE, "height": SIDE, "length": frames, "steps": STEPS}
    out = copy.deepcopy(prompt)
    for node in out.values():
        inputs = node["inputs"]
        inputs.update({key: value for key, value in sizes.items() if key in inputs})
        if node["class_type"] == "KSamplerAdvanced":
            first = inputs["add_noise"] == "enable"
            inputs.update({"end_at_step": STEPS // 2} if first else {"start_at_step": STEPS // 2, "end_at_step": 10000})
    return out


def samplers(prompt: Prompt) -> list[str]:
    return [name for name, node in prompt.items() if node["class_type"] in SAMPLERS]


def experts(prompt: Prompt) -> list[tuple[str, ...]]:
    """The samplers, those of Wan 2.2's two experts together, the high-noise one first."""
    found = samplers(prompt)
    if any(prompt[name]["class_type"] != "KSamplerAdvanced" for name in found):
        return [(name,) for name in found]
    return [tuple(sorted(found, key=lambda name: prompt[name]["inputs"]["add_noise"] != "enable"))]


def positive_link(prompt: Prompt, sampler: str) -> tuple[str, str]:
    """The node and input where the encoded positive prompt enters what leads to `sampler`."""
    node, name = sampler, "positive"
    while prompt[source := prompt[node]["inputs"][name][0]]["class_type"] not in ENCODERS:
        node = source
    return node, name


def defaults(info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Required inputs that have a value of their own."""
    for name, (kind, *options) in info["input"]["required"].items():
        told = options[0] if options else {}
        if "default" in told:
            yield name, told["default"]
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            yield name, told["options"][0]["key"]
        elif kind == "COMBO":
            yield name, told["options"][0]
        elif isinstance(kind, list):
            yield name, kind[0]


def spliced(prompt: Prompt, schema: Schema, kind: str, knobs: dict[str, Any], second: str = "") -> Prompt:
    """`prompt` with a node of class `kind` before every sampler, or before the node that gives it MODEL and conditioning together; one
    node for both experts. `second`: another prompt, for a node that takes several.
    """
    out = copy.deepcopy(prompt)
    takes = {**schema[kind]["input"]["required"], **schema[kind]["input"].get("optional", {})}
    for together in experts(prompt):
        name = f"{kind} {together[0]}"
        inputs = {**dict(defaults(schema[kind])), **knobs}
        for sampler, socket, slot in zip(together, ("model", "model_low_noise"), (0, 1)):
            entry = positive_link(prompt, sampler)[0]
            place = entry if "model" in prompt[entry]["inputs"] else sampler
            inputs[socket] = out[place]["inputs"]["model"]
            out[place]["inputs"]["model"] = [name, slot]
        entries = {positive_link(prompt, sampler) for sampler in together}
        for text in {prompt[node]["inputs"][key][0] for node, key in entries}:
            out[text]["class_type"] = "WanConductorTextEncode"
            if "conditioning" in takes:
                inputs["conditioning"] = [text, 0]
            if "prompts" in takes:
                inputs["prompts.prompt0"] = [text, 0]
                if second:
                    out[f"second {text}"] = {"class_type": ENCODERS[1], "inputs": {**out[text]["inputs"], "text": second}}
                    inputs["prompts.prompt1"] = [f"second {text}", 0]
                for node, key in entries:
                    out[node]["inputs"][key] = [name, 2]
        out[name] = {"class_type": kind, "inputs": inputs}
    return out


def with_guided_ksampler(prompt: Prompt, schema: Schema) -> Prompt:
    """`prompt` with Guided KSampler in the place of KSampler and KSamplerAdvanced."""
    out = copy.deepcopy(prompt)
    for name in samplers(prompt):
        given = out[name]["inputs"]
        inputs = dict(defaults(schema["WanConductorGuidedKSampler"]))
        given = {"noise_seed" if key == "seed" else key: value for key, value in given.items() if key != "denoise"}
        out[name] = {"class_type": "WanConductorGuidedKSampler", "inputs": {**inputs, **given}}
    return out


def latents_only(prompt: Prompt) -> tuple[Prompt, list[str]]:
    """`prompt` with a Save Latent behind every sampler, and their names. Of the rest the server runs what leads there."""
    custom = {node["inputs"]["guider"][0]: name for name, node in prompt.items() if node["class_type"] == "SamplerCustomAdvanced"}
    ends = [custom.get(name, name) for name in prompt if prompt[name]["class_type"] in (*SAMPLERS, "WanConductorGuidedKSampler")]
    saved = {f"latent {end}": {"class_type": "SaveLatent", "inputs": {"samples": [end, 0], "filename_prefix": "latent"}} for end in ends}
    return {**prompt, **saved}, list(saved)


def side_by_side(**prompts: Prompt) -> Prompt:
    """One prompt that holds all of them; the server runs what is equal in two of them once."""
    merged = {}
    for label, prompt in prompts.items():
        for name, node in prompt.items():
            inputs = {key: [f"{label} {value[0]}", value[1]] if isinstance(value, list) else value for key, value in node["inputs"].items()}
            merged[f"{label} {name}"] = {**node, "inputs": inputs}
    return merged


def without_outputs(prompt: Prompt, schema: Schema) -> Prompt:
    return {name: node for name, node in prompt.items() if not schema[node["class_type"]]["output_node"]}
