"""Words on pictures: how they are broken and shortened to the room there is."""

import pytest
from wan_conductor.guidance.pictures import columns, short, wrapped


@pytest.mark.parametrize(
    "words, lines",
    [
        ("a cat jumps over it", ["a cat", "jumps over", "it"]),
        ("unbelievably", ["unbelievab", "ly"]),
        ("一只小猫抬头看窗外", ["一只小猫抬", "头看窗外"]),  # each as wide as two letters
        ("看 cat小猫看窗外", ["看", "cat小猫看", "窗外"]),
        ("", [""]),
    ],
)
def test_lines_are_no_wider_than_the_room_and_lose_nothing(words, lines):
    assert wrapped(words, 10).split("\n") == lines and all(columns(line) <= 10 for line in lines)


def test_what_is_shortened_keeps_its_beginning_and_the_room():
    assert short("a red cat", 9) == "a red cat" and short("a red cats", 9) == "a red ca…"
    assert short("一只小猫抬", 9) == "一只小猫…" and short("一只小猫", 8) == "一只小猫"
    assert wrapped("猫猫", 1) == "猫\n猫"  # too narrow for any: one a line
