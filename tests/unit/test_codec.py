"""The linear codec is exact, and Wan's preview factors read its latents."""

import random

import pytest
import torch
from wan_conductor.playground import codec, world

FACTORS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) * 0.2
BIAS = torch.tensor([-0.2, -0.1, -0.3])
MATRICES = codec.codec_matrices(FACTORS, BIAS)


def canvas(count: int = 2) -> torch.Tensor:
    rng = random.Random(0)
    return world.draw([world.sample_clip(rng) for _ in range(count)])


def test_latents_decode_to_what_was_encoded():
    drawn = canvas()
    latent = codec.latent_of_canvas(drawn, MATRICES)
    assert latent.shape == (2, 16, 13, 8, 8)
    torch.testing.assert_close(codec.canvas_of_latent(latent, MATRICES), drawn, atol=1e-5, rtol=0)


def test_preview_factors_give_the_mean_colour_of_each_latent_cell():
    drawn = canvas()
    latent = codec.latent_of_canvas(drawn, MATRICES)
    preview = torch.einsum("bkfhw,kc->bfchw", latent, FACTORS) + BIAS.view(3, 1, 1)
    mean = torch.nn.functional.avg_pool2d(drawn.flatten(0, 1), 2).view(2, 13, 3, 8, 8)
    torch.testing.assert_close(preview, mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize("latent_frames, pixel_frames", [(1, 1), (2, 5), (13, 49)])
def test_latent_j_fills_pixel_frames_4j_minus_3_to_4j(latent_frames, pixel_frames):
    pixels = codec.pixels_of_canvas(canvas(1)[:, :latent_frames])
    assert pixels.shape == (1, pixel_frames, 64, 64, 3)
    for j in range(1, latent_frames):
        assert (pixels[:, 4 * j - 3 : 4 * j + 1] == pixels[:, 4 * j : 4 * j + 1]).all()


def test_pixels_encode_back_to_the_canvas():
    smooth = canvas() * 0.5  # within range after the cubic overshoot, so that nothing is clamped
    torch.testing.assert_close(codec.canvas_of_pixels(codec.pixels_of_canvas(smooth)), smooth, atol=1e-4, rtol=0)
