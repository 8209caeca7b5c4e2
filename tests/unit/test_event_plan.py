"""The planner reads order and company out of English prompts, in the prompt's own words."""

import random
import re

import pytest
from wan_conductor.guidance.event_plan import plan_timeline
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.playground.world import sample_clip

CAT = "cat:\n  0% - 33.3%     watches a bowl\n  33.3% - 66.7%  dips its paw into the water\n  66.7% - end    takes it out\n"


def planned(prompt):
    """{subject: [(start, end, event)]} of the planned timeline."""
    found = {}
    for line in parse_timeline(plan_timeline(prompt)).lines:
        (span,) = line.spans
        found.setdefault(line.subject, []).append((str(span.start), str(span.end), line.body))
    return found


def order(prompt):
    """The same without times."""
    return {subject: [event for *_, event in events] for subject, events in planned(prompt).items()}


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat watches a bowl, then dips its paw into the water, then takes it out",
        "First, a cat watches a bowl. After that, it dips its paw into the water. Finally, the cat takes it out.",
        "A cat watches a bowl, dips its paw into the water and takes it out.",
        "The cat watches a bowl. Next the cat dips its paw into the water; afterwards it takes it out!",
        "A video of a cat: at first it watches a bowl and then, a moment later, dips its paw into the water. In the end it takes it out",
    ],
)
def test_words_of_order_make_the_same_timeline_in_equal_shares(prompt):
    assert plan_timeline(prompt) == CAT


def test_while_puts_two_subjects_side_by_side_wherever_it_stands():
    expected = {"cat": [("0%", "50%", "watches a bowl"), ("50%", "end", "dips its paw")], "dog": [("0%", "50%", "sleeps")]}
    assert planned("A cat watches a bowl while a dog sleeps, then the cat dips its paw") == expected
    assert planned("A cat watches a bowl. Meanwhile, a dog sleeps. Then the cat dips its paw") == expected
    assert planned("While a dog sleeps, a cat watches a bowl, then the cat dips its paw") == expected
    assert planned("a man walks while waving his hand")["man"] == [("0s", "end", "walks"), ("0s", "end", "waving his hand")]


def test_before_and_after_join_events_but_not_places():
    assert order("A cat jumps before sitting down") == {"cat": ["jumps", "sitting down"]}
    assert order("A cat sits down after jumping over the fence") == {"cat": ["jumping over the fence", "sits down"]}
    assert order("After watching the bowl, the cat dips its paw") == {"cat": ["watching the bowl", "dips its paw"]}
    assert planned("Before the dog barks, the cat jumps") == {"dog": [("50%", "end", "barks")], "cat": [("0%", "50%", "jumps")]}
    assert order("A girl runs after the dog, then stands before a door") == {"girl": ["runs after the dog", "stands before a door"]}
    assert order("a can falls next to a bottle, then takes its first roll") == {"can": ["falls next to a bottle", "takes its first roll"]}


def test_and_joins_things_or_events():
    assert order("A girl picks up the ball and the stick, and then falls") == {"girl": ["picks up the ball and the stick", "falls"]}
    assert order("a cat watches birds and cats and jumps") == {"cat": ["watches birds and cats", "jumps"]}
    assert planned("The cat jumps. Then the cat sits and a dog appears.")["dog"] == [("50%", "end", "appears")]


@pytest.mark.parametrize(
    ("prompt", "subject", "event"),
    [
        ("A man in a red shirt opens the door", "man", "opens the door"),
        ("A man with wings flies over his two dogs", "man", "flies over his two dogs"),
        ("A woman wearing glasses opens the box", "woman", "opens the box"),
        ("A woman slowly opens the box", "woman", "slowly opens the box"),
        ("a cat chasing birds", "cat", "chasing birds"),
        ("a cat is chasing birds", "cat", "chasing birds"),
        ("two big dogs run in a park", "big dogs", "run in a park"),
        ("A cat who jumps", "cat", "jumps"),
        ("Dogs run in a park", "Dogs", "run in a park"),
        ("there is a (red:1.3) bus and it stops", "red bus", "stops"),
    ],
)
def test_subjects_end_where_their_verb_or_their_place_begins(prompt, subject, event):
    assert order(prompt) == {subject: [event]}


def test_what_merely_is_and_what_is_not_understood_is_no_event_and_the_latter_is_told():
    text = plan_timeline("The sky is dark. A ball rolls, then bounces, cinematic lighting, 4k")
    assert text == "ball:\n  0% - 50%   rolls\n  50% - end  bounces\n# not read as events: cinematic lighting; 4k\n"
    assert "sky" not in text
    assert planned("A ball rolls. After bouncing twice.")["ball"][-1][-1] == "bouncing twice"


def test_the_same_event_twice_stays_two_events():
    assert order("A cat jumps, sits, then jumps") == {"cat": ["jumps", "sits", "jumps"]}


@pytest.mark.parametrize(
    "prompt", ["", "   ", "beautiful landscape, 4k", "一只猫看着碗，然后把爪子伸进去", "then, and then; finally", "always sits"]
)
def test_a_prompt_without_events_is_refused_with_what_to_do(prompt):
    with pytest.raises(ValueError, match="Plan Events: input `prompt` = .*write the timeline by hand"):
        plan_timeline(prompt)


@pytest.mark.parametrize("kind", ["motion", "events", "two_movers"])
def test_captions_of_the_drawn_world_are_read_as_they_were_told(kind):
    rng = random.Random(0)
    for _ in range(60):
        clip = sample_clip(rng, kind)
        told = {}
        for words, what in clip.phrases:
            if what == "object":
                events = told.setdefault(words, [])
            else:
                events.append(words)
        assert order(clip.caption) == told, clip.caption
        for events in planned(clip.caption).values():
            starts = [float(start.rstrip("s%")) for start, _, _ in events]
            assert starts == pytest.approx([100 * i / len(events) for i in range(len(events))], abs=0.06)


def test_any_text_gives_a_timeline_of_its_own_words_or_the_refusal():
    vocabulary = (
        "a the cat dog red dogs jumps sits running while before after then , . and first finally is its paw two next to later slowly ( ) : "
        "# x2 2s - 3s always : who [ ] % “ 猫"
    ).split(" ")
    rng = random.Random(1)
    read = 0
    for _ in range(400):
        prompt = " ".join(rng.choice(vocabulary) for _ in range(rng.randint(1, 25)))
        try:
            timeline = parse_timeline(plan_timeline(prompt))
        except ValueError as error:
            assert "write the timeline by hand" in str(error), prompt
            continue
        read += 1
        for line in timeline.lines:
            assert line.body in re.sub(r"\(([^()]*?)(?::[0-9.]+)?\)", r"\1", prompt)
    assert read > 100


def test_a_plan_is_a_schedule():
    schedule = EventSchedule(parse_timeline(plan_timeline("A cat watches a bowl while a dog sleeps, then the cat dips its paw")))
    assert [ref.phrase for ref in schedule.phrases] == ["cat", "watches a bowl", "dips its paw", "dog", "sleeps"]
    assert schedule.skip_reason(13, 16) is None
