"""The tiny Wans are what the host takes them for."""

import pytest
import tiny_wan
import torch

HOST_MODEL = {"vace": "WAN21_Vace", "5B": "WAN22"}


@pytest.mark.parametrize("kind", tiny_wan.KINDS)
def test_every_kind_loads_as_that_model_and_samples(kind):
    model = tiny_wan.load(kind, layers=2)
    channels = 48 if kind == "5B" else 16
    assert type(model.model).__name__ == HOST_MODEL.get(kind, "WAN21")
    assert all(p.is_inference() for p in model.model.diffusion_model.parameters())
    noise = tiny_wan.latent_like(channels=channels)
    positive, negative = tiny_wan.conditioning(seed=1), tiny_wan.conditioning(seed=2)
    out = tiny_wan.sample(model, positive, negative, noise, steps=1)
    assert out.shape == noise.shape
    assert out.isfinite().all() and out.std() > 0.1


@pytest.mark.parametrize("weight_format", tiny_wan.FORMATS)
def test_every_weight_format_loads_and_samples(weight_format):
    model = tiny_wan.load(weight_format=weight_format, layers=2)
    weight = model.model.diffusion_model.blocks[0].ffn[0].weight
    assert weight.dtype == {"fp32": torch.float32, **tiny_wan.STORED}.get(weight_format, weight.dtype)
    out = tiny_wan.sample(model, tiny_wan.conditioning(seed=1), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), steps=1)
    assert out.isfinite().all() and out.std() > 0.1
