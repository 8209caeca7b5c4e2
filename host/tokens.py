"""The token pieces of a prompt travel with its conditioning, and are trusted only while the conditioning still has their rows."""

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guidance.objective import ChecksPrompts, Objective, PhraseAt, PhraseRef, RestOfPrompt
from ..guidance.patch import Patch
from ..guidance.phrases import UNREADABLE, PhraseNotFound, TokenPieces, describe_rows, find_phrase, rest_of_prompt

CONDITIONING_KEY = "wan_conductor_tokens"
ENCODER = "Conductor Text Encode"
EMBEDDING_PIECE = "<embedding>"
SAME_ROWS = 1e-2  # of a row's norm: bfloat16 rounding stays ten times below, a two per cent Average above


class ConditioningError(ValueError):
    """A conditioning whose words cannot be located: no tokens, or rows that another node has mixed."""


@dataclass(frozen=True)
class PromptTokens:
    """What the conditioning carries: the pieces, and per row its norm and its sum with fixed random signs (a content hash that
    survives a change of precision and tells a scaled row from a mixed one)."""

    pieces: TokenPieces
    norms: tuple[float, ...]
    sums: tuple[float, ...]


def encode_with_tokens(clip: Any, text: str) -> list[list[Any]]:
    """CONDITIONING of `text`, exactly as CLIPTextEncode makes it, plus its token pieces under CONDITIONING_KEY."""
    if clip is None:
        raise ValueError(f"{ENCODER}: input `clip` = None: there is no text encoder; connect Load CLIP with type wan")
    tokens = clip.tokenize(text)
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    return [[rows, {**extra, CONDITIONING_KEY: prompt_tokens(clip, text, tokens, rows)}] for rows, extra in conditioning]


def prompt_tokens(clip: Any, text: str, tokens: Mapping[str, list[list[tuple]]], rows: Tensor) -> PromptTokens:
    name, sentencepiece = sentencepiece_of(clip, tokens)
    pieces, ids, weights, places = [], [], [], []
    row = 0
    for token, weight, *_ in (token for batch in tokens[name] for token in batch):
        is_id = isinstance(token, numbers.Integral)
        count = 1 if is_id else embedding_rows(token, rows.shape[-1])
        if not is_id or not sentencepiece.is_control(int(token)):
            pieces += [piece_name(sentencepiece, token)] * count
            ids += [int(token) if is_id else None] * count
            weights += [float(weight)] * count
            places += range(row, row + count)
        row += count
    if row > rows.shape[1]:
        raise ValueError(
            f"{ENCODER}: input `clip` = {type(clip.tokenizer).__name__}: gives {rows.shape[1]} rows for {row} tokens, so words cannot be "
            "located in them; connect the text encoder of Wan (Load CLIP, type wan)"
        )
    found = TokenPieces(text, tuple(pieces), tuple(ids), tuple(weights), tuple(places), rows.shape[1])
    return PromptTokens(found, *content_hash(rows))


def sentencepiece_of(clip: Any, tokens: Mapping[str, Any]) -> tuple[str, Any]:
    """The name of the token list that a SentencePiece model made, and that model."""
    for name in tokens:
        for attribute in (f"clip_{name}", name):
            processor = getattr(getattr(getattr(clip.tokenizer, attribute, None), "tokenizer", None), "tokenizer", None)
            if hasattr(processor, "id_to_piece"):
                return name, processor
    raise ValueError(
        f"{ENCODER}: input `clip` = {type(clip.tokenizer).__name__}: has no SentencePiece tokenizer, so its words cannot be located; "
        "connect the text encoder of Wan (Load CLIP, type wan)"
    )


def piece_name(sentencepiece: Any, token: Any) -> str:
    if not isinstance(token, numbers.Integral):
        return EMBEDDING_PIECE
    return UNREADABLE if sentencepiece.is_unknown(int(token)) else sentencepiece.id_to_piece(int(token))


def embedding_rows(token: Any, width: int) -> int:
    """Rows that the host gives an embedding: none where its width is wrong (it then pads at the end)."""
    data = token.get("data") if isinstance(token, dict) else token
    return data.numel() // width if isinstance(data, Tensor) and data.shape[-1] == width else 0


def content_hash(rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Norm and randomly signed sum of each row of the first conditioning of a batch "b t c"."""
    first = rows[0].float()
    signs = torch.randint(0, 2, (first.shape[-1],), generator=torch.Generator().manual_seed(0)).float().to(first.device) * 2 - 1
    return tuple(first.norm(dim=-1).tolist()), tuple((first @ signs).tolist())


def rows_of(entry: Any) -> tuple[Tensor, Mapping[str, Any]]:
    """Context rows "b t c" and keys of a CONDITIONING entry, or of the cond that a guider made of it."""
    if isinstance(entry, Mapping):
        # The host copies an area cond of the other side under a cond's own context: the model gets model_conds, not cross_attn.
        context = entry.get("model_conds", {}).get("c_crossattn")
        return (entry["cross_attn"] if context is None else context.cond), entry
    return entry[0], entry[1]


def tokens_of(entry: Any) -> TokenPieces:
    """The pieces of an entry whose rows are still those that were encoded. Raises `ConditioningError`."""
    rows, keys = rows_of(entry)
    tokens = keys.get(CONDITIONING_KEY)
    if tokens is None:
        raise ConditioningError(
            f"the conditioning carries no tokens: encode its prompt with {ENCODER} (as the first input of any node that joins prompts)"
        )
    if broken := what_broke(tokens, rows):
        raise ConditioningError(f"{broken}; connect {ENCODER} directly, or join prompts with Conditioning (Combine)")
    return tokens.pieces


def what_broke(tokens: PromptTokens, rows: Tensor) -> str | None:
    """Why `rows` are no longer the encoded ones, naming the node; None while every row is still its token's, scaled or not."""
    count = tokens.pieces.row_count
    norms, sums = map(torch.tensor, content_hash(rows))
    if not norms.any() and any(tokens.norms):
        return "all its rows are zero, as ConditioningZeroOut leaves them"
    if len(norms) > count and same_rows(tokens, norms[:count], sums[:count]):
        return f"it has {len(norms)} rows where its tokens have {count}, as Conditioning (Concat) leaves them"
    if len(norms) != count:
        return f"it has {len(norms)} rows where its tokens have {count}: a node between {ENCODER} and here has changed them"
    if not same_rows(tokens, norms, sums):
        return "its rows are not those that were encoded, as Conditioning (Average) mixes them"
    return None


def same_rows(tokens: PromptTokens, norms: Tensor, sums: Tensor) -> bool:
    """Every row is the encoded one times one common factor (ConditioningMultiply keeps words where they were)."""
    encoded_norms, encoded_sums = torch.tensor(tokens.norms), torch.tensor(tokens.sums)
    factor = (sums @ encoded_sums) / (encoded_sums @ encoded_sums).clamp(min=1e-30)
    allowed = SAME_ROWS * factor.abs() * encoded_norms.clamp(min=1e-6)
    close_norms = (norms - factor.abs() * encoded_norms).abs() <= allowed
    close_sums = (sums - factor * encoded_sums).abs() <= allowed
    return bool(close_norms.all() and close_sums.all())


def rows_for_entry(entry: Any, phrase: str, occurrence: str | int = "all") -> tuple[int, ...]:
    """Context rows of `phrase` in one positive entry (`guider.conds["positive"][i]`).

    Raises `PhraseNotFound` where this entry's prompt lacks it (another entry of a Combine may have it), `ConditioningError` where its
    tokens are missing or broken.
    """
    return find_phrase(tokens_of(entry), phrase, occurrence)


def rows_of_ref(entry: Any, ref: PhraseRef) -> tuple[int, ...]:
    """Context rows of what an objective wants measured in one positive entry; raises as `rows_for_entry`."""
    if isinstance(ref, RestOfPrompt):
        return rest_of_prompt(tokens_of(entry), ref.without, ref.occurrence)
    return rows_for_entry(entry, ref.phrase, ref.occurrence)


def rows_of_entries(entries: Sequence[Any], phrases: Sequence[PhraseRef]) -> list[dict[int, tuple[int, ...]]]:
    """Per positive entry, the context rows of each phrase (by its place) that its prompt holds; every phrase must be in one of them."""
    found: list[dict[int, tuple[int, ...]]] = [{} for _ in entries]
    for place, ref in enumerate(phrases):
        missing: PhraseNotFound | None = None
        for entry, rows in zip(entries, found, strict=True):
            try:
                rows[place] = rows_of_ref(entry, ref)
            except PhraseNotFound as error:
                missing = error
        if not any(place in rows for rows in found):
            raise missing or PhraseNotFound(f'no positive conditioning is active where "{ref.phrase}" should be guided')
    return found


def rows_of_guidance(guidance: Objective | Patch, entries: Sequence[Any]) -> list[dict[int, tuple[int, ...]]]:
    """`rows_of_entries` of all its phrases in the positive entries of a run that begins. Raises ValueError where a phrase is in none of
    them, or where the guidance itself refuses what was found."""
    try:
        rows = rows_of_entries(entries, guidance.phrases)
    except ValueError as error:
        raise type(error)(f"{guidance.name}: input `positive` of the sampler: {error}") from error
    if isinstance(guidance, ChecksPrompts):
        guidance.check_prompts(rows)
    return rows


def check_guidance(guidance: Objective | Patch, conditioning: Sequence[Any]) -> tuple[str, ...]:
    """The same early, in its node: `check_conditioning` for every phrase that was written, then the guidance's own refusals."""
    written = [ref for ref in guidance.phrases if not isinstance(ref, (RestOfPrompt, PhraseAt))]
    found = check_conditioning(conditioning, written, guidance.name)
    if isinstance(guidance, ChecksPrompts):
        guidance.check_prompts(rows_of_entries(conditioning, guidance.phrases))
    return found


def check_conditioning(conditioning: Sequence[Any], phrases: Sequence[PhraseRef | str], node_name: str) -> tuple[str, ...]:
    """Early check in a node: every entry has intact tokens, and every phrase is in at least one entry.

    Returns one line per phrase that says what was found, for the node to show. Errors name `node_name`.
    """
    try:
        if conditioning is None:
            raise ConditioningError(f"nothing arrives (a muted or bypassed node before it?): connect {ENCODER}")
        prompts = [tokens_of(entry) for entry in conditioning]
        return tuple(describe_phrase(prompts, PhraseRef(phrase) if isinstance(phrase, str) else phrase) for phrase in phrases)
    except ValueError as error:
        raise type(error)(f"{node_name}: input `conditioning`: {error}") from error


def describe_phrase(prompts: Sequence[TokenPieces], wanted: PhraseRef) -> str:
    found, missing = [], []
    for pieces in prompts:
        try:
            found.append(describe_rows(pieces, find_phrase(pieces, wanted.phrase, wanted.occurrence)))
        except PhraseNotFound as error:
            missing.append(error)
    if not found:
        raise missing[0] if missing else ConditioningError(f"the conditioning is empty: connect {ENCODER}")
    return f"{wanted.phrase}: {'; '.join(found)}"


def show_tokens(conditioning: Sequence[Any]) -> str:
    """The pieces of a conditioning for the node to show, one prompt a line."""
    prompts = dict.fromkeys(tokens_of(entry).show() for entry in conditioning)
    return "\n".join(prompts)
