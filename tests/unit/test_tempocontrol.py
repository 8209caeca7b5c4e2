"""TempoControl's benchmark: the prompt sets are the published ones, and the metrics tell the truth about videos that are drawn."""

import hashlib
import importlib
from collections import Counter

import numpy as np
import pytest
from wan_conductor.development.tempocontrol import prompt_sets, scores, seeing
from wan_conductor.development.tempocontrol.prompt_sets import SETS, BenchmarkPrompt
from wan_conductor.guidance.temporal_mask import TemporalMask

LATENTS, FRAMES = 21, 81
COLOURS = {"cat": (255, 0, 0), "dog": (0, 0, 255)}
SECOND_SECOND = (0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)  # as the published data write it
each_set = pytest.mark.parametrize("name", SETS)


def seen(frame):
    """The detector's stand-in: reads colours."""
    return {name for name, colour in COLOURS.items() if (frame == colour).all(-1).any()}


def drawn(**frames_of):
    """A video of 81 frames with a square of each object in these frames."""
    video = np.zeros((FRAMES, 24, 24, 3), np.uint8)
    for place, (name, frames) in enumerate(frames_of.items()):
        video[list(frames), 2 + 10 * place : 8 + 10 * place, 4:10] = COLOURS[name]
    return video


def prompt_of(mask, static=None):
    return BenchmarkPrompt("x", "a cat and a dog", "cat", tuple(mask), static, temporal_class="cat", static_class=static)


def from_latent(first):
    return [int(latent >= first) for latent in range(LATENTS)]


def test_the_sets_have_the_published_sizes_and_masks():
    assert {name: len(prompts()) for name, prompts in SETS.items()} == {"one_object": 80, "two_objects": 82, "movement": 100}
    starts = Counter(prompt.mask.index(1) for prompt in SETS["one_object"]())
    assert starts == {5: 20, 9: 20, 13: 20, 17: 20}
    assert all(list(prompt.mask) == from_latent(prompt.mask.index(1)) for prompt in SETS["one_object"]())
    assert {prompt.mask for prompt in SETS["two_objects"]()} == {tuple(from_latent(10))}
    moving = SETS["movement"]()
    assert Counter(prompt.second for prompt in moving) == dict.fromkeys(range(5), 20)
    assert [prompt.mask for prompt in moving if prompt.second == 1] == [SECOND_SECOND] * 20
    assert {prompt.mask.index(1): sum(prompt.mask) for prompt in moving} == {1: 4, 5: 4, 9: 4, 13: 4, 17: 4}


def test_the_prompts_follow_their_templates():
    one, two, moving = (SETS[name]() for name in SETS)
    assert one[1].prompt == (
        "An empty scene. Suddenly, during the second second of the video, a bicycle appears out of nowhere, drawing all attention."
    )
    assert one[20].prompt == (
        "An empty scene. Suddenly, during the third second of the video, an elephant appears out of nowhere, drawing all attention."
    )
    assert "last second" in one[-1].prompt and one[-1].temporal == "toothbrush"
    assert two[0].prompt == (
        "The video begins with a serene view centered on the bird, with no sign of the cat. In the second half, the cat unexpectedly "
        "appears, altering the dynamic of the scene."
    )
    assert (two[0].static, two[0].temporal) == ("bird", "cat")
    assert moving[0].prompt == "A video of a dog jumping high, with a strong movement at the first second."
    assert (moving[0].static, moving[0].temporal, moving[-1].second) == ("dog", "jumping", 4) and "last second" in moving[-1].prompt


def test_the_pairs_are_those_of_vbench():
    listed = "\n".join("|".join(pair) for pair in prompt_sets.pairs())
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "13e52beebd737f28"  # of VBench's own list, its articles taken off


@each_set
def test_every_phrase_stands_in_its_prompt_and_every_video_has_a_name_of_its_own(name):
    prompts = SETS[name]()
    assert len({prompt.name for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert f" {prompt.temporal}" in prompt.prompt and (prompt.static is None or f" {prompt.static}" in prompt.prompt)
        classes = {prompt.temporal_class, prompt.static_class} - {None}
        assert classes <= set(prompt_sets.COCO) and len(set(prompt_sets.COCO)) == 80
        assert bool(classes) == (name != "movement")


@each_set
def test_a_prompts_timeline_is_its_mask_to_the_latent_frame(name):
    for prompt in SETS[name]():
        for mask in ("soft", "binary"):
            masks = TemporalMask(prompt.timeline, mask=mask).masks(LATENTS, 16.0).tolist()
            assert masks == [list(map(float, prompt.mask)), *([[1.0] * LATENTS] if prompt.static else [])]


def test_judged_are_the_frames_that_end_the_latent_frames():
    frames = np.arange(FRAMES)
    assert scores.judged_frames(frames, LATENTS).tolist() == np.linspace(0, FRAMES - 1, LATENTS).astype(int).tolist()


@pytest.mark.parametrize("count", [77, 80, 82, 85])
def test_a_video_of_another_length_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} frames: the benchmark's masks have 21 latent frames, for 81 frames"):
        scores.judged_frames(np.zeros((count, 2, 2, 3)), LATENTS)


@pytest.mark.parametrize("appears, right", [(17, 21), (20, 21), (21, 20), (24, 20), (25, 19), (16, 20), (0, 16)])
def test_an_object_is_judged_to_the_frame(appears, right):
    # the mask begins at latent 5, frames 17 .. 20, of which the last is judged
    verdicts = scores.object_verdicts(prompt_of(from_latent(5)), drawn(cat=range(appears, FRAMES)), seen)
    assert verdicts.sum() == right


def test_absence_and_presence_are_told_apart_and_pooled_over_videos():
    always, never = drawn(cat=range(FRAMES)), drawn()
    early, late = prompt_of(from_latent(5)), prompt_of(from_latent(17))
    there = scores.score_objects([(early, always), (late, always)], seen)
    assert (there["absence"], there["presence"], there["accuracy"]) == (0.0, 100.0, round(100 * (16 + 4) / 42, 2))
    gone = scores.score_objects([(early, never), (late, never)], seen)
    assert (gone["absence"], gone["presence"], gone["accuracy"]) == (100.0, 0.0, round(100 * (5 + 17) / 42, 2))
    mixed = scores.score_objects([(early, never), (late, always)], seen)  # 5 of 22 frames without it are right, and 4 of 20 with it
    assert (mixed["absence"], mixed["presence"]) == (round(100 * 5 / 22, 2), round(100 * 4 / 20, 2))
    assert mixed["accuracy"] == round(100 * (5 + 4) / 42, 2) and mixed["videos"] == 2
    low, high = mixed["interval"]
    assert low <= mixed["accuracy"] <= high


def test_another_object_does_not_count():
    assert scores.score_objects([(prompt_of(from_latent(5)), drawn(dog=range(17, FRAMES)))], seen)["presence"] == 0.0


@pytest.mark.parametrize(
    "cat, dog, absence, presence",
    [
        (range(37, FRAMES), range(FRAMES), 100.0, 100.0),  # as asked
        (range(37, FRAMES), range(0), 0.0, 0.0),  # without the static one nothing is right
        (range(FRAMES), range(37, FRAMES), 0.0, 100.0),  # the two exchanged: the second half is right
        (range(37), range(FRAMES), 0.0, 0.0),  # before and after exchanged
        (range(0), range(FRAMES), 100.0, 0.0),
    ],
)
def test_of_two_objects_both_must_be_right(cat, dog, absence, presence):
    told = scores.score_objects([(prompt_of(from_latent(10), "dog"), drawn(cat=cat, dog=dog))], seen)
    assert (told["absence"], told["presence"]) == (absence, presence)
    assert told["accuracy"] == round((10 * absence + 11 * presence) / 21, 2)


def shift(one, other):
    """Flow's stand-in for frames whose value is how far all has gone: 3 : 4 in x and y, so 5 times the difference in length."""
    return (float(other[0, 0, 0]) - float(one[0, 0, 0])) * np.broadcast_to((3.0, 4.0), (*one.shape[:2], 2))


@pytest.mark.parametrize("frame, second", [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2), (63, 3), (64, 4), (79, 4)])
def test_a_movement_from_one_frame_to_the_next_counts_in_its_second(frame, second):
    video = np.zeros((FRAMES, 4, 4, 3), np.uint8)
    video[frame + 1 :] = 8
    by_second = scores.movement_by_second(video, LATENTS, shift)
    assert by_second.tolist() == [5 * 8 / 4 if place == second else 0.0 for place in range(5)]
    asked = BenchmarkPrompt("x", "", "jumping", SECOND_SECOND, "dog", second=second)
    assert scores.score_movement([(asked, video)], shift)["accuracy"] == 100.0
    other = BenchmarkPrompt("x", "", "jumping", SECOND_SECOND, "dog", second=(second + 1) % 5)
    assert scores.score_movement([(other, video)], shift)["accuracy"] == 0.0


@pytest.mark.parametrize("second", range(5))
def test_farneback_finds_the_second_in_which_a_square_moves(second):
    if importlib.util.find_spec("cv2") is None:
        pytest.skip("no OpenCV: Farneback's flow is not proven here; pip install opencv-python-headless")
    texture = np.random.default_rng(0).integers(0, 255, (6, 6), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    video = np.full((FRAMES, 64, 64, 3), 90, np.uint8)
    for frame in range(FRAMES):  # creeps all the time, and runs in one second
        x = 4 + frame // 16 + int(np.clip(frame - 16 * second, 0, 16))
        video[frame, 20:44, x : x + 24] = texture[..., None]
    by_second = scores.movement_by_second(video, LATENTS, seeing.farneback())
    assert by_second.argmax() == second and by_second[second] > 2 * np.delete(by_second, second).max()


def test_the_table_sets_each_set_and_run_beside_the_papers_own_row():
    told = {"accuracy": 11.0, "interval": [10.0, 12.0], "videos": 3}
    objects = {**told, "absence": 22.0, "presence": 33.0}
    lines = scores.table({"one_object": {"plain": objects, "guided": objects}, "movement": {"guided": told}}).splitlines()
    assert lines[2] == "| one_object | plain | 3 | 11.00 (10.0 to 12.0) | 22.00 | 33.00 | 63.94 | 67.38 | 60.50 |"
    assert lines[3].endswith("| 83.56 | 87.38 | 79.75 |")
    assert lines[4] == "| movement | guided | 3 | 11.00 (10.0 to 12.0) |  |  | 54.00 |  |  |"
    assert len({line.count("|") for line in lines}) == 1


def written(tmp_path, text):
    path = tmp_path / "prompts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_authors_files_are_read_each_as_its_set(tmp_path):
    mask = " ".join(map(str, SECOND_SECOND))
    of_set, (one,) = prompt_sets.read_prompts(written(tmp_path, f'prompt,temp_object,control_signal1\n"A, cat.",cat,{mask}\n'))
    assert (of_set, one.prompt, one.temporal, one.mask) == ("one_object", "A, cat.", "cat", SECOND_SECOND)
    assert (one.temporal_class, one.static, one.second) == ("cat", None, None)
    of_set, (two,) = prompt_sets.read_prompts(written(
        tmp_path, "prompt,original_prompt,Object 1,Object 2,temp_object,static_object,control_signal1,control_signal2\n"
        f"A kitten and a puppy,a cat and a dog,kitten,puppy,puppy,kitten,{mask},1 1\n"
    ))  # fmt: skip
    assert (of_set, two.temporal, two.static) == ("two_objects", "puppy", "kitten")
    assert (two.temporal_class, two.static_class) == ("dog", "cat")
    of_set, (moving,) = prompt_sets.read_prompts(written(
        tmp_path, f"prompt,temp_object,static_object,control_signal1,mov_sec,control_signal2\nA dog barking,barking,dog,{mask},1,1 1\n"
    ))  # fmt: skip
    assert (of_set, moving.temporal, moving.static, moving.second, moving.temporal_class) == ("movement", "barking", "dog", 1, None)


def test_a_file_that_is_not_the_authors_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(ValueError, match="no column control_signal1, temp_object"):
        prompt_sets.read_prompts(written(tmp_path, "prompt\nA cat\n"))
    with pytest.raises(ValueError, match="line 2: control_signal1 has 3 values: needs one for each of 21"):
        prompt_sets.read_prompts(written(tmp_path, "prompt,temp_object,control_signal1\nA cat,cat,0 1 1\n"))


def test_what_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(SystemExit, match="needs no_such_module, .* pip install ultralytics opencv-python-headless"):
        seeing.optional("no_such_module")


def test_a_class_that_the_detector_never_names_is_refused():
    detector = object.__new__(seeing.YoloDetector)
    detector.model = type("Model", (), {"names": {0: "cat", 1: "dog"}})()
    detector.check({"cat"})
    with pytest.raises(SystemExit, match="the detector has no class puppy"):
        detector.check({"cat", "puppy"})
