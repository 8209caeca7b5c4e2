"""The classifier: its features against loops over cells, what it may and may not look at, its file, and Composition Guide with it."""

import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wan_conductor.guidance.classifier import (
    SIZES,
    ClassifiedStep,
    Classifier,
    CompositionNetwork,
    FeaturePlan,
    ModelIdentity,
    head_groups_of,
    middle_blocks,
)
from wan_conductor.guidance.classifier_file import KEY, ClassifierFileError, load_classifier, save_classifier
from wan_conductor.guidance.composition import Composition
from wan_conductor.guidance.labels import KNOWN_LABELS, Label, named
from wan_conductor.guidance.objective import PhraseAt, PhraseRef, RestOfPrompt, StepwiseObjective
from wan_conductor.guidance.timeline import parse_timeline

PLAN = FeaturePlan(blocks=(1, 2), head_groups=3, grid=(2, 2, 4), sigmas=(0.98, 0.9, 0.8))
LABELS = (
    named(KNOWN_LABELS, "left of"),
    named(KNOWN_LABELS, "right of"),
    named(KNOWN_LABELS, "grows"),
    named(KNOWN_LABELS, "shrinks"),
    Label("bows to", 2),
)
MODEL = ModelIdentity("WanModel", "t2v", 192, 5, 6)
TEXT = "always  red cat | left of | blue dog"


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return CompositionNetwork(PLAN, SIZES["small"], LABELS).eval()


@pytest.fixture
def classifier(network):
    return Classifier(network.requires_grad_(False), "small", PLAN, LABELS, MODEL, {"accuracy": {"right_prompt": 0.9}})


def read_by_loops(maps, plan):
    """One map "f h w" as nested loops: block means on the grid, less their mean, over their spread."""
    frames, height, width = maps.shape
    f, h, w = (frames // plan.grid[0], height // plan.grid[1], width // plan.grid[2])
    cells = {}
    for t, y, x in product(*map(range, plan.grid)):
        values = [float(maps[t * f + i, y * h + j, x * w + k]) for i, j, k in product(range(f), range(h), range(w))]
        cells[t, y, x] = sum(values) / len(values)
    mean = sum(cells.values()) / len(cells)
    spread = (sum((value - mean) ** 2 for value in cells.values()) / len(cells)) ** 0.5
    return {place: (value - mean) / (spread + 0.02 * mean) for place, value in cells.items()}


def test_features_equal_loops_over_cells_thing_by_thing_layer_by_layer_head_by_head():
    maps = random(2, 2 * 2 * 3, 4, 6, 8)
    found = PLAN.features(maps)
    assert found.shape == (2, 2, 2, 3, 2, 2, 4)
    for sample, thing, layer, head in product(range(2), range(2), range(2), range(3)):
        expected = read_by_loops(maps[sample, (thing * 2 + layer) * 3 + head], PLAN)
        for place, value in expected.items():
            assert float(found[(sample, thing, layer, head, *place)]) == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_the_maps_asked_for_come_in_the_order_in_which_features_take_them():
    asked = PLAN.places(PhraseRef("red cat", "first"))
    assert [(one.block, one.head_group) for one in asked] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert all((one.phrase, one.occurrence, one.head_groups) == ("red cat", "first", 3) for one in asked)


def test_a_louder_map_has_the_same_features_and_an_even_or_empty_one_has_none():
    maps = random(1, 6, 4, 4, 8)
    torch.testing.assert_close(PLAN.features(37 * maps), PLAN.features(maps))
    for level in (0.0, 0.25):
        even = torch.full((1, 6, 4, 4, 8), level, requires_grad=True)
        features = PLAN.features(even)
        features.square().sum().backward()
        assert features.abs().max() < 1e-3 and even.grad.isfinite().all()


def test_a_volume_is_a_mixture_of_its_maps(network):
    features = random(3, 2, 2, 3, 2, 2, 4) - 0.5
    volume = network.volume(features, 1)
    assert volume.shape == (3, 2, 2, 2, 2, 4)
    rows = features.flatten(2, 3)[:, :, None]
    assert (volume <= rows.amax(3) + 1e-6).all() and (volume >= rows.amin(3) - 1e-6).all()
    alike = features[:, :, :1, :1].expand(features.shape)
    torch.testing.assert_close(network.volume(alike, 0), alike[:, :, 0, :1].expand(-1, -1, 2, -1, -1, -1))


def test_layer_head_and_step_each_have_a_say_in_the_mixture(network):
    features = random(1, 1, 2, 3, 2, 2, 4) - 0.5
    with torch.no_grad():
        for parameter in (network.aggregation.layer, network.aggregation.head, network.aggregation.time):
            parameter.mul_(50)
    volume = network.volume(features, 0)
    for other in (network.volume(features.flip(2), 0), network.volume(features.flip(3), 0), network.volume(features, 1)):
        assert (other - volume).abs().max() > 1e-3


def test_a_layer_that_is_not_heard_changes_nothing(network):
    features, heard = random(2, 2, 2, 3, 2, 2, 4), torch.tensor([False, True])
    other = features.clone()
    other[:, :, 0] = 9 * random(2, 2, 3, 2, 2, 4, seed=1)
    torch.testing.assert_close(network.volume(features, 0, heard), network.volume(other, 0, heard))
    assert (network.volume(features, 0) - network.volume(other, 0)).abs().max() > 0.1


def test_answers_are_probabilities_among_the_labels_about_as_many_things(network):
    features = random(2, 3, 2, 2, 3, 2, 2, 4)
    answer = network(features, torch.tensor([2, 1]), [0, 1, 2]).exp()
    torch.testing.assert_close(answer.sum(1), torch.ones(2))
    assert (answer[0] > 0).tolist() == [True, True, False, False, True] and (answer[1] > 0).tolist() == [False, False, True, True, False]


def test_a_second_thing_has_no_say_in_a_label_about_one_and_unseen_steps_have_none(network):
    features = random(1, 3, 2, 2, 3, 2, 2, 4)
    other = features.clone()
    other[:, :, 1] = 5 * random(1, 3, 2, 3, 2, 2, 4, seed=1)
    one, two = torch.tensor([1]), torch.tensor([2])
    assert torch.equal(network(features, one, [0, 1]), network(other, one, [0, 1]))
    assert not torch.equal(network(features, two, [0, 1]), network(other, two, [0, 1]))
    later = features.clone()
    later[:, 2] = 5 * random(1, 2, 2, 3, 2, 2, 4, seed=2)
    assert torch.equal(network(features, two, [0, 1]), network(later, two, [0, 1]))
    assert not torch.equal(network(features, two, [0, 2]), network(later, two, [0, 2]))


def test_sizes_are_as_told_for_a_model_of_any_width():
    plan = FeaturePlan(middle_blocks(40), head_groups_of(40), (7, 8, 8), (0.98, 0.95, 0.9))
    count = {name: sum(p.numel() for p in CompositionNetwork(plan, size, KNOWN_LABELS).parameters()) for name, size in SIZES.items()}
    assert count["small"] < 200_000 and 1_000_000 <= count["full"] <= 3_000_000


def test_blocks_come_from_the_middle_and_heads_are_shared_out_evenly():
    assert middle_blocks(5) == (1, 2, 3) and middle_blocks(1) == (0,)
    assert len(middle_blocks(40)) == 6 and min(middle_blocks(40)) >= 8 and max(middle_blocks(40)) < 32
    assert [head_groups_of(heads) for heads in (6, 12, 40, 24, 2, 7)] == [6, 6, 5, 6, 2, 1]


def test_a_step_uses_the_nearest_trained_one():
    assert [PLAN.slot(sigma) for sigma in (1.0, 0.95, 0.93, 0.84, 0.1)] == [0, 0, 1, 2, 2]


# --- its file


def test_a_file_gives_back_the_same_classifier(classifier, tmp_path):
    path = tmp_path / "sub" / "mine.safetensors"
    save_classifier(classifier, path)
    assert [one.name for one in path.parent.iterdir()] == ["mine.safetensors"]
    again = load_classifier(path)
    assert (again.plan, again.labels, again.model, again.size, again.card) == (PLAN, LABELS, MODEL, "small", classifier.card)
    features, two = random(1, 3, 2, 2, 3, 2, 2, 4), torch.tensor([2])
    assert torch.equal(again.network(features, two, [0]), classifier.network(features, two, [0]))
    assert not again.network.training and not any(parameter.requires_grad for parameter in again.network.parameters())
    with safe_open(path, "pt") as opened:
        told = json.loads(opened.metadata()[KEY])
    assert {"schema", "labels", "roles", "plan", "model", "card"} <= set(told) and told["roles"] == ["a", "b"]
    assert {"blocks", "grid", "sigmas", "head_groups"} <= set(told["plan"]) and {"family", "width"} <= set(told["model"])


def test_loaded_in_inference_mode_it_can_be_differentiated(classifier, tmp_path):
    save_classifier(classifier, tmp_path / "mine.safetensors")
    with torch.inference_mode():
        again = load_classifier(tmp_path / "mine.safetensors")
    maps = random(1, 12, 4, 4, 8).requires_grad_()
    volume = again.volume(maps, torch.ones(4), 0)
    (gradient,) = torch.autograd.grad(again.log_probability({0: volume}, "left of").sum(), maps)
    assert gradient.abs().max() > 0


def changed(told, *path, to):
    *ahead, last = path
    place = told
    for key in ahead:
        place = place[key]
    place[last] = to
    return told


@pytest.mark.parametrize(
    "path, to, words",
    [
        (("schema",), 2, ["schema 2", "reads schema 1"]),
        (("size",), "huge", ["'huge'", "small, full"]),
        (("plan", "grid"), [2, 4, 4], ["weight `aggregation.read.weight`", "asks for"]),
        (("plan", "grid"), [10**6, 10**6, 1], ["grid"]),
        (("plan", "blocks"), [1, 1], ["blocks (1, 1)"]),
        (("plan", "sigmas"), [0.9, 0.8, 7.0], ["sigmas", "0..1"]),
        (("labels",), [], ["0 labels"]),
        (("labels", 0, "entities"), 9, ["must be 1, 2 or 3"]),
        (("labels", 0, "entities"), 2.0, ["must be 1, 2 or 3"]),
        (("labels", 0, "entities"), 1, ["`left of` about 1 things", "about 2"]),
        (("labels", 1, "name"), "left of", ["must be different names"]),
        (("labels", 4, "name"), 7, ["must be different names"]),
        (("plan", "head_groups"), float("inf"), ["metadata is damaged"]),
        (("card",), ["all"], ["metadata is damaged"]),
        (("card", "accuracy", "chance"), "high", ["must be numbers"]),
        (("model",), {"family": "WanModel"}, ["metadata is damaged"]),
        (("plan",), None, ["metadata is damaged"]),
    ],
    ids=str,
)
def test_a_file_that_does_not_fit_its_metadata_is_refused_with_the_reason(classifier, tmp_path, path, to, words):
    file = tmp_path / "mine.safetensors"
    save_classifier(classifier, file)
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()[KEY])
    save_file(load_file(file), file, {KEY: json.dumps(changed(told, *path, to=to))})
    with pytest.raises(ClassifierFileError) as caught:
        load_classifier(file)
    assert all(word in str(caught.value) for word in ["mine.safetensors", *words])


def test_other_files_are_refused(classifier, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(ClassifierFileError, match="no composition classifier"):
        load_classifier(file)
    file.write_bytes(b"not at all")
    with pytest.raises(ClassifierFileError, match="no safetensors file"):
        load_classifier(file)
    save_classifier(classifier, file)
    weights = load_file(file)
    weights["head.label.bias"][0] = torch.nan
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(weights, file, metadata)
    with pytest.raises(ClassifierFileError, match="`head.label.bias` is not finite"):
        load_classifier(file)
    save_file(weights | {"head.label.bias": weights["head.label.bias"].to(torch.float8_e4m3fn)}, file, metadata)
    with pytest.raises(ClassifierFileError, match="`head.label.bias` is not finite"):
        load_classifier(file)
    save_file(weights, file, {KEY: "[" * 100_000})
    with pytest.raises(ClassifierFileError, match="metadata is damaged"):
        load_classifier(file)


def test_another_model_is_refused_with_every_difference(classifier):
    classifier.check_model(MODEL, "Composition Guide", "model")
    with pytest.raises(
        ValueError, match="Composition Guide: input `classifier`.*width 5120, not 192; blocks 40, not 5.*choose a classifier"
    ):
        classifier.check_model(replace(MODEL, width=5120, blocks=40), "Composition Guide", "model")


# --- in Composition Guide


def guide(classifier, text=TEXT, **knobs):
    return Composition(parse_timeline(text), classifier=classifier, **knobs)


def maps_for(objective, seed=0, grid=(4, 4, 8)):
    return random(1, len(objective.phrases), *grid, seed=seed)


def test_it_asks_for_the_maps_of_its_things_behind_what_geometry_needs(classifier):
    objective = guide(classifier, f"{TEXT}\nalways  green hat | moves left")
    places = [*PLAN.places(PhraseRef("red cat")), *PLAN.places(PhraseRef("blue dog"))]
    assert list(objective.phrases[:3]) == [PhraseRef("red cat"), PhraseRef("blue dog"), PhraseRef("green hat")]
    assert isinstance(objective.phrases[3], RestOfPrompt) and list(objective.phrases[4:]) == places
    assert not any(isinstance(ref, PhraseAt) for ref in Composition(parse_timeline(TEXT)).phrases)


def test_no_phrase_that_it_asks_for_holds_the_relations_words(classifier):
    asked = [ref for ref in guide(classifier).phrases]
    assert {ref.phrase for ref in asked} == {"red cat", "blue dog"}


@pytest.mark.parametrize("order", [0, 1])
def test_its_score_is_the_networks_answer_on_the_maps_of_the_things_in_the_order_of_the_text(classifier, order):
    text = (TEXT, "always  blue dog | grows\nalways  red cat | left of | blue dog")[order]
    objective = guide(classifier, text).at_step(0.91, {})
    maps = maps_for(objective)
    found = objective.loss(maps, 16.0)
    names = [(ref.phrase, ref.block, ref.head_group) if isinstance(ref, PhraseAt) else None for ref in objective.phrases]
    rows = [names.index((thing, block, head)) for thing in ("red cat", "blue dog") for block in (1, 2) for head in range(3)]
    features = PLAN.features(maps[:, rows])[:, None].expand(-1, 3, *[-1] * 6)
    expected = classifier.network(features, torch.tensor([2]), [1])[0, 0].exp()
    assert float(found.traces["score"][0, order]) == pytest.approx(float(expected), rel=1e-5)


def test_only_the_frames_of_the_span_are_read(classifier):
    objective = guide(classifier, "0% - 50%  red cat | left of | blue dog").at_step(0.9, {})
    maps = maps_for(objective, grid=(8, 4, 8))
    inside = int(objective.constraints[0].frames(8, 16.0).sum())
    other = maps.clone()
    other[:, 2:, inside:] = random(1, len(objective.phrases) - 2, 8 - inside, 4, 8, seed=5)
    score = lambda maps: objective.at_step(0.9, {}).loss(maps, 16.0).traces["score"]  # noqa: E731
    assert 1 <= inside < 8 and torch.equal(score(maps), score(other))
    other[:, 2:, :inside] = random(1, len(objective.phrases) - 2, inside, 4, 8, seed=6)
    assert not torch.equal(score(maps), score(other))


def test_the_gradient_leads_to_the_label(classifier):
    objective = guide(classifier, lambda_presence=0.0).at_step(0.9, {})
    maps = maps_for(objective).requires_grad_()
    before = objective.loss(maps, 16.0)
    (gradient,) = torch.autograd.grad(before.total.sum(), maps)
    assert gradient[:, :2].abs().max() == 0  # geometry's maps have no say in what the classifier judges
    after = objective.loss(maps.detach() - 1e-3 * gradient / gradient.norm(), 16.0)
    assert float(after.total) < float(before.total.detach())


def test_phi_holds_the_volumes_of_earlier_steps_as_their_likeliest_latent_had_them(classifier):
    objective, memory = guide(classifier), {}
    first = objective.at_step(0.98, memory)
    seen = [maps_for(objective, seed) for seed in range(3)]
    scores = [float(first.loss(maps, 16.0).traces["score"][0, 0]) for maps in seen]
    best = seen[max(range(3), key=scores.__getitem__)]
    later = maps_for(objective, 7)
    found = objective.at_step(0.9, memory).loss(later, 16.0).traces["score"]
    features = torch.stack([PLAN.features(best[:, 2:]), PLAN.features(later[:, 2:]), PLAN.features(later[:, 2:])], dim=1)
    expected = classifier.network(features, torch.tensor([2]), [0, 1])[:, 0].exp()
    torch.testing.assert_close(found[:, 0], expected)
    alone = objective.at_step(0.9, {}).loss(later, 16.0).traces["score"]
    assert not torch.equal(alone, found)


def test_a_later_step_at_the_same_trained_one_takes_its_place(classifier):
    objective, memory = guide(classifier), {}
    for sigma in (0.98, 0.97):
        step = objective.at_step(sigma, memory)
        assert memory == {} or memory == {"0": {}}
        step.loss(maps_for(objective), 16.0)
    assert list(memory["0"]) == [0]


def test_its_own_labels_can_be_written_and_others_keep_their_geometry(classifier):
    objective = guide(classifier, "always  red cat | bows to | blue dog\nalways  red cat | above | blue dog")
    assert [objective.classified(one) for one in objective.constraints] == [True, False]
    plain = Composition(parse_timeline("always  red cat | above | blue dog"))
    maps = maps_for(objective)
    assert torch.equal(objective.loss(maps, 16.0).traces["score"][:, 1], plain.loss(maps[:, :2], 16.0).traces["score"][:, 0])
    with pytest.raises(ValueError, match="unknown relation `bows too`; the nearest is `bows to`.*left of.*bows to"):
        guide(classifier, "always  red cat | bows too | blue dog")
    with pytest.raises(ValueError, match="unknown relation `bows to`"):
        Composition(parse_timeline("always  red cat | bows to | blue dog"))
    with pytest.raises(ValueError, match="`bows to` is about 2 things"):
        guide(classifier, "always  red cat | bows to")


def test_only_a_guide_with_a_classifier_changes_with_the_step(classifier):
    plain = Composition(parse_timeline(TEXT))
    assert plain.at_step(0.9, {}) is plain and guide(classifier).at_step(0.9, {}).step == ClassifiedStep(1, {})
    assert isinstance(plain, StepwiseObjective)
