"""Labels of a classifier: what mirroring and reversing make of them, and `labels.csv` read with all that is wrong at once."""

import pytest
from wan_conductor.guidance.labels import KNOWN_LABELS, LabelsError, named, read_labels, read_labels_csv, rivals_of, with_words

HEADER = "file,label,entity_a,entity_b,entity_c,prompt\n"
GOOD = (
    HEADER
    + "a.mp4,left of,red cat,blue dog,,\n"
    + 'b.mp4,left of,red cat,blue dog,,"a red cat Left of, a blue dog"\n'
    + "c.mp4,right of,cat,dog,,\n"
    + "d.mp4,right of,cat,dog,,\n"
)


def folder(tmp_path, text, files="abcd"):
    for name in files:
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return tmp_path / "labels.csv"


def problems(path, labels=()):
    with pytest.raises(LabelsError) as caught:
        read_labels_csv(path, labels)
    return str(caught.value)


@pytest.mark.parametrize("label", KNOWN_LABELS, ids=lambda label: label.name)
def test_seen_twice_in_a_mirror_or_twice_backwards_a_label_is_itself(label):
    for mirror, backwards in ((True, False), (False, True), (True, True)):
        once = label.seen(mirror, backwards, KNOWN_LABELS)
        assert once.seen(mirror, backwards, KNOWN_LABELS) == label and once.entities == label.entities


@pytest.mark.parametrize(
    "name, mirrored, backwards",
    [
        ("left of", "right of", "left of"),
        ("above", "above", "above"),
        ("moves left", "moves right", "moves right"),
        ("moves up", "moves up", "moves down"),
        ("toward", "toward", "away"),
        ("grows", "grows", "shrinks"),
        ("turns", "turns", "turns"),
    ],
)
def test_a_mirror_swaps_sides_and_time_swaps_motions(name, mirrored, backwards):
    label = named(KNOWN_LABELS, name)
    assert label.seen(True, False, KNOWN_LABELS).name == mirrored
    assert label.seen(False, True, KNOWN_LABELS).name == backwards


def test_what_is_not_taught_or_not_known_has_no_view():
    left = named(KNOWN_LABELS, "left of")
    assert left.seen(True, False, [left]) is None and left.seen(False, False, [left]) is left
    (bow,) = read_labels("bows to | 2")
    assert bow.seen(True, False, [bow]) is None and bow.seen(False, True, [bow]) is None


def test_labels_are_read_line_by_line():
    left, gives, takes = read_labels(
        "left of\n\ngives to | 2 | mirror = gives to | reverse = takes from  # new\ntakes from|2|reverse=gives to"
    )
    assert left == named(KNOWN_LABELS, "left of")
    assert (gives.entities, gives.mirrored, gives.reversed) == (2, "gives to", "takes from")
    assert (takes.mirrored, takes.reversed) == ("", "gives to")
    assert read_labels("# nothing") == ()


def test_all_that_is_wrong_with_labels_is_said_at_once():
    with pytest.raises(LabelsError) as caught:
        read_labels("bows\nleft of | 2\nleft of\nleft of\ngives | 4\ntakes | 2 | miror = takes\nputs | 2 | reverse = gets")
    text = str(caught.value)
    assert "6 problems" in text
    for words in (
        "line 1: `bows` is new",
        "line 2",
        "line 4: `left of` is there twice",
        "line 5",
        "line 6",
        "`reverse = gets` is not among",
    ):
        assert words in text


def test_a_good_list_is_read(tmp_path):
    labels, videos = read_labels_csv(folder(tmp_path, "\ufeff" + GOOD))
    assert [label.name for label in labels] == ["left of", "right of"]
    assert [video.file for video in videos] == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert videos[0].prompt == "red cat left of blue dog" and videos[0].entities == ("red cat", "blue dog")
    assert videos[1].prompt_with(labels[1]) == "a red cat right of, a blue dog"


def test_everything_wrong_in_a_list_is_listed_with_its_line(tmp_path):
    text = GOOD + (
        "gone.mp4,left of,cat,dog,,\n"
        "a.mp4,lefft of,cat,dog,,\n"
        "../secret.mp4,left of,cat,dog,,\n"
        "a.mp4,left of,cat,,,\n"
        "a.mp4,moves left,cat,dog,,\n"
        "a.mp4,left of,cat,Cat,,\n"
        "a.mp4,left of,cat,dog,,a cat beside a dog\n"
        "a.mp4,left of,cat,dog,,a cat left of a pig\n"
        "a.mp4,left of,cat left of,dog,,\n"
        "a.mp4,left of,cat,dog,,a cat left of a dog, at night\n"
    )
    told = problems(folder(tmp_path, text))
    for words in (
        "line 6: file `gone.mp4` is missing",
        "line 7: unknown label `lefft of`; known are left of, right of",
        "line 8: file `../secret.mp4`: must be the name of a file in this folder",
        "line 9: `entity_b` is empty",
        "line 10: `entity_b` is filled",
        "line 11: the same thing twice",
        "line 12: the prompt `a cat beside a dog` does not say `left of`",
        "line 13: `dog` is not in the prompt",
        "line 14: `cat left of` holds the label's words",
        "line 15: more fields than columns",
    ):
        assert words in told
    assert "10 problems" in told


@pytest.mark.parametrize(
    "text, words",
    [
        ("file,what\na.mp4,left of\n", ["column `label` is missing", "column `entity_a` is missing", "file, what"]),
        (HEADER, ["lists no video"]),
        (HEADER + "a.mp4,left of,cat,dog,,\nb.mp4,left of,cat,dog,,\n", ["`left of` has no rival"]),
        (GOOD + "a.mp4,above,cat,dog,,\n", ["`above` has one video"]),
        (HEADER + "a.mp4\n", ["unknown label ``"]),
    ],
)
def test_lists_that_nothing_can_be_learned_from_are_refused(tmp_path, text, words):
    told = problems(folder(tmp_path, text))
    assert all(word in told for word in words)


def test_a_list_that_is_not_there_or_not_text_is_refused(tmp_path):
    assert "there is no such file" in problems(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(b"file,label,entity_a\n\xff\xfe,1,2\n")
    assert "cannot be read as CSV in UTF-8" in problems(tmp_path / "labels.csv")


def test_a_declared_list_of_labels_bounds_what_is_known(tmp_path):
    told = problems(folder(tmp_path, GOOD), read_labels("above\nright of"))
    assert told.count("unknown label `left of`; known are above, right of") == 2


def test_rivals_are_the_labels_about_as_many_things():
    left = named(KNOWN_LABELS, "left of")
    names = [label.name for label in rivals_of(left, KNOWN_LABELS)]
    assert "right of" in names and "left of" not in names and "grows" not in names and "between" not in names


def test_words_are_exchanged_whole_and_once():
    assert with_words("a cat leftover left of a dog left of", "left of", "above") == "a cat leftover above a dog left of"
    with pytest.raises(ValueError, match="does not say"):
        with_words("a leftof b", "left of", "above")
