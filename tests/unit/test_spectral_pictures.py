"""The Spectral Report shows what its record holds: colours of the better and the worse, nothing where nothing is."""

import numpy as np
import pytest
import torch
from wan_conductor.guidance import spectral_comparisons, spectral_pictures
from wan_conductor.guidance.spectral_page import BETTER_COLOUR, WORSE_COLOUR
from wan_conductor.guidance.spectral_pictures import FRAGMENTED, OVER_MIXED
from wan_conductor.guidance.spectral_record import SpectralRecord
from wan_conductor.guidance.spectral_statistics import paired_calls

OF_A_VIDEO = ("spectral_figure", "maps_figure", "operators_figure")
OF_PAIRS = ("shift_figure", "differences_figure", "cells_figure", "effects_figure", "dose_figure", "videos_figure", "heads_figure")
LAYERS, HEADS, FRAMES = 6, 3, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def band(spread):
    distance = (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).abs().double()
    return (-distance / spread).softmax(-1).expand(1, HEADS, 1, FRAMES, FRAMES)


def record(before=0.5, after=0.6, gamma=0.9, seed=0, layers=LAYERS, apart=0.0):
    """Bands of spread `before` and `after`, a little different in each call; fragmented below a spread of about 1.5. `apart`: gamma of
    neighbouring heads."""
    generator, made = torch.Generator().manual_seed(seed), SpectralRecord()
    for step in range(3):
        for layer in range(layers):
            jitter = 1 + 0.2 * float(torch.rand(1, generator=generator))
            factor = 1 + (gamma - 1) * jitter
            gammas = factor + apart * torch.arange(HEADS)[None]
            made.add(layer, layers, 1 - step / 9, 0.2, band(before * jitter), band(after * jitter), gammas)
    return made


def count(picture, colour, tolerance=4):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - rgb).max(-1) <= tolerance).sum())


def draw(name, *arguments, **values):
    return getattr(spectral_pictures if name in OF_A_VIDEO else spectral_comparisons, name)(*arguments, **values)


@pytest.mark.parametrize("name", OF_A_VIDEO)
def test_pictures_of_a_video_have_the_asked_size_and_show_the_record(name):
    picture = draw(name, record(), width=800, height=500)
    assert picture.shape == (500, 800, 3) and picture.dtype == np.uint8
    assert (picture != draw(name, record(before=3, after=2, gamma=1.1), width=800, height=500)).any()


@pytest.mark.parametrize("name", OF_PAIRS)
def test_pictures_of_pairs_have_the_asked_size_and_show_the_difference(name):
    plains, guideds = ([record(0.5, after, 0.9, seed) for seed in range(2)] for after in (0.5, 0.6))
    picture = draw(name, paired_calls(plains, guideds), width=800, height=600)
    assert picture.shape == (600, 800, 3) and picture.dtype == np.uint8
    assert (picture != draw(name, paired_calls(plains, [record(0.5, 0.8, 0.8, seed) for seed in range(2)]), width=800, height=600)).any()


def test_gamma_is_coloured_by_the_sign_of_the_tension():
    fragmented, over_mixed = draw("spectral_figure", record()), draw("spectral_figure", record(before=4, after=3, gamma=1.1))
    dots = [count(picture, colour, 90) for picture in (fragmented, over_mixed) for colour in (FRAGMENTED, OVER_MIXED)]
    assert dots[0] > dots[2] and dots[3] > dots[1]


def test_better_and_worse_have_their_colours():
    plains = [record(0.5, 0.5, 0.9, seed) for seed in range(2)]
    for name in ("differences_figure", "videos_figure"):
        # softer: |T| falls, the five metrics that want sharper attention worsen; sharper: the other way round
        softer = draw(name, paired_calls(plains, [record(0.5, 0.7, 0.9, seed) for seed in range(2)]))
        sharper = draw(name, paired_calls(plains, [record(0.5, 0.4, 0.9, seed) for seed in range(2)]))
        assert count(softer, BETTER_COLOUR) and count(softer, WORSE_COLOUR) > count(sharper, WORSE_COLOUR) > 0
        assert count(sharper, BETTER_COLOUR) > count(softer, BETTER_COLOUR)


@pytest.mark.parametrize("name", OF_A_VIDEO)
def test_a_run_without_correction_is_drawn(name):
    assert draw(name, record(0.5, 0.5, 1.0)).std() > 0
    assert draw(name, record(layers=1)).std() > 0


@pytest.mark.parametrize("name", OF_PAIRS)
def test_pairs_without_an_active_call_are_drawn(name):
    still = record(0.5, 0.5, 1.0)
    assert draw(name, paired_calls([still], [still])).std() > 0


def test_the_headline_tells_how_many_calls_found_their_partner(monkeypatch):
    monkeypatch.setattr(spectral_comparisons, "drawn", lambda figure: figure.texts[0].get_text())
    whole, part = record(), SpectralRecord()
    part.add(0, LAYERS, 1.0, 0.2, band(0.5), band(0.6), torch.full((1, HEADS), 0.9))
    assert draw("shift_figure", paired_calls([whole], [whole])).startswith("1 video, 18 matched calls,")
    assert draw("shift_figure", paired_calls([whole], [part])).startswith("1 video, 1 of 18 calls matched,")


@pytest.mark.parametrize("plain, guided, words", [
    ({}, {"apart": 0.01}, "one γ per call"), ({}, {}, "plain"), ({"gamma": 1.0}, {"apart": 0.01}, "plain"),
])  # fmt: skip
def test_what_gamma_per_head_gains_is_named_as_such(monkeypatch, plain, guided, words):
    monkeypatch.setattr(spectral_comparisons, "drawn", lambda figure: figure.axes[0].get_xlabel())
    assert draw("heads_figure", paired_calls([record(**plain)], [record(**guided)])) == words


def test_mean_operators_belong_to_the_layers_in_their_titles(monkeypatch):
    """Layers that do not divide evenly into the bands."""
    titles, shown = [], []
    monkeypatch.setattr(spectral_pictures, "set_title", lambda axes, words: titles.append(words))
    monkeypatch.setattr(spectral_pictures.Axes, "imshow", lambda axes, values, **_: shown.append(values))
    made = SpectralRecord()
    for layer in range(10):
        made.add(layer, 10, 0.9, 0.2, band(layer + 1.0), band(layer + 1.0), torch.ones(1, HEADS))
    draw("operators_figure", made)
    for words, values in zip(titles, shown, strict=False):
        first, last = map(int, words.removeprefix("layers ").split("–"))
        expected = torch.stack([band(layer + 1.0)[0, 0, 0] for layer in range(first, last + 1)]).mean(0)
        np.testing.assert_allclose(10**values, expected.clamp_min(0.1 / FRAMES), rtol=1e-5)
    assert len(shown) == 4
