"""Phrases in hand-made pieces: what a person would point at, in every way that a tokeniser can cut it."""

import json
import time
from pathlib import Path

import pytest
from wan_conductor.guidance.phrases import PhraseNotFound, TokenPieces, describe_rows, find_phrase

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "phrases.json"


def prompt(pieces: str | list[str], row_count: int = 512, embeddings: tuple[int, ...] = ()) -> TokenPieces:
    """Pieces in rows 0, 1, 2, ...; written with `_` for the U+2581 of SentencePiece."""
    listed = [piece.replace("_", "▁") for piece in (pieces.split() if isinstance(pieces, str) else pieces)]
    ids = tuple(None if index in embeddings else 5 + index for index in range(len(listed)))
    return TokenPieces("", tuple(listed), ids, (1.0,) * len(listed), tuple(range(len(listed))), row_count)


CATS = prompt("_a _red _cat _jump s _over _the _lazy _dog _then _the _cat _sleep s")


def test_a_phrase_is_all_pieces_of_its_words():
    assert find_phrase(CATS, "red cat") == (1, 2)
    assert find_phrase(CATS, "cat jumps") == (2, 3, 4)


def test_occurrence_chooses_among_repeated_phrases():
    assert find_phrase(CATS, "cat") == (2, 11)
    assert find_phrase(CATS, "cat", "first") == (2,)
    assert find_phrase(CATS, "cat", "last") == (11,)
    assert find_phrase(CATS, "cat", 1) == (2,)
    assert find_phrase(CATS, "cat", 2) == (11,)


def test_an_occurrence_that_is_not_there_says_how_many_are():
    with pytest.raises(PhraseNotFound, match="occurs 2 times"):
        find_phrase(CATS, "cat", 3)
    for wrong in (0, -1, "second", True, 1.5, None):
        with pytest.raises(ValueError, match="occurrence"):
            find_phrase(CATS, "cat", wrong)


def test_case_and_width_do_not_matter():
    assert find_phrase(CATS, "RED Cat") == (1, 2)
    assert find_phrase(CATS, "ｒｅｄ　ｃａｔ") == (1, 2)
    assert find_phrase(CATS, "  red\n cat ") == (1, 2)
    assert find_phrase(prompt("_die _ STRASSE"), "straße") == (2,)


def test_whole_words_come_before_words_that_merely_begin_so():
    pieces = prompt("_cat s _chase _a _cat")
    assert find_phrase(pieces, "cat") == (4,)
    assert find_phrase(prompt("_two _cat s"), "cat") == (1, 2)
    assert find_phrase(CATS, "jump") == (3, 4)


def test_a_phrase_inside_a_word_is_not_found():
    for pieces, phrase in (("_con cat e nate", "cat"), ("_s car ed", "car"), ("_red cat", "cat"), ("_a _2 3", "3")):
        with pytest.raises(PhraseNotFound):
            find_phrase(prompt(pieces), phrase)


def test_words_that_run_together_are_not_two_words():
    with pytest.raises(PhraseNotFound):
        find_phrase(CATS, "redcat")


def test_pieces_that_cut_a_word_anywhere_are_all_taken():
    assert find_phrase(prompt("_a _bal lo on _ris es"), "balloon") == (1, 2, 3)


def test_a_piece_that_holds_more_than_the_phrase_is_taken():
    assert find_phrase(prompt(["_a", "_red_cat", "_sits"]), "cat") == (1,)


def test_a_lone_space_piece_belongs_to_no_phrase():
    # "(cat:1.2), jumps" is tokenised in two segments; the second gets a space of its own
    pieces = prompt("_a _cat _ , _jump s")
    assert find_phrase(pieces, "cat") == (1,)
    assert find_phrase(pieces, "cat, jumps") == (1, 3, 4, 5)
    assert find_phrase(prompt("_ cat"), "cat") == (1,)


def test_weights_inside_a_hyphenated_word_do_not_hide_it():
    assert find_phrase(prompt("_a _red _- haired _cat"), "red-haired cat") == (1, 2, 3, 4)


def test_brackets_may_be_typed_with_or_without_their_escapes():
    pieces = prompt("_the _car _( blue ) _turns")
    assert find_phrase(pieces, "car (blue)") == (1, 2, 3, 4)
    assert find_phrase(pieces, r"car \(blue\)") == (1, 2, 3, 4)
    assert find_phrase(pieces, "blue") == (3,)


def test_punctuation_ends_words():
    pieces = prompt("_the _dog ' s _ball , _e - bike : _fast")
    assert find_phrase(pieces, "dog") == (1,)
    assert find_phrase(pieces, "dog's ball") == (1, 2, 3, 4)
    assert find_phrase(pieces, "e-bike") == (6, 7, 8)


def test_chinese_and_japanese_have_no_word_boundaries():
    pieces = prompt("_一只 红色 的 猫 跳 过 狗 , 然后 猫 睡觉")
    assert find_phrase(pieces, "猫") == (3, 9)
    assert find_phrase(pieces, "红色的猫") == (1, 2, 3)
    assert find_phrase(pieces, "色的") == (1, 2)
    assert find_phrase(prompt("_一只 _红色的 _猫"), "红色的猫") == (1, 2)
    assert find_phrase(prompt("_赤い ネコ が 歩く"), "ネコ") == (1,)
    assert find_phrase(prompt("_红 cat 猫"), "cat") == (1,)


def test_half_width_and_decomposed_forms_are_the_same_characters():
    assert find_phrase(prompt("_カ ガミ"), "ｶｶﾞﾐ") == (0, 1)
    assert find_phrase(prompt(["_cafe\u0301", "_noir"]), "café") == (0,)
    assert find_phrase(prompt("_café _noir"), "cafe\u0301") == (0,)
    assert find_phrase(prompt("_고양이"), "\u1100\u1169\u110b\u1163\u11bc\u110b\u1175") == (0,)


def test_a_korean_particle_does_not_hide_its_noun():
    assert find_phrase(prompt("_빨간 _고양이 가 _달린다"), "고양이") == (1, 2)


def test_byte_pieces_spell_their_character_together():
    pieces = prompt("_a _ <0xE7> <0x8C> <0xAB> _and _ <0xF0> <0x9F> <0x90> <0xB6> !")
    assert find_phrase(pieces, "猫") == (2, 3, 4)
    assert find_phrase(pieces, "🐶") == (7, 8, 9, 10)
    assert find_phrase(pieces, "and") == (5,)
    assert pieces.joined == " a 猫 and 🐶!"


def test_broken_byte_pieces_do_no_harm():
    pieces = prompt("_a <0xE7> <0x8C> _cat <0xFF>")
    assert find_phrase(pieces, "cat") == (3,)
    assert pieces.joined == " a\ufffd\ufffd cat\ufffd"


def test_an_embedding_is_opaque():
    pieces = prompt("_a <embedding> <embedding> _cat", embeddings=(1, 2))
    assert find_phrase(pieces, "cat") == (3,)
    assert find_phrase(pieces, "a") == (0,)
    for phrase in ("a cat", "embedding"):
        with pytest.raises(PhraseNotFound):
            find_phrase(pieces, phrase)


def test_rows_follow_the_pieces_not_their_number():
    pieces = TokenPieces("", ("▁a", "▁cat"), (5, 6), (1.0, 1.2), (1, 7), 8)
    assert find_phrase(pieces, "cat") == (7,)
    assert describe_rows(pieces, (7,)) == "▁cat (row 7)"
    assert describe_rows(pieces, (1, 7)) == "▁a ▁cat (rows 1, 7)"


def test_long_prompts_are_searched_whole_and_fast():
    pieces = prompt("_cat _ , " + "_blah " * 3000 + "_final _dog", row_count=4096)
    started = time.perf_counter()
    assert find_phrase(pieces, "final dog") == (3003, 3004)
    assert len(find_phrase(pieces, "blah")) == 3000
    assert time.perf_counter() - started < 5


def test_not_found_shows_the_pieces_and_the_nearest_words():
    with pytest.raises(PhraseNotFound) as caught:
        find_phrase(CATS, "red cta")
    message = str(caught.value)
    assert '"red cta" is not in the prompt' in message
    assert "red cat" in message
    assert "Use words of the prompt, or add these to it" in message
    assert "▁a ▁red ▁cat ▁jump s" in message


def test_not_found_in_a_long_prompt_is_still_readable():
    with pytest.raises(PhraseNotFound) as caught:
        find_phrase(prompt("_blah " * 500), "dog")
    assert "and 420 more" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_not_found_suggests_in_scripts_without_spaces_too():
    with pytest.raises(PhraseNotFound, match="红色的猫"):
        find_phrase(prompt("_一只 红色 的 猫"), "红色的狗")


def test_empty_phrases_and_empty_prompts():
    for phrase in ("", "  ", "\u200b"):
        with pytest.raises(ValueError, match="empty"):
            find_phrase(CATS, phrase)
    with pytest.raises(PhraseNotFound):
        find_phrase(prompt(""), "cat")


def test_pieces_are_checked():
    with pytest.raises(ValueError, match="rows"):
        TokenPieces("", ("▁a",), (5,), (1.0,), (3,), 3)
    with pytest.raises(ValueError, match="weights"):
        TokenPieces("", ("▁a",), (5,), (), (0,), 3)


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text(encoding="utf-8")), ids=lambda vector: vector["phrase"])
def test_the_vectors_that_bind_the_editors_view(vector):
    pieces = prompt([f"_{word}" for word in vector["prompt"].replace("_", "\0").split()])
    pieces = TokenPieces("", tuple(piece.replace("\0", "_") for piece in pieces.pieces), pieces.ids, pieces.weights, pieces.rows, 512)
    if vector["found"]:
        assert find_phrase(pieces, vector["phrase"])
    else:
        with pytest.raises(PhraseNotFound):
            find_phrase(pieces, vector["phrase"])
