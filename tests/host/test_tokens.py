"""Tokens of the host's own UMT5 classes, carried through the host's own conditioning nodes and found again while sampling."""

import comfy.sd1_clip
import pytest
import safetensors.torch
import tiny_umt5
import tiny_wan
import torch
from comfy_extras import nodes_wan
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.phrases import PhraseNotFound, find_phrase
from wan_conductor.host.tokens import (
    CONDITIONING_KEY,
    ConditioningError,
    check_conditioning,
    encode_with_tokens,
    rows_for_entry,
    tokens_of,
)
from wan_conductor.nodes.conductor_text_encode import ConductorTextEncode

import nodes

PROMPT = "a red cat jumps over the lazy dog then the cat sleeps"


def encode(text: str = PROMPT) -> list:
    return encode_with_tokens(tiny_umt5.tiny_clip(), text)


def host_rows(text: str, wanted: list[str]) -> list[int]:
    """Rows of the pieces named `wanted`, in the host's own token list: an independent count."""
    clip = tiny_umt5.tiny_clip()
    processor = clip.tokenizer.clip_umt5xxl.tokenizer.tokenizer
    tokens = [token for token, _ in clip.tokenize(text)["umt5xxl"][0]]
    return [row for row, token in enumerate(tokens) if isinstance(token, int) and processor.id_to_piece(token) in wanted]


def spelled(text: str, rows: tuple[int, ...]) -> str:
    """What the host's own tokenizer reads back from the tokens in `rows`."""
    clip = tiny_umt5.tiny_clip()
    tokens = [token for token, _ in clip.tokenize(text)["umt5xxl"][0]]
    return clip.tokenizer.clip_umt5xxl.tokenizer.tokenizer.decode([tokens[row] for row in rows])


def test_the_encoding_is_that_of_clip_text_encode():
    for text in (PROMPT, "", "a (red cat:1.2) jumps"):
        stock = nodes.CLIPTextEncode().encode(tiny_umt5.tiny_clip(), text)[0]
        ours = encode(text)
        assert len(ours) == len(stock) == 1
        assert torch.equal(ours[0][0], stock[0][0])
        assert ours[0][1].keys() - {CONDITIONING_KEY} == stock[0][1].keys()


def test_rows_are_the_positions_of_the_tokens_without_the_end_token_and_padding():
    pieces = tokens_of(encode()[0])
    assert pieces.row_count == 512
    assert pieces.joined == " " + PROMPT
    tokens = [token for token, _ in tiny_umt5.tiny_clip().tokenize(PROMPT)["umt5xxl"][0]]
    assert [tokens[row] for row in pieces.rows] == list(pieces.ids)
    assert set(tokens) - set(pieces.ids) == {0, 1}


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        (PROMPT, "red cat", "red cat"),
        (PROMPT, "CAT", "cat cat"),
        (PROMPT, "jump", "jumps"),
        ("a (red cat:1.2) jumps", "red cat", "red cat"),
        ("a (red cat:1.2) jumps", "red cat jumps", "red cat jumps"),
        ("a ((red) cat:1.2), jumps", "cat, jumps", "cat, jumps"),
        ("a red  (cat:1.2), jumps", "cat", "cat"),
        ("(cat)(dog) cat", "cat", "cat cat"),
        (r"the car \(blue\) turns", "car (blue)", "car (blue)"),
        (r"the car \(blue\) turns", r"car \(blue\)", "car (blue)"),
        ("a red cat, 一只红色的猫 jumps", "红色的猫", "红色的猫"),
        ("a red cat, 一只(红色的:1.3)猫 jumps", "红色的猫", "红色的猫"),
        ("the Ｃafé 🐶 turns", "café", "Café"),
        ("the café 🐶 turns", "🐶", "🐶"),
        ("a red\ncat", "red cat", "red cat"),
    ],
)
def test_a_phrase_is_found_in_the_hosts_tokens(text, phrase, found):
    assert spelled(text, rows_for_entry(encode(text)[0], phrase)).replace(" ,", ",") == found


def test_the_rows_of_a_phrase_are_those_that_its_weight_changes():
    plain, weighted = encode("a red cat jumps"), encode("a (red cat:1.5) jumps")
    assert tokens_of(plain[0]).ids == tokens_of(weighted[0]).ids
    changed = (plain[0][0] - weighted[0][0]).abs().amax(dim=-1)[0] > 1e-5
    assert tuple(changed.nonzero().flatten().tolist()) == rows_for_entry(weighted[0], "red cat")
    assert {weight for row, weight in zip(tokens_of(weighted[0]).rows, tokens_of(weighted[0]).weights) if changed[row]} == {1.5}


@pytest.fixture
def embeddings(monkeypatch):
    """The host's UMT5 tokenizer is built without the embedding directory; a tokenizer that gets it must not lose our place."""
    monkeypatch.setattr(tiny_umt5.tiny_clip().tokenizer.clip_umt5xxl, "embedding_directory", tiny_umt5.FOLDER.name)


def test_an_embedding_shifts_the_rows_behind_it(embeddings):
    safetensors.torch.save_file({"umt5xxl": torch.full((3, 4096), 0.1)}, f"{tiny_umt5.FOLDER.name}/three.safetensors")
    plain, entry = encode("a red cat")[0], encode("a embedding:three red cat")[0]
    assert rows_for_entry(entry, "red cat") == tuple(row + 3 for row in rows_for_entry(plain, "red cat"))
    assert tokens_of(entry).ids.count(None) == 3


def test_an_embedding_of_the_wrong_width_takes_no_row(embeddings):
    safetensors.torch.save_file({"umt5xxl": torch.full((2, 768), 0.1)}, f"{tiny_umt5.FOLDER.name}/narrow.safetensors")
    plain, entry = encode("a red cat")[0], encode("a embedding:narrow red cat")[0]
    assert rows_for_entry(entry, "red cat") == rows_for_entry(plain, "red cat")
    assert entry[0].shape == plain[0].shape


def test_more_than_512_tokens_keep_their_rows():
    text = "the lazy dog sleeps, " * 150 + "then a balloon rises"
    entry = encode(text)[0]
    rows = rows_for_entry(entry, "balloon")
    assert min(rows) > 512
    assert tokens_of(entry).row_count == entry[0].shape[1] > 512
    assert spelled(text, rows) == "balloon"
    assert len(set(rows_for_entry(entry, "dog")) & set(host_rows(text, ["▁dog"]))) == len(host_rows(text, ["▁dog"]))


def test_an_empty_prompt_has_tokens_but_no_words():
    entry = encode("")[0]
    assert tokens_of(entry).pieces == ()
    with pytest.raises(PhraseNotFound):
        rows_for_entry(entry, "cat")


class LatentOfZeros:
    latent_channels = 16

    def encode(self, image):
        return torch.zeros(1, 16, (image.shape[0] - 1) // 4 + 1, image.shape[1] // 8, image.shape[2] // 8)

    def spacial_compression_encode(self):
        return 8


def surviving() -> dict:
    clip_vision = tiny_wan._ClipVisionOutput(torch.zeros(1, 257, 1280))
    image = torch.zeros(1, 32, 32, 3)
    return {
        "Combine": lambda c: nodes.ConditioningCombine().combine(c, encode("the balloon rises"))[0],
        "SetTimestepRange": lambda c: nodes.ConditioningSetTimestepRange().set_range(c, 0.2, 0.8)[0],
        "SetMask": lambda c: nodes.ConditioningSetMask().append(c, torch.ones(4, 4), "default", 1.0)[0],
        "SetArea": lambda c: nodes.ConditioningSetArea().append(c, 64, 64, 0, 0, 1.0)[0],
        "SetAreaStrength": lambda c: nodes.ConditioningSetAreaStrength().append(c, 0.5)[0],
        "Multiply": lambda c: [[rows * 0.7, extra] for rows, extra in c],  # 0.18.2 has no ConditioningMultiply
        "Multiply by a negative": lambda c: [[rows * -1.5, extra] for rows, extra in c],
        "Average at strength 1": lambda c: nodes.ConditioningAverage().addWeighted(c, encode("the balloon rises"), 1.0)[0],
        "WanImageToVideo": lambda c: nodes_wan.WanImageToVideo.execute(
            c, encode(""), LatentOfZeros(), 32, 32, 9, 1, start_image=image, clip_vision_output=clip_vision
        )[0],
        "WanFirstLastFrameToVideo": lambda c: nodes_wan.WanFirstLastFrameToVideo.execute(
            c, encode(""), LatentOfZeros(), 32, 32, 9, 1, start_image=image, end_image=image
        )[0],
        "WanFunControlToVideo": lambda c: nodes_wan.WanFunControlToVideo.execute(c, encode(""), LatentOfZeros(), 32, 32, 9, 1)[0],
        "WanVaceToVideo": lambda c: nodes_wan.WanVaceToVideo.execute(c, encode(""), LatentOfZeros(), 32, 32, 9, 1, 1.0)[0],
        "WanPhantomSubjectToVideo": lambda c: nodes_wan.WanPhantomSubjectToVideo.execute(
            c, encode(""), LatentOfZeros(), 32, 32, 9, 1, images=image
        )[0],
        "bfloat16": lambda c: [[rows.bfloat16(), extra] for rows, extra in c],
    }


@pytest.mark.parametrize("name", surviving())
def test_tokens_survive(name):
    conditioning = surviving()[name](encode())
    assert rows_for_entry(conditioning[0], "red cat") == rows_for_entry(encode()[0], "red cat")
    (shown,) = check_conditioning(conditioning, ["red cat"], "Temporal Mask")
    assert shown.startswith("red cat: ▁")


def breaking() -> dict:
    other = encode("the balloon rises")
    return {
        "Conditioning (Concat)": lambda c: nodes.ConditioningConcat().concat(c, other)[0],
        "Conditioning (Average)": lambda c: nodes.ConditioningAverage().addWeighted(c, other, 0.9)[0],
        "ConditioningZeroOut": lambda c: nodes.ConditioningZeroOut().zero_out(c)[0],
        "a node between": lambda c: [[rows[:, :77], extra] for rows, extra in c],
    }


@pytest.mark.parametrize("name", breaking())
def test_broken_rows_are_refused_by_the_name_of_the_node_that_broke_them(name):
    conditioning = breaking()[name](encode())
    with pytest.raises(ConditioningError) as caught:
        check_conditioning(conditioning, ["red cat"], "Temporal Mask")
    message = str(caught.value)
    assert name in message
    assert message.startswith("Temporal Mask: input `conditioning`")
    assert "Conductor Text Encode" in message
    with pytest.raises(ConditioningError, match=name.replace("(", r"\(").replace(")", r"\)")):
        rows_for_entry(conditioning[0], "red cat")


def test_exchanged_rows_are_noticed():
    conditioning = encode()
    rows = conditioning[0][0].clone()
    rows[:, [1, 4]] = rows[:, [4, 1]]
    with pytest.raises(ConditioningError, match="not those that were encoded"):
        tokens_of([rows, conditioning[0][1]])


def test_rows_of_another_prompt_under_these_tokens_are_noticed():
    with pytest.raises(ConditioningError, match="not those that were encoded"):
        tokens_of([encode("a red dog sleeps on the bench")[0][0], encode()[0][1]])


def test_a_conditioning_without_tokens_names_the_node_that_adds_them():
    stock = nodes.CLIPTextEncode().encode(tiny_umt5.tiny_clip(), PROMPT)[0]
    concatenated = nodes.ConditioningConcat().concat(stock, encode())[0]
    combined = nodes.ConditioningCombine().combine(encode(), stock)[0]
    for conditioning in (stock, concatenated, combined):
        with pytest.raises(ConditioningError, match="carries no tokens.*Conductor Text Encode"):
            check_conditioning(conditioning, ["red cat"], "Temporal Mask")
    with pytest.raises(ConditioningError, match="is empty"):
        check_conditioning([], ["red cat"], "Temporal Mask")


def test_a_phrase_may_stand_in_either_prompt_of_a_combine():
    conditioning = nodes.ConditioningCombine().combine(encode(), encode("the balloon rises"))[0]
    first, second = check_conditioning(conditioning, [PhraseRef("red cat"), PhraseRef("balloon")], "Temporal Mask")
    assert first.startswith("red cat: ▁r") and second.startswith("balloon: ▁b")
    with pytest.raises(PhraseNotFound):
        rows_for_entry(conditioning[1], "red cat")


def test_an_unknown_phrase_shows_the_pieces_and_the_nearest_words():
    with pytest.raises(PhraseNotFound) as caught:
        check_conditioning(encode(), ["red cta"], "Temporal Mask")
    message = str(caught.value)
    assert message.startswith('Temporal Mask: input `conditioning`: "red cta" is not in the prompt; the nearest words are red cat')
    assert "▁" in message


def sampled_entries(positive: list, negative: list) -> list[dict]:
    latent = tiny_wan.latent_like(frames=2)
    return tiny_wan.inside_sampling(
        tiny_wan.load(layers=1), positive, negative, latent, lambda guider, *_: list(guider.conds["positive"])
    )


def test_rows_are_resolved_per_positive_entry_while_sampling():
    positive = nodes.ConditioningCombine().combine(encode(), encode("the balloon rises over a red cat"))[0]
    first, second = sampled_entries(positive, encode(""))
    assert {"cross_attn", "uuid", CONDITIONING_KEY} <= first.keys()
    assert rows_for_entry(first, "red cat") == rows_for_entry(encode()[0], "red cat")
    assert spelled("the balloon rises over a red cat", rows_for_entry(second, "red cat")) == "red cat"
    assert spelled(PROMPT, rows_for_entry(first, "cat", "last")) == "cat"
    assert rows_for_entry(first, "cat", "last")[0] > rows_for_entry(first, "cat", "first")[-1]


def test_a_negative_area_that_the_host_lends_the_positive_side_is_not_taken_for_its_prompt():
    negative = nodes.ConditioningSetArea().append(encode("the balloon rises"), 32, 32, 0, 0, 1.0)[0]
    own, lent = sampled_entries(encode(), negative)
    assert rows_for_entry(own, "red cat") == rows_for_entry(encode()[0], "red cat")
    with pytest.raises(ConditioningError):  # its tokens are the negative's, its context is the positive's
        rows_for_entry(lent, "balloon")


class NotSentencePiece:
    """The tokenizer of an SD1-like CLIP."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def tokenize(self, text):
        return self.tokenizer.tokenize_with_weights(text)

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.zeros(1, 77, 768), {}]]


def test_another_clip_is_refused_with_what_to_connect():
    with pytest.raises(ValueError, match="Conductor Text Encode: input `clip` = SD1Tokenizer.*SentencePiece.*type wan"):
        encode_with_tokens(NotSentencePiece(comfy.sd1_clip.SD1Tokenizer()), PROMPT)
    with pytest.raises(ValueError, match="Conductor Text Encode: input `clip` = None"):
        encode_with_tokens(None, PROMPT)


def test_the_tokens_are_frozen_and_hold_no_tensor():
    tokens = encode()[0][1][CONDITIONING_KEY]
    with pytest.raises(AttributeError):
        tokens.pieces = None
    assert not any(isinstance(value, torch.Tensor) for value in (*vars(tokens).values(), *vars(tokens.pieces).values()))
    assert hash(tokens) == hash(encode()[0][1][CONDITIONING_KEY])


def test_the_node_encodes_and_shows_its_pieces():
    output = ConductorTextEncode.execute(tiny_umt5.tiny_clip(), PROMPT)
    assert find_phrase(tokens_of(output.args[0][0]), "red cat")
    (text,) = output.ui.as_dict()["text"]
    assert text.startswith("▁a ▁")
    schema = ConductorTextEncode.define_schema()
    assert schema.node_id == "WanConductorTextEncode"
    assert all(entry.tooltip for entry in [*schema.inputs, *schema.outputs])
