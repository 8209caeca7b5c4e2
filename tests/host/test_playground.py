"""The playground's sockets are the host's own, and training sees exactly what sampling will see."""

import random

import comfy.latent_formats
import pytest
import torch
from wan_conductor.playground import codec, network, sockets, tellings, world

pytestmark = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


@pytest.fixture(scope="module")
def clip():
    return sockets.load_clip()


@pytest.fixture(scope="module")
def captions():
    return tellings.Captions(network.load_weights("umt5")["spiece_model"])


def told(count: int = 40) -> list[world.Clip]:
    rng = random.Random(2)
    return [world.sample_clip(rng) for _ in range(count)]


def test_training_and_host_tokenise_alike(clip, captions):
    for c in told():
        ids = [t[0] for t in clip.tokenize(c.caption)["umt5xxl"][0]]
        assert ids[: len(captions.ids(c.caption))] == captions.ids(c.caption)
        assert len(ids) == network.TEXT_ROWS and not any(ids[len(captions.ids(c.caption)) :])


def test_every_caption_fits_the_training_rows(captions):
    assert max(len(captions.ids(c.caption)) for c in told(2000)) < tellings.CAPTION_ROWS


def test_phrase_rows_hold_the_words_of_the_phrase(captions):
    for c in told():
        ids = captions.ids(c.caption)
        for (text, _), rows in zip(c.phrases, captions.phrase_rows(c)):
            assert captions.pieces.decode([ids[r] for r in rows]) == text


def test_training_and_host_encode_alike(clip, captions):
    c = told(1)[0]
    host = clip.encode_from_tokens_scheduled(clip.tokenize(c.caption))[0][0]
    with torch.inference_mode():
        ours = tellings.encode_rows(clip.cond_stage_model.umt5xxl.transformer, captions.batch([c.caption]))
    torch.testing.assert_close(ours[0], host[0, : tellings.CAPTION_ROWS], atol=2e-5, rtol=1e-4)
    assert not host[0, tellings.CAPTION_ROWS :].any()


def test_exchanged_phrases_keep_the_rows_of_the_telling_that_holds_them(captions):
    clips = [c for c in told(80) if len(c.phrases) > 1]
    telling = tellings.tell(captions, clips, random.Random(3))
    assert len(telling.exchanged) > 5
    assert (telling.keep.sum(0) == 1).all()
    for n, i in enumerate(telling.exchanged.tolist()):
        for phrase in captions.phrase_rows(clips[i]):
            held = 0 if telling.keep[0, n, phrase].all() else 1
            assert telling.keep[held, n, phrase].all()
            assert torch.equal(telling.other[held, n, phrase], telling.ids[i, phrase])


def test_weighted_rows_equal_attention_over_all_512_rows(clip, captions):
    c = told(1)[0]
    model = sockets.load_model().model.diffusion_model
    x, t = torch.randn(1, 16, 13, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([700.0])
    host = clip.encode_from_tokens_scheduled(clip.tokenize(c.caption))[0][0]
    with torch.inference_mode():
        rng = random.Random(5)
        telling = tellings.tell(captions, [world.Clip(c.subjects, c.caption, c.phrases[:1])], rng)
        assert telling.ids.any() and not len(telling.exchanged)
        rows = tellings.text_rows(clip.cond_stage_model.umt5xxl.transformer, telling)
        options = {"optimized_attention_override": tellings.weighted_rows_attention, "row_weight": telling.weight}
        torch.testing.assert_close(model(x, t, rows, transformer_options=options), model(x, t, host), atol=1e-4, rtol=1e-3)


def test_weights_stay_small():
    assert sum(f.stat().st_size for f in network.WEIGHTS.glob("*.safetensors")) <= 24e6
    assert (network.WEIGHTS / "wan.safetensors").stat().st_size <= 16e6


def test_vae_decodes_to_wan_lengths_and_encodes_back():
    vae = sockets.load_vae()
    rng = random.Random(0)
    matrices = network.load_weights("codec")
    canvas = world.draw([world.sample_clip(rng)]) * 0.5
    latent = comfy.latent_formats.Wan21().process_out(codec.latent_of_canvas(canvas, matrices))
    pixels = vae.decode(latent)
    assert pixels.shape == (1, 49, 64, 64, 3)
    torch.testing.assert_close(vae.encode(pixels[0]), latent, atol=2e-3, rtol=0)
    torch.testing.assert_close(vae.decode_tiled(latent, tile_x=64, tile_y=64, overlap=0), pixels, atol=1e-4, rtol=0)


def test_preview_factors_read_the_latents():
    form, rng = comfy.latent_formats.Wan21(), random.Random(0)
    canvas = world.draw([world.sample_clip(rng)])
    latent = codec.latent_of_canvas(canvas, network.load_weights("codec"))
    preview = torch.einsum("bkfhw,kc->bfchw", latent, torch.tensor(form.latent_rgb_factors)) + torch.tensor(
        form.latent_rgb_factors_bias
    ).view(3, 1, 1)
    mean = torch.nn.functional.avg_pool2d(canvas[0], 2)[None]
    torch.testing.assert_close(preview, mean, atol=1e-4, rtol=0)
