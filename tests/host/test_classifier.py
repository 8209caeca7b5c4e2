"""The trained classifier in the host: what it is shown, how it is trained from a folder, and guidance by it."""

import json
from pathlib import Path

import comfy.model_management
import comfy.samplers
import folder_paths
import pytest
import tiny_wan
import torch
from captured import budget
from dense_reference import relative_error, weighted_sum
from guided_prompts import prompt, temporal_mask
from safetensors.torch import load_file
from test_evaluate_composition import COLORS, SHOWN, drawn
from wan_conductor.guidance.classifier import SIZES, Classifier, CompositionNetwork
from wan_conductor.guidance.classifier_file import save_classifier
from wan_conductor.guidance.classifier_training import TrainingPlan
from wan_conductor.guidance.labels import KNOWN_LABELS, named, read_labels_csv
from wan_conductor.guidance.objective import PhraseAt, PhraseRef
from wan_conductor.host import capture as captures
from wan_conductor.host import classifier_files, map_features, training_videos
from wan_conductor.host.attach import attach, attached, without_guidance
from wan_conductor.host.capture import attention_capture, heads_of
from wan_conductor.host.map_features import Example, collect_features, features_of, inverted, model_identity, planned
from wan_conductor.host.training_videos import examples_of, read_frames, turned
from wan_conductor.nodes.composition_guide import CompositionGuideNode
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.load_composition_classifier import LoadCompositionClassifier
from wan_conductor.nodes.train_composition_classifier import TrainCompositionClassifier
from wan_conductor.playground import network, world
from wan_conductor.playground.evaluate_composition import CASES, judge

WEB = Path(__file__).parents[2] / "web"
SHAPE = (1, 16, 5, 6, 6)
LABELS = (named(KNOWN_LABELS, "left of"), named(KNOWN_LABELS, "right of"))
PROMPTS = ("a red cat left of a blue dog", "a red cat right of a blue dog")
THINGS = ("red cat", "blue dog")
BUDGET = {
    "budget": "custom",
    "start_percent": 0.0,
    "end_percent": 0.5,
    "iterations": 3,
    "step_size": 0.05,
    "growth": 1.0,
    "depth": 0.5,
    "memory_mode": "balanced",
    "patience": 0,
}
with_codec = pytest.mark.skipif(not (network.WEIGHTS / "codec.safetensors").is_file(), reason="weights are not made yet")
with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


@pytest.fixture
def host_folders(tmp_path, monkeypatch):
    for kind in ("input", "output", "temp"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "composition", ([str(tmp_path / "models" / "composition")], {".safetensors"}))
    folder_paths.filename_list_cache.pop("composition", None)
    return tmp_path


def plan_for(model):
    return planned(model, SHAPE, (0.1, 0.3))


def untrained(model, labels=LABELS):
    with torch.inference_mode(False):
        torch.manual_seed(1)
        net = CompositionNetwork(plan_for(model), SIZES["small"], labels).eval().requires_grad_(False)
        return Classifier(net, "small", plan_for(model), labels, model_identity(model), {})


def example(name="one", prompts=PROMPTS, seed=0):
    return Example(name, 0, LABELS[0], THINGS, prompts, lambda: tiny_wan.latent_like(5, 6, 6, seed=seed))


def encode(text):
    """Other words, other rows everywhere: as an encoder that mixes them."""
    return prompt(text, seed=len(text))


# --- what it is shown


def dense_shares(positive, noise, places, spoiled):
    """Maps "b g f h w" of (rows, block, heads) and their gradient, by plain autograd from the whole softmax, columns `spoiled` made NaN."""

    def act(guider, x, sigma, model_options):
        wan, seen, handles = guider.inner_model.diffusion_model, {}, []
        wan.requires_grad_(False)
        for index, block in enumerate(wan.blocks):
            for name in ("norm_q", "norm_k"):
                keep = lambda module, args, output, key=(index, name): seen.__setitem__(key, output)  # noqa: E731
                handles.append(getattr(block.cross_attn, name).register_forward_hook(keep))
        comfy.model_management.in_training = True
        try:
            with torch.enable_grad():
                z = x.clone().requires_grad_()
                comfy.samplers.calc_cond_batch(guider.inner_model, [[guider.conds["positive"][0]]], z, sigma.clone(), model_options)
                maps = []
                for rows, block, heads in places:
                    q, k = (seen[block, name].float().unflatten(-1, (wan.num_heads, -1)).transpose(1, 2) for name in ("norm_q", "norm_k"))
                    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
                    p = p.index_fill(-1, torch.tensor(spoiled), torch.nan)
                    maps.append(p[:, list(heads)][..., list(rows)].mean((1, 3)))
                maps = torch.stack(maps, dim=1).unflatten(-1, (3, 4, 4))
                return maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]
        finally:
            comfy.model_management.in_training = False
            for handle in handles:
                handle.remove()

    with torch.inference_mode(False):
        reference = tiny_wan.load(inference=False)
        return tiny_wan.inside_sampling(reference, positive, tiny_wan.conditioning(seed=2), noise.clone(), act)


def test_maps_of_a_block_and_its_heads_equal_a_dense_reference_that_cannot_see_the_relations_word():
    """Rows 1, 2 and 6 are the things, row 4 the relation; block 2 lies behind the depth of the budget."""
    groups, refs, places = [], [], []
    for rows, words in (((1, 2), "cat"), ((6,), "dog")):
        for block, head in ((0, 0), (0, 1), (2, 0), (2, 1)):
            groups.append(rows)
            refs.append(PhraseAt(words, "all", block, head, 2))
            places.append((rows, block, (head,)))

    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget(depth=0.3)) as capture:
            z = x.detach().clone().requires_grad_()
            maps = capture(guider.conds["positive"][0], z, sigma, groups, refs)
            return maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]

    positive, noise = tiny_wan.conditioning(), tiny_wan.latent_like()
    maps, gradient = tiny_wan.inside_sampling(tiny_wan.load(), positive, tiny_wan.conditioning(seed=2), noise, act)
    expected = dense_shares(positive, noise, places, [4])
    torch.testing.assert_close(maps, expected[0], rtol=1e-4, atol=1e-7)
    assert relative_error(gradient, expected[1]) < 1e-5


@pytest.mark.parametrize("memory_mode", ["fast", "balanced"])
def test_maps_of_all_blocks_are_the_same_beside_those_of_one(memory_mode):
    """Mixed in order, with a block of its own behind the depth."""
    alone = [(1, 2), (4,)]
    groups = [(6,), (1, 2), (6,), (4,)]
    refs = [PhraseAt("dog", "all", 2, 0, 1), PhraseRef("cat"), PhraseAt("dog", "all", 0, 1, 2), PhraseRef("near")]

    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget(memory_mode, 0.6)) as capture:
            found = []
            for given in ((alone,), (groups, refs)):
                z = x.detach().clone().requires_grad_()
                maps = capture(guider.conds["positive"][0], z, sigma, *given)
                chosen = maps if len(given) == 1 else maps[:, [1, 3]]
                found += [chosen.detach(), torch.autograd.grad(weighted_sum(chosen), z)[0], maps.detach()]
            return found

    one, gradient, _, beside, gradient_beside, every = tiny_wan.inside_sampling(
        tiny_wan.load(), tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act
    )
    assert torch.equal(one, beside) and every.shape[1] == 4 and relative_error(gradient_beside, gradient) < 1e-5
    assert not torch.equal(every[:, 0], every[:, 2])


def test_shares_of_heads_cover_all_once():
    for heads, groups in ((12, 5), (6, 6), (40, 1)):
        assert [head for group in range(groups) for head in range(heads)[heads_of(heads, group, groups)]] == list(range(heads))
    with pytest.raises(ValueError, match="share 2 of 2"):
        heads_of(4, 2, 2)


def test_a_block_that_the_model_lacks_is_refused(model):
    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget()) as capture:
            capture(guider.conds["positive"][0], x.clone(), sigma, [(1,)], [PhraseAt("cat", "all", 7, 0, 1)])

    with pytest.raises(ValueError, match="block 7"):
        tiny_wan.inside_sampling(model, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)


def test_features_are_maps_of_the_things_alone_at_the_planned_noise_levels_and_the_same_noise_for_both_prompts(model, monkeypatch):
    plan, asked, evaluate = plan_for(model), [], captures.AttentionCapture.__call__

    def watch(own, entry, z, sigma, groups, refs):
        maps = evaluate(own, entry, z, sigma, groups, refs)
        asked.append((z.clone(), sigma.clone(), groups, maps))
        return maps

    monkeypatch.setattr(captures.AttentionCapture, "__call__", watch)
    features = features_of(model, encode, example(), plan, seed=3)
    assert features.shape == (2, 2, 2, 2, 2, *plan.grid) and features.dtype == torch.float16  # p s r l k f h w
    assert not features.is_inference() or torch.is_inference_mode_enabled()
    clean = model.model.process_latent_in(example().latent())
    noises = []
    for side, (z, sigma, groups, maps) in enumerate(asked):
        assert torch.equal(sigma.cpu(), torch.tensor(plan.sigmas)) and z.shape[0] == 2
        assert {row for rows in groups for row in rows} == {1, 2, 6, 7}  # a [red cat] left of a [blue dog]
        torch.testing.assert_close(features[side].float(), plan.features(maps), rtol=2e-3, atol=2e-3)
        noises += [(one - (1 - level) * clean[0]) / level for one, level in zip(z, sigma.tolist())]
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], rtol=1e-3, atol=1e-3)
    assert abs(float(noises[0].std()) - 1) < 0.1
    assert not torch.equal(features[0], features[1])  # the told word does reach the maps of the things: hence two prompts


def test_features_are_the_same_again_and_others_with_another_seed_or_video(model):
    plan = plan_for(model)
    one = features_of(model, encode, example(), plan, 3)
    assert torch.equal(one, features_of(attach(model, temporal_mask()), encode, example(), plan, 3))  # guidance has no part in them
    assert not torch.equal(one, features_of(model, encode, example(), plan, 4))
    assert not torch.equal(one, features_of(model, encode, example(seed=8), plan, 3))


def test_inversion_follows_the_models_own_velocity(monkeypatch):
    """With a constant velocity the way to noise is straight, whatever the steps."""
    velocity, z = torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 3, 4, 4)
    monkeypatch.setattr(
        comfy.samplers, "calc_cond_batch", lambda model, conds, x, sigma, options: [x - sigma.view(-1, 1, 1, 1, 1) * velocity]
    )
    levels = torch.tensor([0.5, 0.9])
    for steps in (1, 7):
        found = inverted(None, {}, {}, z, levels, steps)
        torch.testing.assert_close(found, torch.cat([z + level * velocity for level in levels.tolist()]), rtol=1e-4, atol=1e-4)


def test_inverted_features_differ_from_noised_ones(model):
    plan = plan_for(model)
    inverse = features_of(model, encode, example(), plan, 3, inversion_steps=2)
    assert inverse.isfinite().all() and not torch.equal(inverse, features_of(model, encode, example(), plan, 3))


def test_what_is_measured_is_not_measured_again_unless_something_changed(model, tmp_path, monkeypatch):
    measured, measure = [], map_features.features_of
    monkeypatch.setattr(map_features, "features_of", lambda *args: measured.append(args[2].name) or measure(*args))
    plan, examples = plan_for(model), [example("one"), example("two", seed=4)]

    def stop(done):
        raise KeyboardInterrupt

    def collect(examples=examples, on_example=lambda done: None):
        return collect_features(model, encode, examples, LABELS, plan, tmp_path, 0, 0, on_example)

    with pytest.raises(KeyboardInterrupt):
        collect(on_example=stop)
    found = collect()
    assert measured == ["one", "two"] and found.features.shape[0] == 2 and not list(tmp_path.glob("*.part"))
    collect([examples[0], example("two", PROMPTS[::-1], seed=4)])
    assert measured == ["one", "two", "two"]
    next(tmp_path.glob("*.safetensors")).write_bytes(b"broken")
    assert torch.equal(collect([examples[0], example("two", PROMPTS[::-1], seed=4)]).features[0], found.features[0])


def test_a_label_about_one_thing_has_nothing_where_others_have_a_second(model, tmp_path):
    grows = named(KNOWN_LABELS, "grows")
    one = Example("one", 0, grows, ("red cat",), ("a red cat grows", "a red cat shrinks"), example().latent)
    found = collect_features(model, encode, [one, example("two")], (*LABELS, grows), plan_for(model), tmp_path)
    assert found.things.tolist() == [1, 2] and found.labels.tolist() == [2, 0]
    assert found.features[0, :, :, 1].abs().max() == 0 < found.features[1, :, :, 1].abs().max()


@pytest.mark.parametrize("percents", [(), (0.0,), (1.0,), (0.5, 2.0)])
def test_percents_out_of_range_are_refused(model, percents):
    with pytest.raises(ValueError, match="`percents`"):
        planned(model, SHAPE, percents)


def test_the_plan_follows_the_model(model):
    plan = plan_for(model)
    assert plan.blocks == (0, 1) and plan.head_groups == 2 and plan.grid == (5, 3, 3) and 0 < plan.sigmas[1] < plan.sigmas[0] < 1
    with pytest.raises(ValueError, match="`blocks` = \\[1, 2\\]: 2 is none of this model's, which are 0 to 1"):
        planned(model, SHAPE, (0.1,), (1, 2))


# --- videos


@pytest.mark.parametrize("name", CASES)
def test_a_video_turned_round_shows_the_label_that_this_makes_of_it(name):
    label, video = named(KNOWN_LABELS, name), drawn(*SHOWN[name])
    colors = COLORS[: CASES[name].things]
    for mirror, backwards in ((True, False), (False, True), (True, True)):
        view = turned(video.movedim(1, -1), mirror, backwards).movedim(-1, 1)
        partner = label.seen(mirror, backwards, KNOWN_LABELS).name
        assert judge(view, CASES[partner], colors)["accuracy"] == 1.0
        assert partner == name or judge(view, CASES[name], colors)["accuracy"] == 0.0


def test_turning_keeps_every_pixel():
    frames = torch.rand(5, 4, 6, 3)
    assert torch.equal(turned(frames, True, False)[2, 1, 0], frames[2, 1, 5])
    assert torch.equal(turned(frames, False, True)[0], frames[4])
    assert torch.equal(turned(turned(frames, True, True), True, True), frames) and turned(frames, False, False) is frames


def written_video(path, frames=6, size=32):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = torch.full((size, size, 3), 40 * index, dtype=torch.uint8).numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def test_a_video_file_is_read_whole_in_as_many_frames_as_asked(tmp_path):
    written_video(tmp_path / "a.mp4")
    frames = read_frames(tmp_path / "a.mp4", 3, 16, 24)
    assert frames.shape == (3, 16, 24, 3)
    assert [round(float(frame.mean()) * 255 / 40) for frame in frames] == [0, 2, 5]
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="`b.mp4` cannot be read as a video"):
        read_frames(tmp_path / "b.mp4", 3, 16, 24)


# --- training as a node


@pytest.fixture
def folder(host_folders, monkeypatch):
    """Four videos whose file size says what they are; the encoder and the VAE stand in for real ones."""
    videos = host_folders / "input" / "pets"
    videos.mkdir()
    for name in "abcd":
        (videos / f"{name}.mp4").write_bytes(b"x")
    (videos / "labels.csv").write_text(
        "file,label,entity_a,entity_b\na.mp4,left of,red cat,blue dog\nb.mp4,left of,red cat,blue dog\n"
        "c.mp4,right of,red cat,blue dog\nd.mp4,right of,red cat,blue dog\n"
    )

    def read(path, frames, height, width):
        pictures = torch.zeros(frames, height, width, 3)
        half = slice(0, width // 2) if path.stem in "ab" else slice(width // 2, None)
        pictures[:, :, half] = 1.0
        return pictures

    monkeypatch.setattr(training_videos, "read_frames", read)
    monkeypatch.setattr(map_features, "encode_with_tokens", lambda clip, text: encode(text))
    return videos


class Vae:
    def encode(self, frames):
        small = torch.nn.functional.adaptive_avg_pool3d(frames.movedim(-1, 0).mean(0)[None, None], SHAPE[2:])
        return small.expand(SHAPE).clone()


def teach(model, name="pets rules", **knobs):
    given = {"steps": 3, "width": 48, "height": 48, "length": 17, "percents": "0.1 0.3"} | knobs
    return TrainCompositionClassifier.execute(model, None, Vae(), "pets", name, **given)


def test_a_folder_becomes_a_file_a_picture_and_numbers_and_then_guides(model, folder, host_folders):
    classifier, picture, told = teach(model).result
    numbers = json.loads(told)
    assert picture.ndim == 4 and 0 <= picture.min() < picture.max() <= 1
    assert numbers["labels"] == ["left of", "right of"] and numbers["videos"] == 4 and numbers["views"] == 16
    assert {"right_prompt", "wrong_prompt", "leakage_gap", "by_sigma", "by_layer", "confusion"} <= set(numbers["accuracy"])
    assert sorted(path.name for path in (host_folders / "models" / "composition").iterdir()) == ["pets rules.safetensors"]
    assert not list((host_folders / "output" / "wan_conductor").rglob("pets rules"))
    loaded = LoadCompositionClassifier.execute("pets rules.safetensors")
    assert "left of, right of" in loaded.ui.as_dict()["text"][0] and str(classifier.model) in loaded.ui.as_dict()["text"][0]
    assert loaded.result[0].labels == LABELS and loaded.result[0].card == json.loads(json.dumps(classifier.card))
    weights = load_file(host_folders / "models" / "composition" / "pets rules.safetensors")
    assert all(torch.equal(weight, weights[name]) for name, weight in classifier.network.state_dict().items())
    guided = guide(model, loaded.result[0]).args[0]
    assert attached(guided.model_options)[0].classifier is loaded.result[0]


def test_cut_off_anywhere_it_goes_on_and_ends_with_the_same_file(model, folder, host_folders, monkeypatch):
    at_once = teach(model, "whole").result[0]
    calls = []

    def interrupt():
        calls.append(1)
        if len(calls) in (7, 20):  # while features are measured, and while it trains
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    measured, measure = [], map_features.features_of
    monkeypatch.setattr(map_features, "features_of", lambda *args: measured.append(args[2].name) or measure(*args))
    for _ in range(2):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            teach(model, "cut", augment=False)
            teach(model, "cut")
        assert not (host_folders / "models" / "composition" / "cut.safetensors").exists()
    resumed = teach(model, "cut").result[0]
    assert len(measured) < 16 + 16 + 16
    assert all(torch.equal(weight, at_once.network.state_dict()[name]) for name, weight in resumed.network.state_dict().items())


def test_what_lies_in_the_output_folder_under_its_name_stays(model, folder, host_folders):
    own = host_folders / "output" / "wan_conductor" / "pets rules" / "features" / "holiday.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    teach(model, augment=False)
    assert own.read_bytes() == b"mine"


def test_a_name_that_is_taken_is_refused_before_anything_is_measured(model, folder, host_folders, monkeypatch):
    taken = host_folders / "models" / "composition" / "pets rules.safetensors"
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_bytes(b"mine")
    monkeypatch.setattr(map_features, "features_of", lambda *args: pytest.fail("it began to measure"))
    with pytest.raises(ValueError, match=r"Train Composition Classifier: input `name` = 'pets rules': .* is there already.*another name"):
        teach(model)
    assert taken.read_bytes() == b"mine"


def test_labels_in_another_order_are_another_training(model, folder, tmp_path):
    labels, videos = read_labels_csv(folder / "labels.csv")

    def train(labels, work):
        examples = examples_of(videos, labels, folder, Vae(), (17, 48, 48), False, 0)
        return map_features.trained(model, None, examples, labels, plan_for(model), TrainingPlan(steps=2), tmp_path / work)

    train(labels, "work")  # its checkpoint stays, as after a cut
    again, anew = train(labels[::-1], "work"), train(labels[::-1], "other")
    assert all(torch.equal(weight, anew.network.state_dict()[name]) for name, weight in again.network.state_dict().items())


def test_a_folder_that_has_changed_is_trained_on_anew(folder):
    told = TrainCompositionClassifier.fingerprint_inputs(folder="pets", name="mine", steps=3)
    assert told == TrainCompositionClassifier.fingerprint_inputs(folder="pets", name="mine", steps=3)
    with open(folder / "labels.csv", "a") as file:
        file.write("a.mp4,right of,blue dog,red cat\n")
    listed = TrainCompositionClassifier.fingerprint_inputs(folder="pets")
    (folder / "d.mp4").write_bytes(b"another video")
    assert told != listed != TrainCompositionClassifier.fingerprint_inputs(folder="pets")


def test_two_lines_about_one_file_are_views_of_one_video_with_features_of_their_own(folder):
    with open(folder / "labels.csv", "a") as file:
        file.write("./a.mp4,right of,blue dog,red cat\n")
    labels, videos = read_labels_csv(folder / "labels.csv")
    examples = examples_of(videos, labels, folder, Vae(), (17, 48, 48), False, 0)
    assert [one.video for one in examples] == [0, 1, 2, 3, 0]
    assert len({one.name for one in examples}) == 5


def test_every_view_has_its_label_its_prompts_and_a_wrong_one(folder):
    labels, videos = read_labels_csv(folder / "labels.csv")
    examples = examples_of(videos, labels, folder, Vae(), (17, 48, 48), True, 0)
    assert len(examples) == 16 and len({one.name for one in examples}) == 16
    assert [one.label.name for one in examples[:4]] == ["left of", "right of", "left of", "right of"]
    for one in examples:
        assert one.label.name in one.prompts[0] and one.label.name not in one.prompts[1] and one.prompts[0] != one.prompts[1]
        right = float(one.latent()[..., 3:].mean()) > float(one.latent()[..., :3].mean())
        assert right == (one.label.name == "right of")
    assert len(examples_of(videos, labels, folder, Vae(), (17, 48, 48), False, 0)) == 4


def test_what_is_wrong_with_the_list_is_said_at_once_and_nothing_is_written(model, folder, host_folders):
    with open(folder / "labels.csv", "a") as file:
        file.write("gone.mp4,left of,red cat,blue dog\na.mp4,lefft of,red cat,blue dog\n")
    before = sorted(host_folders.rglob("*"))
    with pytest.raises(ValueError) as caught:
        teach(model)
    assert str(caught.value).startswith("Train Composition Classifier")
    assert "file `gone.mp4` is missing" in str(caught.value) and "unknown label `lefft of`" in str(caught.value)
    assert sorted(host_folders.rglob("*")) == before


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"name": "../mine"}, "input `name`"),
        ({"name": ""}, "input `name`"),
        ({"name": ".hidden"}, "input `name`"),
        ({"length": 16}, "`length` = 16"),
        ({"percents": "a"}, "input `percents`"),
        ({"percents": "2"}, "`percents`"),
        ({"percents": " ".join(f"0.{n}" for n in range(10, 27))}, "`percents`.*1 to 16 numbers"),  # what no file may hold
        ({"blocks": "9"}, "`blocks`"),
        ({"labels": "bows"}, "input `labels`.*line 1"),
        ({"size": "huge"}, "`size`"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_written(model, folder, host_folders, knobs, words):
    before = sorted(host_folders.rglob("*"))
    with pytest.raises(ValueError, match=f"(?s)Train Composition Classifier.*{words}"):
        teach(model, **knobs)
    assert sorted(host_folders.rglob("*")) == before


@pytest.mark.parametrize("where", ["../output", "nowhere", "", "/etc"])
def test_only_folders_inside_the_input_folder_are_read(model, folder, where):
    with pytest.raises(ValueError, match="input `folder`"):
        TrainCompositionClassifier.execute(model, None, Vae(), where, "mine")


def test_only_listed_names_are_loaded(model, host_folders):
    outside = host_folders / "outside.safetensors"
    save_classifier(untrained(model), outside)
    (host_folders / "models" / "composition").mkdir(parents=True)
    save_classifier(untrained(model), host_folders / "models" / "composition" / "mine.safetensors")
    for name in ("../../outside.safetensors", str(outside), "outside.safetensors", "", "mine"):
        with pytest.raises(ValueError, match="Load Composition Classifier: input `name`.*there are: mine.safetensors"):
            LoadCompositionClassifier.execute(name)
    assert LoadCompositionClassifier.execute("mine.safetensors").result[0].labels == LABELS
    (host_folders / "models" / "composition" / "bad.safetensors").write_bytes(b"bad")
    folder_paths.filename_list_cache.pop("composition", None)
    with pytest.raises(ValueError, match="Load Composition Classifier: input `name`: bad.safetensors is no safetensors file"):
        LoadCompositionClassifier.execute("bad.safetensors")


def test_the_folder_is_registered_and_holds_the_packs_own():
    paths, extensions = folder_paths.folder_names_and_paths["composition"]
    assert str(Path(folder_paths.models_dir) / "composition") in paths and str(classifier_files.OWN) in paths
    assert ".safetensors" in extensions
    classifier_files.register_folder()
    assert len(folder_paths.folder_names_and_paths["composition"][0]) == len(set(paths))


# --- guidance


def guide(model, classifier, timeline="always  red cat | left of | blue dog", **knobs):
    return CompositionGuideNode.execute(model, prompt(PROMPTS[1]), timeline, classifier=classifier, **knobs)


def guided(model, batch=1, budget=BUDGET):
    return GuidedKSampler.execute(
        model,
        "enable",
        7,
        4,
        3.0,
        "euler",
        "simple",
        prompt(PROMPTS[1]),
        prompt("bad", seed=2),
        {"samples": torch.zeros(batch, *SHAPE[1:])},
        0,
        10000,
        "disable",
        budget,
        {"switch_at": "t2v"},
    ).args


def test_guided_by_it_its_answer_rises_step_by_step(model):
    out, report = guided(guide(model, untrained(model)).args[0], batch=2)
    assert len(report.steps) == 2 and report.steps[0].phrases == [["red cat", "blue dog"]]
    for sample in range(2):
        for step in report.steps:
            scores = [record.objectives[0].traces["score"][sample][0] for record in step.loop.iterations]
            assert scores[min(step.loop.kept[sample], len(scores) - 1)] > scores[0]
    assert not torch.equal(out["samples"], guided(model, batch=2)[0]["samples"])


def test_with_temporal_mask_it_shares_one_capture(model, monkeypatch):
    calls, evaluate = [], captures.AttentionCapture.__call__
    monkeypatch.setattr(captures.AttentionCapture, "__call__", lambda own, *args: calls.append(len(args[3])) or evaluate(own, *args))
    _, report = guided(attach(guide(model, untrained(model)).args[0], temporal_mask("50% - end  red cat")))
    assert set(calls) == {2 + 2 * 2 * 2} and len(calls) == sum(step.loop.forwards for step in report.steps)
    assert [[one.name for one in step.loop.iterations[0].objectives] for step in report.steps] == [
        ["Composition Guide", "Temporal Mask"]
    ] * 2


def test_each_run_forgets_the_steps_of_the_one_before(model):
    patched = guide(model, untrained(model)).args[0]
    assert torch.equal(guided(patched)[0]["samples"], guided(patched)[0]["samples"])


def test_the_node_says_what_the_classifier_judges_and_takes_its_own_labels(model):
    from wan_conductor.guidance.labels import Label

    classifier = untrained(model, (*LABELS, Label("bows to", 2)))
    output = guide(model, classifier, "always  red cat | bows to | blue dog\nalways  red cat | above | blue dog")
    lines = output.ui.as_dict()["text"][0].splitlines()
    assert lines[2:4] == ["red cat bows to blue dog  |  always  by the classifier", "red cat above blue dog  |  always"]
    with pytest.raises(ValueError, match="unknown relation `bows to`"):
        guide(model, None, "always  red cat | bows to | blue dog")


def test_a_classifier_of_another_model_is_refused_by_the_node_for_either_expert(model):
    deeper = tiny_wan.load(layers=3)
    with pytest.raises(
        ValueError, match="Composition Guide: input `classifier` = trained on another model than `model`, which has blocks 3, not 2"
    ):
        guide(deeper, untrained(model))
    with pytest.raises(ValueError, match="than `model_low_noise`"):
        guide(model, untrained(model), model_low_noise=deeper)


def test_off_is_off_with_a_classifier_too(model):
    assert guide(model, untrained(model), "").args[0] is model


def test_without_guidance_a_model_is_plain_again(model):
    bare = without_guidance(guide(model, untrained(model)).args[0])
    assert attached(bare.model_options) == () and torch.equal(guided(bare)[0]["samples"], guided(model)[0]["samples"])


# --- the playground's world


@with_codec
def test_drawn_examples_show_their_label_and_their_wrong_prompt_says_another():
    from wan_conductor.guidance.labels import place_of
    from wan_conductor.playground.train_composition import TAUGHT, WORDS, world_examples

    labels = tuple(named(KNOWN_LABELS, name) for name in TAUGHT)
    examples = world_examples(labels, 2, 0)
    assert [one.label for one in examples] == [label for label in labels for _ in range(2)]
    told = {WORDS.get(label.name, label.name) for label in labels}
    for one in examples:
        right, wrong = one.prompts
        assert right != wrong and not world.is_held_out(right)
        assert all(thing in right and thing in wrong for thing in one.entities) and one.latent().shape == (1, 16, 13, 8, 8)
        if one.label.name not in ("toward", "away"):
            assert place_of(right, WORDS.get(one.label.name, one.label.name)) is not None
            assert place_of(wrong, WORDS.get(one.label.name, one.label.name)) is None and any(
                place_of(wrong, words) is not None for words in told
            )
    assert [one.prompts for one in world_examples(labels, 2, 0)] == [one.prompts for one in examples]


@with_weights
def test_the_command_writes_a_file_that_loads_and_prints_one_json_line(tmp_path, capsys):
    from wan_conductor.guidance.classifier_file import load_classifier
    from wan_conductor.playground import train_composition

    file = tmp_path / "out.safetensors"
    with torch.inference_mode(False):
        train_composition.main(
            [
                "--json",
                "--labels",
                "left of",
                "right of",
                "--clips",
                "3",
                "--steps",
                "2",
                "--folder",
                str(tmp_path / "work"),
                "--out",
                str(file),
            ]
        )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["labels"] == ["left of", "right of"] and {"accuracy", "bytes", "parameters"} <= set(told)
    assert told["bytes"] < 10**6 and load_classifier(file).model.width == network.WAN_CONFIG["dim"]


@with_weights
def test_the_command_learns_from_a_folder_of_videos_too_and_says_what_is_wrong_with_it(folder, tmp_path, capsys, monkeypatch):
    from wan_conductor.host.tokens import encode_with_tokens
    from wan_conductor.playground import train_composition

    monkeypatch.setattr(map_features, "encode_with_tokens", encode_with_tokens)
    file = tmp_path / "out.safetensors"
    given = ["--videos", str(folder), "--length", "17", "--height", "64", "--width", "64", "--steps", "1", "--no-augmentation"]
    with torch.inference_mode(False):
        train_composition.main([*given, "--folder", str(tmp_path / "work"), "--out", str(file)])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["videos"] == told["views"] == 4 and file.is_file()
    for wrong, words in ((["--labels", "bows"], "the world shows left of"), ([*given, "--labels", "above"], "unknown label `left of`")):
        with pytest.raises(SystemExit) as caught:
            train_composition.main([*wrong, "--out", str(tmp_path / "none")])
        assert words in str(caught.value) and not (tmp_path / "none").exists()
    before = file.read_bytes()
    with pytest.raises(SystemExit, match=r"--out .*out\.safetensors is there already.*--overwrite"):
        train_composition.main([*given, "--folder", str(tmp_path / "work"), "--out", str(file)])
    assert file.read_bytes() == before
