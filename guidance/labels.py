"""What a classifier is taught: labels, how mirroring and reversing a video change them, and the list of videos `labels.csv`."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .phrases import fold
from .relations import RELATIONS

ROLES = ("entity_a", "entity_b", "entity_c")
MIRRORED = {"left of": "right of", "moves left": "moves right"}
REVERSED = {"moves left": "moves right", "moves up": "moves down", "toward": "away", "grows": "shrinks"}
LARGEST_CSV = 8 * 2**20
PUNCTUATION = ".,;:!?"
MORE = "(more)"  # where the reader puts fields beyond the columns


@dataclass(frozen=True)
class Label:
    """One thing to tell apart; `entities` phrases take part in it. mirrored, reversed: what it becomes in the video seen in a mirror, and
    run backwards ("": not known, so that such a video is not made)."""

    name: str
    entities: int
    mirrored: str = ""
    reversed: str = ""

    def seen(self, mirror: bool, backwards: bool, labels: Sequence["Label"]) -> "Label | None":
        """The label of the mirrored and reversed video, among `labels`; None: it is not known, or not taught."""
        one: Label | None = self
        if mirror and one is not None:
            one = named(labels, one.mirrored)
        if backwards and one is not None:
            one = named(labels, one.reversed)
        return one


@dataclass(frozen=True)
class TrainingVideo:
    """One line of `labels.csv`. `prompt` tells `label` in its own words."""

    file: str
    label: Label
    entities: tuple[str, ...]
    prompt: str

    def prompt_with(self, label: Label) -> str:
        """The prompt with another label's words in place of its own."""
        return with_words(self.prompt, self.label.name, label.name)


class LabelsError(ValueError):
    """Everything that is wrong with the labels at once, a line each."""

    def __init__(self, where: str, problems: Sequence[str]):
        super().__init__(f"{where}: {len(problems)} problem{'s' * (len(problems) != 1)}:\n" + "\n".join(f"- {one}" for one in problems))


def named(labels: Sequence[Label], name: str) -> Label | None:
    return next((label for label in labels if label.name == name), None)


def partner(table: dict[str, str], name: str) -> str:
    """Its counterpart in a table of pairs; itself where it has none."""
    both_ways = {**table, **{other: one for one, other in table.items()}}
    return both_ways.get(name, name)


KNOWN_LABELS = tuple(Label(r.name, r.entities, partner(MIRRORED, r.name), partner(REVERSED, r.name)) for r in RELATIONS)


def read_labels(text: str) -> tuple[Label, ...]:
    """One label a line: a relation of Composition Guide by its name, or `name | 2`, the number of things in it, for one that is new;
    `mirror = other` and `reverse = other`, after further bars, say what a new one becomes. Raises LabelsError."""
    labels: list[Label] = []
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        name, *rest = (" ".join(part.split()) for part in line.split("#")[0].split("|"))
        if not name and not rest:
            continue
        try:
            label = read_label(name, rest)
            if named(labels, label.name):
                raise ValueError("is there twice")
            labels.append(label)
        except ValueError as error:
            problems.append(f"line {number}: `{line.strip()}` {error}")
    for label in labels:
        for way, other in (("mirror", label.mirrored), ("reverse", label.reversed)):
            if not named(KNOWN_LABELS, label.name) and other and not named(labels, other):
                problems.append(f"`{label.name}`: `{way} = {other}` is not among the labels")
    if problems:
        raise LabelsError("input `labels`", problems)
    return tuple(labels)


def read_label(name: str, rest: Sequence[str]) -> Label:
    known = named(KNOWN_LABELS, name)
    if known is not None and not rest:
        return known
    if known is not None:
        raise ValueError("is a relation of Composition Guide, whose number of things and counterparts are known: write its name alone")
    if not name:
        raise ValueError("has no name before the bar")
    if not rest or rest[0] not in ("1", "2", "3"):
        known_names = ", ".join(label.name for label in KNOWN_LABELS)
        raise ValueError(f"is new: write the number of things in it, 1 to 3, behind a bar (`{name} | 2`); known are {known_names}")
    label = Label(name, int(rest[0]))
    for part in rest[1:]:
        way, _, other = (piece.strip() for piece in part.partition("="))
        if way not in ("mirror", "reverse") or not other:
            raise ValueError(f"says `{part}`: write `mirror = label` or `reverse = label`")
        label = replace(label, **{{"mirror": "mirrored", "reverse": "reversed"}[way]: other})
    return label


def read_labels_csv(path: Path, labels: Sequence[Label] = ()) -> tuple[tuple[Label, ...], tuple[TrainingVideo, ...]]:
    """The labels that occur, in the order of `labels` (none: of the relations), and a video for each line of the file.

    Columns file, label, entity_a, and where they are needed entity_b, entity_c; prompt (left empty: `a LABEL b`). Raises LabelsError with
    all that is wrong: missing files and columns, unknown labels, things that are not in the prompt, labels without a rival.
    """
    if not path.is_file():
        raise LabelsError(str(path), ["there is no such file: write one line for each video, under `file,label,entity_a,entity_b,prompt`"])
    if path.stat().st_size > LARGEST_CSV:
        raise LabelsError(str(path), [f"it is larger than {LARGEST_CSV // 2**20} MB: is it a list of videos?"])
    known = tuple(labels) or KNOWN_LABELS
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        rows = [{(key or MORE).strip(): "".join(value or ()).strip() for key, value in row.items()} for row in reader]
        columns = [column.strip() for column in reader.fieldnames or ()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(str(path), [f"it cannot be read as CSV in UTF-8 ({error})"]) from error
    if missing := [column for column in ("file", "label", "entity_a") if column not in columns]:
        raise LabelsError(str(path), [f"column `{column}` is missing; it has {', '.join(columns) or 'none'}" for column in missing])
    videos: list[TrainingVideo] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=2):
        found = read_row(path.parent, row, known)
        if isinstance(found, TrainingVideo):
            videos.append(found)
        else:
            problems += [f"line {number}: {problem}" for problem in found]
    used = tuple(label for label in known if any(video.label == label for video in videos))
    problems += without_rival(used, videos, bool(problems))
    if problems:
        raise LabelsError(str(path), problems)
    return used, tuple(videos)


def read_row(folder: Path, row: dict[str, str], known: Sequence[Label]) -> TrainingVideo | list[str]:
    """The video, or what is wrong with its line."""
    file, label = row.get("file", ""), named(known, row.get("label", ""))
    problems = []
    if row.get(MORE):
        problems.append("more fields than columns: write a prompt with commas in double quotes")
    if not is_inside(folder, file):
        problems.append(f"file `{file}`: must be the name of a file in this folder")
    elif not (folder / file).is_file():
        problems.append(f"file `{file}` is missing")
    if label is None:
        return [*problems, f"unknown label `{row.get('label', '')}`; known are {', '.join(one.name for one in known)}"]
    entities = tuple(row.get(role, "") for role in ROLES[: label.entities])
    further = [role for role in ROLES[label.entities :] if row.get(role)]
    problems += [f"`{role}` is empty, and `{label.name}` is about {label.entities}" for role, words in zip(ROLES, entities) if not words]
    problems += [f"`{role}` is filled, and `{label.name}` is about {label.entities}" for role in further]
    if len({fold(words)[0] for words in entities}) < len(entities):
        problems.append("the same thing twice: name each by words of its own")
    problems += [f"`{words}` holds the label's words, which must not reach the features" for words in entities if has_words(words, label)]
    prompt = row.get("prompt") or " ".join([entities[0], label.name, " and ".join(entities[1:])]).strip()
    problems += [f"`{words}` is not in the prompt `{prompt}`" for words in entities if words and fold(words)[0] not in fold(prompt)[0]]
    if not has_words(prompt, label):
        problems.append(f"the prompt `{prompt}` does not say `{label.name}`, which is exchanged for a wrong one in training")
    return problems or TrainingVideo(file, label, entities, prompt)


def without_rival(labels: Sequence[Label], videos: Sequence[TrainingVideo], incomplete: bool) -> list[str]:
    """A label is told from others about as many things, and some videos are held back."""
    if incomplete:
        return []
    counts, rivals = Counter(video.label.name for video in videos), Counter(label.entities for label in labels)
    if not videos:
        return ["it lists no video"]
    alone = [f"`{one.name}` has no rival: add videos of another label about {one.entities}" for one in labels if rivals[one.entities] < 2]
    few = [f"`{label.name}` has one video, and each label needs two at least" for label in labels if counts[label.name] < 2]
    return alone + few


def is_inside(folder: Path, file: str) -> bool:
    return bool(file) and (folder / file).resolve().is_relative_to(folder.resolve())


def place_of(text: str, words: str) -> int | None:
    """Where the `words` stand among those of `text`, whatever their case and the punctuation behind them."""
    here, sought = [bare(word) for word in text.split()], words.casefold().split()
    return next((start for start in range(len(here) - len(sought) + 1) if here[start : start + len(sought)] == sought), None)


def bare(word: str) -> str:
    return word.casefold().strip(PUNCTUATION)


def has_words(text: str, label: Label) -> bool:
    return place_of(text, label.name) is not None


def with_words(text: str, own: str, other: str) -> str:
    """`text` with the first occurrence of the words `own` replaced. Raises ValueError where it has none."""
    start = place_of(text, own)
    if start is None:
        raise ValueError(f"`{text}` does not say `{own}`")
    words, end = text.split(), start + len(own.split())
    tail = words[end - 1][len(words[end - 1].rstrip(PUNCTUATION)) :]
    return " ".join([*words[:start], other + tail, *words[end:]])


def rivals_of(label: Label, labels: Sequence[Label]) -> tuple[Label, ...]:
    """The other labels about as many things: what a wrong prompt may say, and what the classifier decides between."""
    return tuple(one for one in labels if one.entities == label.entities and one != label)
