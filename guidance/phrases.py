"""Phrases are found in the real tokens: from the pieces of a tokenised prompt to the context rows of a phrase."""

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

SPACE = "▁"  # SentencePiece writes a space as U+2581
OPAQUE = "\ufffc"  # stands in the joined text for a piece without characters: an embedding
UNREADABLE = "\ufffd"
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACELESS_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO", "IDEOGRAPHIC")
SHOWN_PIECES = 80


class PhraseNotFound(ValueError):
    """A phrase is not among the pieces of the prompt; the message shows them and the nearest words."""


@dataclass(frozen=True)
class TokenPieces:
    """The pieces of one tokenised prompt, special tokens left out.

    `pieces[i]` has the vocabulary id `ids[i]` (None: an embedding), the prompt weight `weights[i]` and the context row `rows[i]`;
    the context has `row_count` rows. `joined` is the text that the pieces spell and `spans[i]` the place of piece i in it.
    """

    text: str
    pieces: tuple[str, ...]
    ids: tuple[int | None, ...]
    weights: tuple[float, ...]
    rows: tuple[int, ...]
    row_count: int
    joined: str = field(init=False)
    spans: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("ids", "weights", "rows"):
            if len(getattr(self, name)) != len(self.pieces):
                raise ValueError(f"{name} = {len(getattr(self, name))} entries: one for each of the {len(self.pieces)} pieces")
        if self.rows and not 0 <= min(self.rows) <= max(self.rows) < self.row_count:
            raise ValueError(f"rows = {min(self.rows)}..{max(self.rows)}: must lie in 0..{self.row_count - 1}")
        joined, spans = join_pieces(self.pieces, self.ids)
        object.__setattr__(self, "joined", joined)
        object.__setattr__(self, "spans", spans)

    def show(self) -> str:
        """The pieces as read by a person, shortened where there are very many."""
        more = len(self.pieces) - SHOWN_PIECES
        return " ".join(self.pieces[:SHOWN_PIECES]) + (f" ... and {more} more" if more > 0 else "")


def join_pieces(pieces: Sequence[str], ids: Sequence[int | None]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text that the pieces spell, and each piece's place in it; the byte pieces of one character share its place."""
    joined = ""
    spans: list[tuple[int, int]] = []
    while len(spans) < len(pieces):
        here = len(spans)
        character, count = read_bytes(pieces[here : here + 4])
        written = OPAQUE if ids[here] is None else character or pieces[here].replace(SPACE, " ")
        spans += [(len(joined), len(joined) + len(written))] * max(count, 1)
        joined += written
    return joined, tuple(spans)


def read_bytes(pieces: Sequence[str]) -> tuple[str, int]:
    """The character that the leading byte pieces (`<0xE7><0x8C><0xAB>`) spell in UTF-8 and how many it takes; ("", 0) if none leads."""
    values = []
    for piece in pieces:
        byte = BYTE.fullmatch(piece)
        if not byte:
            break
        values.append(int(byte[1], 16))
        try:
            return bytes(values).decode(), len(values)
        except UnicodeDecodeError:
            continue
    return (UNREADABLE, 1) if values else ("", 0)


def find_phrase(pieces: TokenPieces, phrase: str, occurrence: str | int = "all") -> tuple[int, ...]:
    """The context rows of `phrase` in the prompt, ascending.

    Whole words first, in any case; where there are none, words that begin as the phrase ends ("jump" finds "jumps"). Chinese,
    Japanese, Thai and their like have no word boundaries. occurrence: "all", "first", "last", or a number counted from 1.
    """
    text, places = fold(pieces.joined)
    sought, _ = fold(unicodedata.normalize("NFKC", phrase.replace("\\(", "(").replace("\\)", ")")))
    if not sought:
        raise ValueError(f"phrase = {phrase!r}: empty; write words of the prompt")
    found = whole_words(text, sought) or word_beginnings(text, sought)
    if not found:
        raise PhraseNotFound(not_found(pieces, phrase, text, sought))
    spelled = [range(start, end) for start, end in chosen(found, phrase, occurrence)]
    return rows_of_places(pieces, [places[index] for indices in spelled for index in indices if text[index] != " "])


def rest_of_prompt(pieces: TokenPieces, phrases: Sequence[str], occurrence: str | int = "all") -> tuple[int, ...]:
    """The context rows of all words that belong to none of `phrases`, and of the end of the text behind them, ascending."""
    taken: set[int] = set()
    for phrase in phrases:
        try:
            taken.update(find_phrase(pieces, phrase, occurrence))
        except PhraseNotFound:  # of a prompt joined to another that has it
            continue
    end = min(max(pieces.rows, default=-1) + 1, pieces.row_count - 1)
    return tuple(sorted({*pieces.rows, end} - taken)) or (end,)


def chosen(found: list[tuple[int, int]], phrase: str, occurrence: str | int) -> list[tuple[int, int]]:
    if occurrence == "all":
        return found
    index = {"first": 1, "last": len(found)}.get(occurrence, occurrence) if isinstance(occurrence, str) else occurrence
    if not isinstance(index, int) or isinstance(index, bool) or index < 1:
        raise ValueError(f"occurrence = {occurrence!r}: must be all, first, last, or a number from 1")
    if index > len(found):
        raise PhraseNotFound(f'"{phrase}" occurs {len(found)} times in the prompt; occurrence {index} was asked for')
    return [found[index - 1]]


def rows_of_places(pieces: TokenPieces, places: list[tuple[int, int]]) -> tuple[int, ...]:
    """Rows of the pieces that spell the characters at `places` of the joined text."""
    spelled = {index for start, end in places for index in range(start, end)}
    return tuple(sorted({row for row, span in zip(pieces.rows, pieces.spans) if not spelled.isdisjoint(range(*span))}))


def fold(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`text` as it is compared, and for each of its characters the place in `text` that it stands for.

    Compatibility forms and case are folded, format characters dropped, and spaces kept only between words that need them: a
    weight's brackets add spaces to the tokens ("(cat:1.2), jumps" spells "cat , jumps") that nobody typed.
    """
    folded: list[tuple[str, tuple[int, int]]] = []
    space = None
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and continues(text[end]):
            continue
        for character in unicodedata.normalize("NFKC", text[start:end]).casefold():
            if character.isspace():
                space = (" ", (start, end))
            elif unicodedata.category(character) != "Cf":
                if space and folded and in_word(folded[-1][0]) and in_word(character):
                    folded.append(space)
                folded.append((character, (start, end)))
                space = None
        start = end
    return "".join(character for character, _ in folded), [place for _, place in folded]


def continues(character: str) -> bool:
    """Belongs to the character before it: combining marks, conjoining Hangul, half-width voicing marks."""
    return unicodedata.category(character).startswith("M") or "\u1160" <= character <= "\u11ff" or character in "\uff9e\uff9f"


def in_word(character: str) -> bool:
    """Part of a word in a script that writes spaces between words."""
    if not character or not (character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")):
        return False
    return character.isascii() or not unicodedata.name(character, "").startswith(SPACELESS_SCRIPTS)


def boundary(text: str, index: int) -> bool:
    return index in (0, len(text)) or not (in_word(text[index - 1]) and in_word(text[index]))


def matches(text: str, sought: str) -> list[int]:
    starts, start = [], text.find(sought)
    while start >= 0:
        starts.append(start)
        start = text.find(sought, start + 1)
    return starts


def whole_words(text: str, sought: str) -> list[tuple[int, int]]:
    found = [(start, start + len(sought)) for start in matches(text, sought)]
    return apart([(start, end) for start, end in found if boundary(text, start) and boundary(text, end)])


def word_beginnings(text: str, sought: str) -> list[tuple[int, int]]:
    """Matches that start with a word, extended to the end of the word that they break off in."""
    found = []
    for start in matches(text, sought):
        end = start + len(sought)
        while not boundary(text, end):
            end += 1
        if boundary(text, start):
            found.append((start, end))
    return apart(found)


def apart(found: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The matches that do not overlap an earlier one."""
    kept: list[tuple[int, int]] = []
    for start, end in found:
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def not_found(pieces: TokenPieces, phrase: str, text: str, sought: str) -> str:
    near = nearest(text, sought)
    hint = f"; the nearest words are {', '.join(near)}" if near else ""
    return f'"{phrase}" is not in the prompt{hint}. Use words of the prompt, or add these to it. The prompt\'s pieces: {pieces.show()}'


def nearest(text: str, sought: str) -> list[str]:
    """Stretches of the prompt, as many words (or characters of a spaceless script) long as the phrase, that resemble it; then words."""
    words = re.findall(r"\w+", text)
    length = max(len(re.findall(r"\w+", sought)), 1)
    stretches = [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
    if not any(map(in_word, sought)):
        stretches += [text[start : start + len(sought)] for start in range(len(text) - len(sought) + 1)]
    near = difflib.get_close_matches(sought, list(dict.fromkeys(stretches)), n=3, cutoff=0.5)
    for word in sought.split():
        near += difflib.get_close_matches(word, list(dict.fromkeys(words)), n=2, cutoff=0.6)
    return list(dict.fromkeys(near))[:4]


def describe_rows(pieces: TokenPieces, rows: Sequence[int]) -> str:
    """What was found, for a person: `▁red ▁cat (rows 1, 2)`."""
    names = [piece for piece, row in zip(pieces.pieces, pieces.rows) if row in set(rows)]
    return f"{' '.join(names)} (row{'s' if len(rows) != 1 else ''} {', '.join(map(str, rows))})"
