"""What a line of Composition Guide says, and how a wrong one is refused: line, caret, remedy."""

import pytest
from wan_conductor.guidance.constraints import check_room, constraints_of
from wan_conductor.guidance.relations import RELATIONS
from wan_conductor.guidance.spans import TimelineError
from wan_conductor.guidance.timeline import parse_timeline


def read(text):
    return [(one.relation.name, one.entities, str(one.span), one.strength) for one in constraints_of(parse_timeline(text))]


def refused(text):
    with pytest.raises(TimelineError) as caught:
        constraints_of(parse_timeline(text))
    return caught.value


def test_each_line_is_a_relation_with_its_own_span():
    text = "0s - 2s  red circle | left of | blue square\n2s - end  red circle | moves up  x1.5\nalways a dog | between | b | c"
    assert read(text) == [
        ("left of", ("red circle", "blue square"), "0s - 2s", 1.0),
        ("moves up", ("red circle",), "2s - end", 1.5),
        ("between", ("a dog", "b", "c"), "always", 1.0),
    ]


def test_a_line_of_two_spans_is_two_constraints_and_the_same_said_twice_is_one():
    text = "0s - 1s, 2s - 3s  cat | moves left\n2s - 3s   Cat |  Moves  Left x2"
    assert read(text) == [("moves left", ("cat",), "0s - 1s", 1.0), ("moves left", ("cat",), "2s - 3s", 2.0)]


def test_a_header_is_the_first_thing_of_the_lines_under_it():
    assert read("cat:\n  0s - 1s  left of | dog\n  1s - 2s  moves left") == [
        ("left of", ("cat", "dog"), "0s - 1s", 1.0), ("moves left", ("cat",), "1s - 2s", 1.0),
    ]


def test_lines_without_times_share_the_video():
    assert [span for _, _, span, _ in read("cat | left of | dog\ncat | above | dog")] == ["0% - 50%", "50% - end"]


def test_strength_zero_and_an_empty_text_ask_for_nothing_but_are_still_read():
    assert read("always cat | left of | dog x0") == read("# nothing") == []
    assert refused("always cat | leftish | dog x0").line == 1


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_every_name_and_alias_is_read_in_any_case(relation):
    rest = "".join(f" | thing {i}" for i in range(1, relation.entities))
    for name in (relation.name, *relation.aliases):
        assert read(f"always thing 0 | {name.upper()}{rest}")[0][0] == relation.name


def test_the_issues_relations_all_exist():
    asked = """left of, right of, above, below, inside, between, in front of, behind, beneath, moves left, moves right, moves up,
    moves down, toward, away, turns, jumps over, grows, shrinks, has colour, does action"""
    assert {name.strip() for name in asked.split(",")} == {relation.name for relation in RELATIONS}


@pytest.mark.parametrize(
    "text, line, at, words",
    [
        ("always  cat | lefft of | dog", 1, "lefft", ["unknown relation `lefft of`", "nearest is `left of`"]),
        ("# one\nalways  cat | sings to | dog", 2, "sings", ["unknown relation", *(relation.name for relation in RELATIONS)]),
        ("always  cat left of dog", 1, None, ["no relation", "between bars"]),
        ("always  cat | left of", 1, None, ["`left of` is about 2 things, and here are 1", "`a | left of | b`"]),
        ("always  cat | moves left | dog", 1, "dog", ["about 1 thing,", "here are 2", "`a | moves left`"]),
        ("always  cat | between | dog", 1, None, ["about 3 things", "`a | between | b | c`"]),
        ("always  left of | cat | dog", 1, "cat", ["unknown relation `cat`", "`left of` is one"]),
        ("always  cat | left of | CAT", 1, "CAT", ["in a relation to itself", "other words"]),
        ("always  cat | left of |  | dog", 1, None, ["nothing stands here"]),
        ("always  | left of | dog", 1, None, ["nothing stands here"]),
        ("cat:\n  always  cat | left of | dog", 2, "cat", ["unknown relation `cat`", "first under a header"]),
        ("cat:\n  always  left of", 2, None, ["`left of | b`"]),
        ("always  黒い猫 | leftt of | 犬", 1, "leftt", ["nearest is `left of`"]),
    ],
)
def test_a_wrong_line_is_refused_with_its_number_a_caret_and_what_to_write(text, line, at, words):
    error = refused(text)
    assert error.line == line and all(part in str(error) for part in words)
    typed = text.split("\n")[line - 1]
    assert at is None or error.column == typed.index(at, typed.index("|") if typed.count(at) > 1 and at != "cat" else 0) + 1
    assert str(error).split("\n")[-1].strip() == "^" and typed in str(error)


def test_the_end_of_a_line_that_lacks_a_thing_is_where_the_caret_stands():
    assert refused("always  cat | left of   # to be written").column == len("always  cat | left of") + 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("0f - 1f  cat | moves left", ["`moves left` takes time", "holds 1 of the 13", "2 at least"]),
        ("0s - 0.3s  cat | turns", ["holds 2 of the 13", "3 at least"]),
        ("always cat | above | dog\n20f - 22f  cat | toward | dog", ["line 2", "holds 1"]),
    ],
)
def test_a_motion_needs_room_in_its_span(text, words):
    with pytest.raises(TimelineError) as caught:
        check_room(parse_timeline(text), 13, 16.0)
    assert all(part in str(caught.value) for part in words)


def test_a_state_fits_into_one_latent_frame():
    check_room(parse_timeline("20f - 21f  cat | left of | dog"), 13, 16.0)
    (one,) = constraints_of(parse_timeline("20f - 21f  cat | left of | dog"))
    assert one.frames(13, 16.0).sum() == 1
