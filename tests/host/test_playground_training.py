"""Training the playground's model is repeatable and can be cut off anywhere."""

import comfy.model_management
import pytest
import torch
from safetensors.torch import load_file
from wan_conductor.playground import network, train

pytestmark = pytest.mark.outside_inference_mode


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(network, "WAN_CONFIG", {**network.WAN_CONFIG, "num_layers": 1 + max(train.READ_TEXT, train.READ_PLACE)})
    monkeypatch.setattr(comfy.model_management, "in_training", comfy.model_management.in_training)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.setattr(train, "TOKENIZER_CAPTIONS", 500)


def run(folder, steps: int, *more: str) -> dict[str, torch.Tensor]:
    samples = ["--samples", str(2 * steps), "--batch", "2", "--threads", "1"]
    train.main(["--folder", str(folder), "--weights", str(folder / "weights"), *samples, *more])
    return load_file(folder / "weights" / "wan.safetensors") | load_file(folder / "weights" / "umt5.safetensors")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    a, b = run(tmp_path / "a", 2, "--device", "cpu"), run(tmp_path / "b", 2, "--device", "cpu")
    other = run(tmp_path / "c", 2, "--device", "cpu", "--seed", "2")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], other[k]) for k in a)


def test_a_training_cut_off_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "learning_rate", lambda step, steps: 1.0)
    whole = run(tmp_path / "whole", 4, "--device", "cpu")
    run(tmp_path / "cut", 2, "--device", "cpu")
    resumed = run(tmp_path / "cut", 4, "--device", "cpu")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_training_learns(tmp_path, monkeypatch):
    losses = []
    update = train.Training.update
    monkeypatch.setattr(train.Training, "update", lambda *a, **k: losses.append(float(loss := update(*a, **k))) or loss)
    run(tmp_path, 60, "--device", "cpu")
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_training_can_begin_with_weight_files(tmp_path):
    first = run(tmp_path / "first", 2, "--device", "cpu")
    # no step: what is written is what was read
    training = train.Training(7, 1e-3, "cpu")
    training.start_from(tmp_path / "first" / "weights")
    wan, umt5 = training.averaged()
    assert all(torch.equal(v.bfloat16(), first[k]) for k, v in (wan | umt5).items())
