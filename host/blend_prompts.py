"""The prompts of Multi Prompt Blend as one CONDITIONING: an entry for each window, marked with its number."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..guidance.blend import MultiPromptBlend, WindowPrompt, between
from ..guidance.kv_sharing import NAME
from ..guidance.objective import PhraseRef
from ..guidance.phrases import PhraseNotFound
from .tokens import CONDITIONING_KEY, PromptTokens, content_hash, rows_for_entry, what_broke

WINDOW_KEY = "wan_conductor_window"


def window_conditioning(prompts: Sequence[Any], blend: MultiPromptBlend) -> list[list[Any]]:
    """One entry for each window, in their order, from one CONDITIONING for each prompt. A sampler takes it as its positive."""
    entries = []
    for number, conditioning in enumerate(prompts, start=1):
        if conditioning is None or len(conditioning) != 1:
            held = "nothing" if not conditioning else f"{len(conditioning)} conditionings"
            raise ValueError(f"{NAME}: prompt {number} = {held}: each must be a single one; join prompts (Combine) after this node")
        entries.append(conditioning[0])
    check_same_encoder([rows for rows, _ in entries])
    return [
        [rows, {**keys, WINDOW_KEY: window}]
        for window, shown in enumerate(blend.prompts)
        for rows, keys in [shown_in_window(entries, shown)]
    ]


def check_same_encoder(texts: Sequence[Any]) -> None:
    """Raise ValueError unless all are text "b t c" of one batch and one width, so that they can be mixed."""
    for number, rows in enumerate(texts, start=1):
        if not isinstance(rows, Tensor) or rows.ndim != 3:
            raise ValueError(f"{NAME}: prompt {number} = no text: connect Conductor Text Encode or CLIP Text Encode")
        (batch, _, width), (first_batch, _, first_width) = rows.shape, texts[0].shape
        if width != first_width:
            differs, remedy = f"text of width {width}, where prompt 1 has {first_width}", "encode all with one text encoder"
        elif batch != first_batch:
            differs, remedy = f"a batch of {batch} rows, where prompt 1 has {first_batch}", "give each prompt as many"
        else:
            continue
        raise ValueError(f"{NAME}: prompt {number} = {differs}: {remedy}")


def shown_in_window(entries: Sequence[Any], shown: WindowPrompt) -> tuple[Tensor, dict[str, Any]]:
    """Context rows "b t c" and keys. A mix of two prompts keeps the keys and words of the nearer one (the earlier, half way)."""
    if not shown.share:
        return entries[shown.prompt]
    rows = between(entries[shown.prompt][0], entries[shown.prompt + 1][0], shown.share)
    encoded, keys = entries[shown.nearer]
    tokens: PromptTokens | None = keys.get(CONDITIONING_KEY)
    if tokens is not None and what_broke(tokens, encoded) is None:
        pieces = replace(tokens.pieces, row_count=rows.shape[1])
        keys = {**keys, CONDITIONING_KEY: PromptTokens(pieces, *content_hash(rows))}
    return rows, keys


def window_of(entry: dict[str, Any]) -> int | None:
    """The window whose prompt this cond is; None: it was added later, and is every window's."""
    return entry.get(WINDOW_KEY)


def entries_of_window(entries: list[dict[str, Any]] | None, window: int) -> list[dict[str, Any]] | None:
    return None if entries is None else [entry for entry in entries if window_of(entry) in (None, window)]


def check_windows(conds: Mapping[str, Sequence[dict[str, Any]]], blend: MultiPromptBlend) -> None:
    """Raise ValueError unless the sampler's positive prompts are those of this blend, and the others its windows' too or everyone's."""
    for side, entries in conds.items():
        windows = sorted(window for entry in entries if (window := window_of(entry)) is not None)
        if windows != list(range(len(blend.prompts))) and (windows or side == "positive"):
            remedy = "" if side == "positive" else ", or one prompt for all windows"
            raise ValueError(
                f"{NAME}: input `{side}` of the sampler = prompts of {len(windows)} windows, where this blend has {len(blend.prompts)}: "
                f"connect the output CONDITIONING of the same {NAME} node{remedy}."
            )


def check_blended(guidance: Sequence[Any], positive: Sequence[Any], input_name: str) -> None:
    """Raise ValueError where the prompts (a CONDITIONING) are those of several windows, and the model's guidance holds no blend."""
    if sum(window_of(keys) is not None for _, keys in positive) > 1 and not any(isinstance(g, MultiPromptBlend) for g in guidance):
        raise ValueError(
            f"{NAME}: input `{input_name}` = a model that is not blended, while `positive` holds the prompts of its windows: connect what "
            f"that {NAME} node puts out for this model."
        )


def check_phrase(prompts: Sequence[Any], blend: MultiPromptBlend) -> None:
    """Early check in the node: the shared phrase is in one of the prompts at least."""
    if blend.sharing is not None and blend.sharing.phrase is not None:
        phrase_rows(prompts, blend.sharing.phrase)


def phrase_rows(prompts: Sequence[Any], phrase: PhraseRef) -> list[tuple[int, ...]]:
    """Text rows of the phrase in each prompt (entries, or CONDITIONINGs of one); empty where a prompt lacks it."""
    if not phrase.phrase:
        raise ValueError(f"{NAME}: input `object` is empty: kv_sharing masked needs the word that names what should stay itself")
    found: list[tuple[int, ...]] = []
    missing: PhraseNotFound | None = None
    for number, prompt in enumerate(prompts, start=1):
        try:
            found.append(rows_for_entry(prompt if isinstance(prompt, dict) else prompt[0], phrase.phrase, phrase.occurrence))
        except PhraseNotFound as error:
            missing = error
            found.append(())
        except ValueError as error:
            raise type(error)(f"{NAME}: prompt {number}: {error}") from error
    if missing is not None and not any(found):
        raise PhraseNotFound(f"{NAME}: input `object`: {missing}") from missing
    return found


def phrase_rows_of_windows(positive: Sequence[dict[str, Any]], blend: MultiPromptBlend) -> list[tuple[int, ...]]:
    """Text rows of the shared phrase in each window: in a mix of two prompts those of both. Raises where no prompt has it."""
    if blend.sharing is None or blend.sharing.phrase is None:
        return [()] * len(blend.prompts)
    marked = [(blend.prompts[window], entry) for entry in positive if (window := window_of(entry)) is not None]
    own = {shown.prompt: entry for shown, entry in marked if not shown.share}
    rows = phrase_rows([own[prompt] for prompt in range(len(blend.repeats))], blend.sharing.phrase)
    return [tuple(sorted({*rows[shown.prompt], *(rows[shown.prompt + 1] if shown.share else ())})) for shown in blend.prompts]


def words_of_prompts(positive: Sequence[dict[str, Any]], blend: MultiPromptBlend) -> list[str]:
    """The text of each prompt, "" where its tokens did not come along."""
    words = [""] * len(blend.repeats)
    for entry in positive:
        window, tokens = window_of(entry), entry.get(CONDITIONING_KEY)
        if window is not None and tokens is not None and not blend.prompts[window].share:
            words[blend.prompts[window].prompt] = tokens.pieces.text
    return words
