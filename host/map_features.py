"""What a classifier learns from: attention maps of finished videos, put back to a few noise levels, under two prompts each."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..guidance.budget import GuidanceBudget
from ..guidance.classifier import Classifier, FeaturePlan, ModelIdentity, head_groups_of, middle_blocks
from ..guidance.classifier_file import MOST
from ..guidance.classifier_training import NAME, FeatureSet, TrainingPlan, train_classifier
from ..guidance.classifier_vision import Backbone
from ..guidance.labels import Label
from ..guidance.objective import PhraseRef
from ..guidance.phrases import PhraseNotFound
from .attach import without_guidance
from .capture import attention_capture
from .latent_edit import rows_of_entries
from .tokens import encode_with_tokens

KEY = "wan_conductor_features"
GRID = (7, 8, 8)  # at most: frames, rows and columns of what the network sees
MAPS_BUDGET = GuidanceBudget(depth=0.01, memory_mode="fast")


@dataclass(frozen=True)
class Example:
    """One view of one video: its label, its things, what p+ and p- say, and its latent "1 c f h w" when asked for.

    video: the number of the file that it is a view of.
    """

    name: str
    video: int
    label: Label
    entities: tuple[str, ...]
    prompts: tuple[str, str]
    latent: Callable[[], Tensor]


def model_identity(model: Any) -> ModelIdentity:
    """Of a MODEL that is Wan."""
    wan = model.model.diffusion_model
    wan = getattr(wan, "_orig_mod", wan)
    return ModelIdentity(type(wan).__name__, str(wan.model_type), int(wan.dim), len(wan.blocks), int(wan.num_heads))


def sigmas_at(model: Any, percents: Sequence[float]) -> tuple[float, ...]:
    """Noise levels at these shares of the model's schedule, 0..1, ends left out: there the video is pure noise, or none."""
    if not 1 <= len(percents) <= MOST["sigmas"] or not all(0 < percent < 1 for percent in percents):
        raise ValueError(f"{NAME}: `percents` = {list(percents)}: must be 1 to {MOST['sigmas']} numbers between 0 and 1, such as 0.1, 0.2")
    model_sampling = model.get_model_object("model_sampling")
    return tuple(float(model_sampling.percent_to_sigma(percent)) for percent in sorted(set(percents)))


def planned(model: Any, latent_shape: Sequence[int], percents: Sequence[float], blocks: Sequence[int] = ()) -> FeaturePlan:
    """Which maps of this MODEL are read of latents "b c f h w"; blocks: none for some from its middle. Raises ValueError for blocks that it
    lacks."""
    identity = model_identity(model)
    if wrong := [block for block in blocks if not 0 <= block < identity.blocks]:
        raise ValueError(f"{NAME}: `blocks` = {list(blocks)}: {wrong[0]} is none of this model's, which are 0 to {identity.blocks - 1}")
    chosen = tuple(sorted(set(blocks))) or middle_blocks(identity.blocks)
    tokens = (-(-size // patch) for size, patch in zip(latent_shape[2:], model.model.diffusion_model.patch_size, strict=True))
    frames, height, width = (min(most, own) for most, own in zip(GRID, tokens))
    return FeaturePlan(chosen, head_groups_of(identity.heads), (frames, height, width), sigmas_at(model, percents))


class MapSampler(comfy.samplers.Sampler):
    """In place of a sampler: noises the latent it is given and measures the maps of both prompts, "p s g f h w"."""

    def __init__(self, plan: FeaturePlan, refs: Sequence[PhraseRef], inversion_steps: int):
        self.plan, self.refs, self.inversion_steps = plan, refs, inversion_steps
        self.features: Tensor | None = None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        inner_model, options = model_wrap.inner_model, extra_args.get("model_options", {})
        latent_image = torch.zeros_like(noise) if latent_image is None else latent_image
        levels = torch.tensor(self.plan.sigmas, device=noise.device)
        found = []
        for side in ("positive", "wrong"):
            entry = model_wrap.conds[side][0]
            if self.inversion_steps:
                z = inverted(inner_model, entry, options, latent_image, levels, self.inversion_steps)
            else:
                z = torch.cat([inner_model.model_sampling.noise_scaling(level, noise, latent_image) for level in levels])
            rows = rows_of_entries([entry], self.refs)[0]
            wanted = [(rows[place], one) for place, ref in enumerate(self.refs) for one in self.plan.places(ref)]
            groups, places = zip(*wanted, strict=True)
            with attention_capture(inner_model, options, MAPS_BUDGET) as attention_of, torch.no_grad():
                maps = attention_of(entry, z.clone(), levels.clone(), groups, places)
                found.append(self.plan.features(maps).to("cpu", torch.float16))
        self.features = torch.stack(found)
        return latent_image


def inverted(inner_model: Any, entry: dict[str, Any], options: dict[str, Any], z: Tensor, levels: Tensor, steps: int) -> Tensor:
    """Latents "s c f h w" on the model's own way from the video `z` to noise under this prompt: Euler on dz/dsigma = v, from sigma 0 up.

    The paper replays the way back down from the noise; here each level is taken as it is passed, without the errors of a second way.
    """
    highest = float(levels.max())
    stops = sorted({0.0, *(highest * (index + 1) / steps for index in range(steps)), *levels.tolist()})
    found: dict[float, Tensor] = {}
    for sigma, following in zip(stops, stops[1:]):
        at = max(sigma, stops[1] / 2)  # v = (z - x0) / sigma; the model knows no sigma of 0
        denoised = comfy.samplers.calc_cond_batch(inner_model, [[entry]], z, z.new_full([len(z)], at), options)[0]
        z = z + (following - sigma) * (z - denoised) / at
        found[following] = z
    return torch.cat([found[level] for level in levels.tolist()])


def features_of(
    model: Any, encode: Callable[[str], Any], example: Example, plan: FeaturePlan, seed: int, inversion_steps: int = 0
) -> Tensor:
    """Features "p s r l k f h w" of one example, fp16; `encode` gives the CONDITIONING of a prompt with its tokens."""
    latent = example.latent()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {example.name}".encode()).digest()[:7], "big"))
    noise = torch.randn(latent.shape, generator=generator)
    sampler = MapSampler(plan, [PhraseRef(words) for words in example.entities], inversion_steps)
    guider = comfy.samplers.CFGGuider(without_guidance(model))
    guider.inner_set_conds({side: encode(prompt) for side, prompt in zip(("positive", "wrong"), example.prompts, strict=True)})
    guider.set_cfg(1.0)
    try:
        guider.sample(noise, latent, sampler, torch.tensor([max(plan.sigmas), 0.0]), disable_pbar=True, seed=seed)
    except PhraseNotFound as error:
        raise PhraseNotFound(f"{NAME}: `{example.name}`: {error}") from error
    assert sampler.features is not None
    return sampler.features


def collect_features(
    model: Any,
    encode: Callable[[str], Any],
    examples: Sequence[Example],
    labels: Sequence[Label],
    plan: FeaturePlan,
    folder: Path,
    seed: int = 0,
    inversion_steps: int = 0,
    on_example: Callable[[int], None] = lambda done: None,
) -> FeatureSet:
    """Features of all examples, a file for each in `folder`: what is there already, made in the same way, is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index, example in enumerate(examples):
        comfy.model_management.throw_exception_if_processing_interrupted()
        told = made_how(model, example, plan, seed, inversion_steps)
        path = folder / f"{hashlib.sha256(example.name.encode()).hexdigest()[:24]}.safetensors"
        features = stored(path, told)
        if features is None:
            features = features_of(model, encode, example, plan, seed, inversion_steps)
            part = path.with_suffix(".part")
            save_file({"features": features.contiguous()}, part, {KEY: told})
            os.replace(part, path)
        found.append(features)
        on_example(index + 1)
    most = max(label.entities for label in labels)
    padded = [torch.cat([one, one.new_zeros(*one.shape[:2], most - one.shape[2], *one.shape[3:])], dim=2) for one in found]
    names = [label.name for label in labels]
    return FeatureSet(
        torch.stack(padded),
        torch.tensor([names.index(example.label.name) for example in examples]),
        torch.tensor([example.label.entities for example in examples]),
        torch.tensor([example.video for example in examples]),
    )


def trained(
    model: Any,
    clip: Any,
    examples: Sequence[Example],
    labels: tuple[Label, ...],
    plan: FeaturePlan,
    options: TrainingPlan,
    work: Path,
    inversion_steps: int = 0,
    on_example: Callable[[int], None] = lambda done: None,
    on_step: Callable[[int], None] = lambda step: None,
    device: torch.device | None = None,
    backbone: Backbone | None = None,
) -> Classifier:
    """A classifier of the examples. What is done is kept in the folder `work`, from which the same call goes on; remove it at the end."""
    encode = functools.lru_cache(maxsize=256)(lambda text: encode_with_tokens(clip, text))
    features = collect_features(model, encode, examples, labels, plan, work / "features", options.seed, inversion_steps, on_example)
    told = fingerprint(model, examples, labels, plan, options.seed, inversion_steps)
    card = {"inversion_steps": inversion_steps, "seed": options.seed}
    return train_classifier(
        features, plan, labels, model_identity(model), options, work / "training.pt", told, on_step, device, card, backbone
    )


def made_how(model: Any, example: Example, plan: FeaturePlan, seed: int, inversion_steps: int) -> str:
    return json.dumps(
        [
            example.name,
            example.entities,
            example.prompts,
            asdict(plan),
            asdict(model_identity(model)),
            weights_mark(model),
            seed,
            inversion_steps,
        ]
    )


def fingerprint(
    model: Any, examples: Sequence[Example], labels: Sequence[Label], plan: FeaturePlan, seed: int, inversion_steps: int
) -> str:
    """Of everything that features depend on, and of which label each answer of the network means."""
    told = [(example.label.name, made_how(model, example, plan, seed, inversion_steps)) for example in examples]
    return hashlib.sha256(json.dumps([[asdict(label) for label in labels], told]).encode()).hexdigest()


def weights_mark(model: Any) -> str:
    """Tells a model from another of the same make, and one with a LoRA from one without: a few of its weights, and what patches it."""
    some = model.model.diffusion_model.blocks[0].cross_attn.norm_q.weight.detach().flatten().float().tolist()
    patches = {name: [patch[0] for patch in of_weight] for name, of_weight in sorted(model.patches.items())}
    return hashlib.sha256(json.dumps([some, patches], default=str).encode()).hexdigest()[:16]


def stored(path: Path, told: str) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            return opened.get_tensor("features") if (opened.metadata() or {}).get(KEY) == told else None
    except SafetensorError:  # cut off while it was copied here
        return None
