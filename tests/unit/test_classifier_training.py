"""Training of a classifier: it learns, both prompts keep words from leaking, and a training that is cut off goes on bit for bit."""

import json

import pytest
import torch
from wan_conductor.guidance import classifier_training
from wan_conductor.guidance.classifier import FeaturePlan, ModelIdentity
from wan_conductor.guidance.classifier_file import load_classifier, save_classifier
from wan_conductor.guidance.classifier_training import FeatureSet, TrainingPlan, some_of, train_classifier
from wan_conductor.guidance.labels import KNOWN_LABELS, named

PLAN = FeaturePlan(blocks=(1, 2), head_groups=1, grid=(2, 2, 4), sigmas=(0.98, 0.9))
LABELS = (named(KNOWN_LABELS, "left of"), named(KNOWN_LABELS, "right of"))
MODEL = ModelIdentity("WanModel", "t2v", 192, 5, 6)
OPTIONS = TrainingPlan(steps=12, batch=8, measure_every=4, patience=0)


def features(count=60, shown=1.0, told=0.0, seed=0):
    """Two things, in every map the first lies left (label 0) or right (1) by `shown`; a trace of the told word, as large as `told`, in the
    first frame's upper row."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    maps = torch.randn(count, 2, 2, 2, 2, 1, 2, 2, 4, generator=generator)
    for index, label in enumerate(labels.tolist()):
        maps[index, :, :, 0, ..., :2] += shown * (1 if label == 0 else -1)
        maps[index, :, :, 0, ..., 2:] -= shown * (1 if label == 0 else -1)
        for prompt in (0, 1):
            says = label if prompt == 0 else 1 - label
            maps[index, prompt, :, 1, ..., 0, 0, :] += told * (1 if says == 0 else -1)
    return FeatureSet(maps.half(), labels, torch.full((count,), 2), torch.arange(count))


def train(options=OPTIONS, given=None, checkpoint=None, on_step=lambda step: None, fingerprint="same"):
    return train_classifier(given or features(), PLAN, LABELS, MODEL, options, checkpoint, fingerprint, on_step)


def weights(classifier):
    return classifier.network.state_dict()


def same(one, other):
    return all(torch.equal(weight, weights(other)[name]) for name, weight in weights(one).items())


def cut_at(last):
    def on_step(step):
        if step == last:
            raise KeyboardInterrupt

    return on_step


def test_it_learns_what_is_shown_and_reports_it(tmp_path):
    classifier = train(TrainingPlan(steps=60, batch=16, measure_every=20))
    accuracy = classifier.card["accuracy"]
    assert min(accuracy["right_prompt"], accuracy["wrong_prompt"], *accuracy["by_sigma"], *accuracy["by_layer"]) >= 0.9
    assert accuracy["chance"] == 0.5 and len(accuracy["by_sigma"]) == len(accuracy["by_layer"]) == 2
    confusion = torch.tensor(accuracy["confusion"])
    assert confusion.sum() == 2 * classifier.card["held_back"] and confusion.diagonal().sum() >= 0.9 * confusion.sum()
    save_classifier(classifier, tmp_path / "one.safetensors")
    assert load_classifier(tmp_path / "one.safetensors").card == json.loads(json.dumps(classifier.card))


def test_with_both_prompts_a_trace_of_the_words_is_worth_nothing_and_with_one_it_is_learned_in_place_of_what_is_shown():
    given = features(shown=0.25, told=2.0)
    gap = {}
    for dual in (True, False):
        accuracy = train(TrainingPlan(steps=80, batch=16, measure_every=80, dual=dual), given).card["accuracy"]
        gap[dual] = accuracy["leakage_gap"]
        assert accuracy["leakage_gap"] == pytest.approx(accuracy["right_prompt"] - accuracy["wrong_prompt"], abs=2e-4)
    assert gap[False] > 0.5 > 0.2 >= abs(gap[True])


def test_the_same_seed_gives_the_same_classifier_and_leaves_the_callers_randomness_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = train()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert same(one, train()) and not same(one, train(TrainingPlan(steps=12, batch=8, measure_every=4, patience=0, seed=1)))


def test_a_training_cut_off_goes_on_bit_for_bit(tmp_path):
    whole, steps = train(), []
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / "t.pt", on_step=cut_at(6))
    assert [path.name for path in tmp_path.iterdir()] == ["t.pt"]
    resumed = train(checkpoint=tmp_path / "t.pt", on_step=steps.append)
    assert steps[0] == 4 and same(whole, resumed) and whole.card == resumed.card


def test_another_training_does_not_go_on_from_it(tmp_path):
    train(checkpoint=tmp_path / "t.pt")
    for change in ({"fingerprint": "other"}, {"options": TrainingPlan(steps=12, batch=8, measure_every=4, patience=0, seed=1)}):
        steps = []
        train(checkpoint=tmp_path / "t.pt", on_step=steps.append, **change)
        assert steps[0] == 0
    steps = []
    train(TrainingPlan(steps=14, batch=8, measure_every=4, patience=0, seed=1), checkpoint=tmp_path / "t.pt", on_step=steps.append)
    assert steps == [12, 13]  # only longer


def test_it_ends_early_and_keeps_the_best(monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    kept = []

    def measure(self, loss, held_back):
        found = next(losses)
        self.history.measured.append({"step": self.step, "trained": loss, "held_back": found})
        kept.append({name: weight.clone() for name, weight in self.network.state_dict().items()})
        better = found < self.best_loss
        self.best_loss, self.stale, self.best = (found, 0, kept[-1]) if better else (self.best_loss, self.stale + 1, self.best)

    monkeypatch.setattr(classifier_training.Training, "measure", measure)
    classifier = train(TrainingPlan(steps=100, batch=8, measure_every=2, patience=2))
    assert len(kept) == 4 and classifier.card["training"]["ended"] == "no longer better"
    assert all(torch.equal(weight, kept[1][name]) for name, weight in weights(classifier).items())


def test_it_works_in_the_hosts_inference_mode():
    with torch.inference_mode():
        given = features()
        inside = train(given=given)
    assert same(inside, train())


def test_views_of_one_video_are_never_on_both_sides():
    given = features(40)
    views = FeatureSet(given.features, given.labels, given.things, torch.arange(40) // 4)
    held_back = views.held_back()
    assert 0 < int(held_back.sum()) < 40
    assert set(views.videos[held_back].tolist()).isdisjoint(views.videos[~held_back].tolist())
    assert set(views.labels[held_back].tolist()) == set(views.labels[~held_back].tolist()) == {0, 1}


def test_some_of_all_is_never_none():
    generator = torch.Generator().manual_seed(0)
    assert all(len(some_of(3, 0.05, generator)) >= 1 for _ in range(50))
    assert {len(some_of(3, 0.5, generator)) for _ in range(50)} == {1, 2, 3}


@pytest.mark.parametrize(
    "knob, value", [("size", "huge"), ("steps", 0), ("batch", 0), ("rate", 0.0), ("patience", -1), ("measure_every", 0)]
)
def test_knobs_out_of_range_are_refused_by_name(knob, value):
    with pytest.raises(ValueError, match=f"Train Composition Classifier: `{knob}`"):
        TrainingPlan(**{knob: value})
