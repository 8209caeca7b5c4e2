"""A classifier that looks through the host's own CLIP_VISION, here a tiny one with random weights: frozen, differentiable, never saved."""

import json

import comfy.clip_vision
import pytest
import tiny_wan
import torch
from guided_prompts import prompt
from torch.nn import functional
from wan_conductor.guidance.classifier import SIZES, Classifier, CompositionNetwork, FeaturePlan, ModelIdentity
from wan_conductor.guidance.classifier_file import ClassifierFileError, load_classifier, save_classifier
from wan_conductor.guidance.classifier_training import FeatureSet, TrainingPlan, train_classifier
from wan_conductor.guidance.labels import KNOWN_LABELS, named
from wan_conductor.host.map_features import model_identity, planned
from wan_conductor.host.vision import FrozenVision
from wan_conductor.nodes.composition_guide import CompositionGuideNode
from wan_conductor.nodes.guided_ksampler import GuidedKSampler

CONFIG = {
    "hidden_act": "quick_gelu",
    "hidden_size": 32,
    "image_size": 28,
    "intermediate_size": 64,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 14,
    "projection_dim": 16,
}
LABELS = (named(KNOWN_LABELS, "left of"), named(KNOWN_LABELS, "right of"))
PLAN = FeaturePlan(blocks=(1, 2), head_groups=1, grid=(2, 2, 4), sigmas=(0.98, 0.9))
MODEL = ModelIdentity("WanModel", "t2v", 192, 5, 6)
TEXT = "a red cat near a blue dog"


def tiny_clip_vision(folder, seed=0, **changes):
    """The host's class, as its loader makes it, with random weights."""
    path = folder / f"config_{len(changes)}.json"
    path.write_text(json.dumps(CONFIG | changes))
    clip_vision = comfy.clip_vision.ClipVisionModel(str(path))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in clip_vision.get_sd().items():
        noise = torch.randn(weight.shape, generator=generator)
        is_norm = "norm" in name or "layrnorm" in name
        weights[name] = (1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise) if is_norm else noise * weight[0].numel() ** -0.5
    clip_vision.load_sd(weights)
    return clip_vision


@pytest.fixture
def clip_vision(tmp_path):
    return tiny_clip_vision(tmp_path)


@pytest.fixture
def vision(clip_vision):
    return FrozenVision(clip_vision, "here")


def dense_hidden(weights, pictures, mean, std):
    """Last hidden states written out from the weights, in fp64."""
    w = {name.removeprefix("vision_model."): weight.double() for name, weight in weights.items()}

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = (functional.interpolate(pictures, (28, 28), mode="bilinear") - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    patches = functional.unfold(x, 14, stride=14).transpose(1, 2) @ w["embeddings.patch_embedding.weight"].flatten(1).T
    x = torch.cat([w["embeddings.class_embedding"].expand(len(x), 1, -1), patches], dim=1) + w["embeddings.position_embedding.weight"]
    x = norm(x, "pre_layrnorm")
    for layer in range(2):
        at = f"encoder.layers.{layer}"
        y = norm(x, f"{at}.layer_norm1")
        q, k, v = (linear(y, f"{at}.self_attn.{name}_proj").unflatten(-1, (2, 16)).transpose(1, 2) for name in "qkv")
        y = ((q @ k.transpose(-1, -2) / 4).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{at}.self_attn.out_proj")
        y = linear(norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), f"{at}.mlp.fc2")
    return x


def test_tokens_and_their_gradient_equal_a_dense_reference(clip_vision, vision):
    with torch.inference_mode(False), torch.enable_grad():
        pictures = torch.rand(3, 3, 20, 36, generator=torch.Generator().manual_seed(1)).requires_grad_()
        tokens = vision(pictures)
        say = torch.linspace(-1, 1, tokens.numel()).view(tokens.shape)
        (gradient,) = torch.autograd.grad((tokens * say).sum(), pictures)
        exact = pictures.detach().double().requires_grad_()
        weights = {name: weight.clone() for name, weight in clip_vision.get_sd().items()}
        expected = dense_hidden(weights, exact, clip_vision.image_mean, clip_vision.image_std)
        (expected_gradient,) = torch.autograd.grad((expected * say).sum(), exact)
    assert tokens.shape == (3, 5, 32) and vision.width == 32
    torch.testing.assert_close(tokens, expected.float(), rtol=1e-3, atol=1e-3)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-3


def test_the_model_is_left_as_it_was(clip_vision, vision):
    pictures = torch.rand(1, 28, 28, 3)
    before = clip_vision.encode_image(pictures)["last_hidden_state"].clone()
    forwards = [vars(module).get("forward") for module in clip_vision.model.modules()]
    with torch.inference_mode(False), torch.enable_grad():
        vision(torch.rand(1, 3, 28, 28).requires_grad_()).sum().backward()
    assert torch.equal(clip_vision.encode_image(pictures)["last_hidden_state"], before)
    assert [vars(module).get("forward") for module in clip_vision.model.modules()] == forwards
    assert not any(module._forward_pre_hooks for module in clip_vision.model.modules())


def features(count=40, seed=0):
    """The first of two things lies left (label 0) or right (1) in every map."""
    labels = torch.arange(count) % 2
    maps = 0.5 * torch.randn(count, 2, 2, 2, 2, 1, 2, 2, 4, generator=torch.Generator().manual_seed(seed))
    side = torch.where(labels == 0, 1.0, -1.0).view(-1, 1, 1, 1, 1, 1, 1, 1)
    maps[:, :, :, 0, ..., :2] += 2 * side
    maps[:, :, :, 0, ..., 2:] -= 2 * side
    return FeatureSet(maps.half(), labels, torch.full((count,), 2), torch.arange(count))


def train(vision, steps, checkpoint=None):
    options = TrainingPlan(steps=steps, batch=8, measure_every=5, patience=0, rate=3e-3)
    return train_classifier(features(), PLAN, LABELS, MODEL, options, checkpoint, backbone=vision)


def test_only_aggregation_and_head_are_trained_and_they_learn_through_it(clip_vision, vision, tmp_path):
    before = {name: weight.clone() for name, weight in clip_vision.get_sd().items()}
    classifier = train(vision, 50)
    assert min(classifier.card["accuracy"]["right_prompt"], classifier.card["accuracy"]["wrong_prompt"]) >= 0.8
    assert all(torch.equal(weight, before[name]) for name, weight in clip_vision.get_sd().items())
    save_classifier(classifier, tmp_path / "seen.safetensors")
    own = sum(parameter.numel() for parameter in classifier.network.parameters())
    assert not any("vision_model" in name for name in classifier.network.state_dict()) and own < 200_000
    again = load_classifier(tmp_path / "seen.safetensors", vision)
    given, things = features(4).features[:, 0].float(), torch.tensor([2, 2, 2, 2])
    with torch.inference_mode(False), torch.no_grad():
        one, other = (net(given.clone(), things.clone(), [0, 1]) for net in (classifier.network, again.network))
    assert torch.equal(one, other)


def test_a_file_asks_for_the_vision_model_that_it_was_trained_with(vision, tmp_path):
    save_classifier(train(vision, 1), tmp_path / "seen.safetensors")
    with pytest.raises(ClassifierFileError, match="trained with a vision model \\(clip_vision_model, width 32, 2 layers, 28 pixels\\)"):
        load_classifier(tmp_path / "seen.safetensors")
    other = FrozenVision(tiny_clip_vision(tmp_path, num_hidden_layers=3), "here")
    with pytest.raises(ClassifierFileError, match="2 layers, 28 pixels, and `clip_vision` is .* 3 layers"):
        load_classifier(tmp_path / "seen.safetensors", other)
    save_classifier(train(None, 1), tmp_path / "plain.safetensors")
    with pytest.raises(ClassifierFileError, match="trained with no vision model"):
        load_classifier(tmp_path / "plain.safetensors", vision)


def test_it_is_resumed_bit_for_bit(vision, tmp_path):
    whole = train(vision, 10).network.state_dict()
    train(vision, 5, tmp_path / "t.pt")
    resumed = train(vision, 10, tmp_path / "t.pt").network.state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_a_vision_model_of_another_kind_is_refused():
    class Dino:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match="Load here: input `clip_vision` = Linear"):
        FrozenVision(Dino(), "Load here")


def test_guidance_goes_through_it_in_the_hosts_own_sampling(vision):
    model = tiny_wan.load(layers=2)
    plan = planned(model, (1, 16, 5, 6, 6), (0.1, 0.3))
    with torch.inference_mode(False):
        torch.manual_seed(1)
        network = CompositionNetwork(plan, SIZES["small"], LABELS, vision).eval().requires_grad_(False)
    classifier = Classifier(network, "small", plan, LABELS, model_identity(model), {})
    guided = CompositionGuideNode.execute(model, prompt(TEXT), "always  red cat | left of | blue dog", classifier=classifier).args[0]
    budget = {
        "budget": "custom",
        "start_percent": 0.0,
        "end_percent": 0.3,
        "iterations": 3,
        "step_size": 0.05,
        "growth": 1.0,
        "depth": 0.5,
        "memory_mode": "balanced",
        "patience": 0,
    }
    empty = {"samples": torch.zeros(1, 16, 5, 6, 6)}
    _, report = GuidedKSampler.execute(
        guided,
        "enable",
        7,
        4,
        3.0,
        "euler",
        "simple",
        prompt(TEXT),
        prompt("bad", seed=2),
        empty,
        0,
        10000,
        "disable",
        budget,
        {"switch_at": "t2v"},
    ).args
    for step in report.steps:
        scores = [record.objectives[0].traces["score"][0][0] for record in step.loop.iterations]
        assert scores[min(step.loop.kept[0], len(scores) - 1)] > scores[0]
