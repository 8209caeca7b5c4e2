"""From a prompt to an Event Schedule timeline by rules for English, offline: a first draft, which is shown as text to be edited.

Words of order (first, then, finally, after that, before, after) put events one behind the other, words of company (while, meanwhile)
put them side by side, and every event gets an equal share of the video: TS-Attn loses 1.5 points to hand-set spans that way (section 4).
Subjects and events are the prompt's own words, so that they are found in it.
"""

import re
from dataclasses import dataclass, field

from .spans import END, START, Moment, Span, TimelineError
from .timeline import Timeline, TimelineLine, parse_timeline

NEXT = r"and then|then|after (?:that|this|a while|a moment)|afterwards?|next(?!\s+to\b)|(?:a moment |moments )?later|subsequently"
LAST = r"eventually|finally|lastly|at last|in the end|at the end(?!\s+of\b)"
FIRST = r"first of all|firstly|first|at first|initially|to begin with|in the beginning|at the beginning(?!\s+of\b)"
TOGETHER = r"meanwhile|in the meantime|at the same time|simultaneously"
JOINT = re.compile(
    rf"(?P<stop>[.;!?#\r\n])|(?P<comma>,)|\b(?:(?P<next>{NEXT}|{LAST})|(?P<first>{FIRST})|(?P<together>{TOGETHER})"
    r"|(?P<while>while|whilst)|(?P<before>before)|(?P<after>after)|(?P<and>and))\b",
    re.IGNORECASE,
)
OPENING = re.compile(
    r"there (?:is|are)\s|we (?:can )?see\s|look\s|in (?:this|the) (?:video|scene|clip|shot)\s"
    r"|(?:an?|the) (?:video|scene|shot|clip|close-up|footage) (?:of|with|showing|in which)\s",
    re.IGNORECASE,
)
WEIGHT = re.compile(r"\(([^()]*?)(?::[0-9.]+)?\)")
WORD = re.compile(r"[\w'’-]+")
PRONOUNS = {"it", "he", "she", "they", "who", "which"}
PLURAL = {"two", "three", "four", "five", "six", "some", "many", "several", "both", "these", "those", "all"}
DETERMINERS = {"a", "an", "the", "one", "this", "that", "its", "his", "her", "their", "another", *PLURAL}
PREPOSITIONS = {
    "in", "on", "at", "with", "under", "near", "from", "by", "over", "behind", "beside", "inside", "into", "onto", "to", "for", "of",
    "between", "through", "around", "across", "above", "below", "without", "against", "next", "along", "up", "down",
}
RELATIVE = {"that", "who", "which"}
BEING = {"is", "are", "was", "were"}
NOUNS = {"glasses", "lens", "always", "sometimes", "perhaps", "besides", "towards", "upwards", "downwards", "forwards", "backwards"}


@dataclass
class Event:
    """Somebody's event: where its words stand in the prompt."""

    subject: str
    start: int
    end: int


@dataclass
class Chain:
    """Steps that follow each other and share the video equally; the events of one step happen together."""

    steps: list[list[Event]] = field(default_factory=list)


@dataclass(frozen=True)
class Word:
    text: str
    start: int
    end: int

    @property
    def plain(self) -> str:
        return self.text.casefold()

    @property
    def finite(self) -> bool:
        """Looks like a verb in the third person, as `jumps`."""
        if self.plain in {"has", "does", "goes", *BEING}:
            return True
        return len(self.plain) > 2 and self.plain.endswith("s") and not self.plain.endswith(("ss", "us", "is", "as", "'s", "’s")) \
            and self.plain not in NOUNS

    @property
    def participle(self) -> bool:
        return len(self.plain) > 4 and self.plain.endswith("ing") and self.plain not in {"something", "nothing", "everything", "morning"}

    @property
    def adverb(self) -> bool:
        return len(self.plain) > 3 and self.plain.endswith("ly")


def plan_timeline(prompt: str) -> str:
    """The timeline text of `prompt`: subjects as headers, their events in the order in which they happen, in percent of the video.

    A comment at its end holds what was not understood. Raises ValueError where no subject with something to do can be read; a prompt in
    another language is such a case.
    """
    text = WEIGHT.sub(r"\1", prompt)
    plan = Plan(text)
    for joint, start, end in parts(text):
        plan.read(joint, start, end)
    lines = [
        TimelineLine(event.subject, text[event.start : event.end], (share(step, len(chain.steps)),))
        for subject in plan.subjects
        for chain in plan.chains
        for step, events in enumerate(chain.steps)
        for event in events
        if event.subject == subject
    ]
    drafted = Timeline(tuple(lines)).format()
    try:
        understood = bool(parse_timeline(drafted).lines)
    except TimelineError:  # a subject that reads as a time, as in `always sits`
        understood = False
    if not understood:
        raise ValueError(
            f"Plan Events: input `prompt` = {prompt!r}: no subject and its events can be read (English, as in `a cat watches a bowl, then "
            "dips its paw`): write the timeline by hand"
        )
    return drafted + "\n" + (f"# not read as events: {'; '.join(plan.unread)}\n" if plan.unread else "")


def share(step: int, count: int) -> Span:
    if count == 1:
        return Span(START, END)
    end = END if step + 1 == count else Moment(round(100 * (step + 1) / count, 1), "%")
    return Span(Moment(round(100 * step / count, 1), "%"), end)


def parts(text: str) -> list[tuple[str, int, int]]:
    """(joint before it, start, end) of each stretch between two joints; the first follows a `stop`."""
    found, joint, start = [], "stop", 0
    for match in JOINT.finditer(text):
        before = WORD.findall(text, start, match.start())
        if before and before[-1].casefold() in DETERMINERS:
            continue  # its first step, the next room
        found.append((joint, start, match.start()))
        joint, start = str(match.lastgroup), match.end()
    return [*found, (joint, start, len(text))]


class Plan:
    """What has been read so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.subjects: list[str] = []
        self.chains: list[Chain] = []
        self.chain = Chain()  # the one that goes on
        self.sentence_start = 0  # its length when the sentence began
        self.spoken: str | None = None  # whom the words spoke of last
        self.event: Event | None = None  # the last one, whose words may go on
        self.pending = ""  # a joint whose clause is still to come: `then ,`
        self.fronted = ""  # While Y, X; Before Y, X; After Y, X: the joint of Y
        self.waiting: tuple[list[Word], str] | None = None  # After sitting down, the cat ...
        self.unread: list[str] = []

    def read(self, joint: str, start: int, end: int) -> None:
        """One stretch of the prompt behind one joint."""
        words = [Word(m[0], m.start(), m.end()) for m in WORD.finditer(self.text, start, end)]
        if words and (opening := OPENING.match(self.text, words[0].start)):
            words = [word for word in words if word.start >= opening.end()]
        if joint == "stop":
            self.sentence_start, self.fronted, self.pending = len(self.chain.steps), "", "stop"
        if not words:
            if joint not in ("stop", "comma", "and") or not self.pending:
                self.pending = joint
            return
        opens = self.pending == "stop" and joint in ("while", "before", "after")
        if joint in ("comma", "and", "first", "stop") and self.pending:
            joint = self.pending
        self.pending = ""
        if opens and not self.spoken and words[0].participle:
            self.waiting = words, joint
            return
        clause = self.clause(words, joint)
        if clause is None:
            between = self.text[self.event.end : words[0].start] if self.event else ","
            if self.event and joint in ("and", "before", "after") and "," not in between:
                self.event.end = words[-1].end  # picks up the ball and the stick; runs after the dog
            else:
                self.unread.append(self.text[words[0].start : words[-1].end])
            return
        self.spoken, said = clause
        if self.waiting:
            earlier, self.waiting = self.waiting, None
            self.place(self.event_of(earlier[0]), earlier[1], opens=True)
        if said:
            self.place(self.event_of(said), joint, opens)

    def event_of(self, said: list[Word]) -> Event:
        return Event(str(self.spoken), said[0].start, said[-1].end)

    def place(self, event: Event, joint: str, opens: bool) -> None:
        """Where an event comes among the others; `opens`: its sentence begins with the joint, and what it joins follows."""
        is_new = event.subject not in self.subjects
        if is_new:
            self.subjects.append(event.subject)
        elif joint not in ("while", "together"):
            self.chain = next((c for c in self.chains if any(e.subject == event.subject for step in c.steps for e in step)), self.chain)
        steps = self.chain.steps
        fronted, self.fronted = self.fronted, joint if opens else ""
        if not steps:
            steps.append([event])
            self.chains.append(self.chain)
        elif fronted == "before" or (joint == "after" and not opens):
            steps.insert(len(steps) - 1, [event])
        elif fronted == "while" or (joint in ("while", "together") and not opens):
            steps[-1].append(event)
        elif joint == "and" and is_new and self.sentence_start:
            steps[-1].append(event)
        elif joint == "and" and is_new:
            self.chain = Chain([[event]])
            self.chains.append(self.chain)
        else:
            steps.append([event])
        self.event = event

    def clause(self, words: list[Word], joint: str) -> tuple[str, list[Word]] | None:
        """Who, and the words of what happens (none: only who); None if the words are not a clause after this joint."""
        first = words[0]
        if first.plain in PRONOUNS and self.spoken:
            return self.spoken, told(words[1:])
        if first.plain not in DETERMINERS and self.spoken and self.continues(words, joint):
            return self.spoken, told(words)
        who, what = split(words)
        if not what and joint not in ("stop", "comma"):
            return None
        if not who or (first.plain not in DETERMINERS and (not what or (what[0].participle and joint != "stop"))):
            return None
        return self.known(self.text[who[0].start : who[-1].end]), told(what)

    def continues(self, words: list[Word], joint: str) -> bool:
        """Whether words without a subject of their own are something that `spoken` does."""
        verb = next((word for word in words if not word.adverb), words[0])
        if joint in ("next", "first"):
            return True
        if joint in ("before", "after", "while", "together"):
            return verb.participle
        if not verb.finite and not verb.participle or joint == "stop":
            return False
        return not (joint == "and" and len(words) == 1 and self.ends_in_bare_plural())

    def ends_in_bare_plural(self) -> bool:
        """`watches birds` and cats"""
        said = WORD.findall(self.text, self.event.start, self.event.end) if self.event else []
        return len(said) == 2 and said[1].endswith("s")

    def known(self, who: str) -> str:
        """`the circle` is the red circle of before."""
        folded = who.casefold()
        return next((s for s in self.subjects if s.casefold() == folded or s.casefold().split()[-1] == folded), who)


def told(words: list[Word]) -> list[Word]:
    """What happens, without `is` before a participle; nothing where something merely `is`."""
    if words and words[0].plain in BEING:
        return words[1:] if any(word.participle for word in words[1:3]) else []
    return words


def split(words: list[Word]) -> tuple[list[Word], list[Word]]:
    """A noun phrase without determiner and what stands behind it, the verb first: `a man in a hat | opens the door`."""
    plural = words[0].plain in PLURAL
    if words[0].plain in DETERMINERS and words[0].plain != "another":
        words = words[1:]
    verb = after_plural_noun(words) if plural else verb_place(words)
    while verb > 1 and words[verb - 1].adverb:
        verb -= 1
    noun = words[:verb]
    for index, word in enumerate(noun):
        if index and (word.participle or word.plain in (PREPOSITIONS - {"of"}) | RELATIVE):
            noun = noun[:index]
            break
    return noun, words[verb:]


def after_plural_noun(words: list[Word]) -> int:
    return next((index + 1 for index, word in enumerate(words) if word.plain.endswith("s")), len(words))


def verb_place(words: list[Word]) -> int:
    """Index of the verb; the number of words where there is none."""
    for index, (before, word) in enumerate(zip(words, words[1:]), start=1):
        if word.finite and not before.participle and before.plain not in (DETERMINERS - RELATIVE) | PREPOSITIONS:
            return index
    if len(words) > 1 and words[0].plain.endswith("s") and words[0].finite:
        return 1  # `Dogs run`
    return next((index for index, word in enumerate(words) if index and word.participle), len(words))
