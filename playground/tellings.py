"""How captions reach the model in training: token rows, phrases exchanged between tellings, padding as one weighted column."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from . import network, world

CAPTION_ROWS = 24  # longest caption in tokens; the rest of the 512 rows are padding and act through the weight of those left
UNCONDITIONAL_RATE = 0.1
ROW_EXCHANGE_RATE = 0.8
OWN_EVENT_RATE = 0.6  # of clips with several events, in which a frame sees of a subject's events only its own
OTHER_PHRASES = {
    "object": [f"{c} {s}" for c in world.COLORS for s in world.SHAPES],
    "event": [*world.MOTIONS, world.STILL],
    "place": list(world.PLACES),
}


class Captions:
    """Turns captions into padded token ids, and knows which rows each phrase has."""

    def __init__(self, tokenizer: Tensor):
        import sentencepiece

        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.numpy().tobytes(), add_eos=True)
        self.known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.pieces.encode(text)
        return self.known[text]

    def batch(self, texts: list[str]) -> Tensor:
        """Token ids, [b, CAPTION_ROWS], padded with 0."""
        out = torch.zeros(len(texts), CAPTION_ROWS, dtype=torch.long)
        for row, text in zip(out, texts):
            ids = self.ids(text)
            row[: len(ids)] = torch.tensor(ids)
        return out

    def hidden_rows(self, clip: world.Clip) -> Tensor:
        """Row dropout by time: bool [F, CAPTION_ROWS], rows of events that their subject does not do in a frame, where it does several."""
        hidden = torch.zeros(world.LATENT_FRAMES, CAPTION_ROWS, dtype=torch.bool)
        subject = -1
        for (text, kind), rows in zip(clip.phrases, self.phrase_rows(clip)):
            subject += kind == "object"
            events = clip.subjects[subject].events
            if kind == "event" and len(events) > 1:
                elsewhere = [events[segment] != text for segment in world.segment_of_frame(len(events))]
                hidden[:, list(rows)] = torch.tensor(elsewhere)[:, None]
        return hidden

    def phrase_rows(self, clip: world.Clip) -> list[range]:
        """Rows of each phrase of the caption: every word of the vocabulary is whole pieces, so prefixes tokenise alike."""
        rows, at = [], 0
        for text, _ in clip.phrases:
            start = clip.caption.index(text, at)
            at = start + len(text)
            first = len(self.ids(clip.caption[:start].rstrip())) - 1
            rows.append(range(first, len(self.ids(clip.caption[:at])) - 1))
        return rows


def replace_phrases(clip: world.Clip, chosen: list[bool], rng: random.Random) -> str:
    """The caption with the chosen phrases replaced by others of their kind."""
    out, at = [], 0
    for (text, kind), swap in zip(clip.phrases, chosen):
        start = clip.caption.index(text, at)
        out += [clip.caption[at:start], rng.choice(OTHER_PHRASES[kind]) if swap else text]
        at = start + len(text)
    return "".join(out) + clip.caption[at:]


@dataclass(frozen=True)
class Telling:
    """The text of one batch: ids [b, t]. The clips at `exchanged` [n] have rows of two `other` tellings [2, n, t], by `keep` [2, n, t, 1].

    Word locality: in most of the clips the caption is told twice more, each time with another share of its phrases replaced, and every
    phrase keeps the rows of the telling that holds it. So no row can be relied on for what another phrase says. And in some clips of
    several events the frames see of `hidden` [b, F, t] none of the rows: so that an event's rows say what happens where they are seen.
    """

    ids: Tensor
    exchanged: Tensor
    other: Tensor
    keep: Tensor
    hidden: Tensor

    @property
    def weight(self) -> Tensor:
        """Log-weight of each row in each latent frame, [b, F, t]: the padding rows left stand for all of the 512."""
        real = (self.ids != 0).sum(1, keepdim=True)
        weight = torch.where(self.ids != 0, 0.0, torch.log((network.TEXT_ROWS - real) / (CAPTION_ROWS - real).float()))
        return weight[:, None].masked_fill(self.hidden, float("-inf"))

    def to(self, device: torch.device | str) -> "Telling":
        return Telling(*(t.to(device) for t in (self.ids, self.exchanged, self.other, self.keep, self.hidden)))


def tell(captions: Captions, clips: list[world.Clip], rng: random.Random) -> Telling:
    """Captions of the clips, some left out (for guidance without a classifier), some with phrases from other tellings."""
    texts = ["" if rng.random() < UNCONDITIONAL_RATE else c.caption for c in clips]
    exchanged = [i for i, (t, c) in enumerate(zip(texts, clips)) if t and len(c.phrases) > 1 and rng.random() < ROW_EXCHANGE_RATE]
    sides = [[rng.random() < 0.5 for _ in clips[i].phrases] for i in exchanged]
    other = [
        captions.batch([replace_phrases(clips[i], [s != bool(telling) for s in side], rng) for i, side in zip(exchanged, sides)])
        for telling in (0, 1)
    ]
    keep = torch.zeros(2, len(exchanged), CAPTION_ROWS, 1)
    keep[1] = 1
    for n, (i, side) in enumerate(zip(exchanged, sides)):
        for phrase, s in zip(captions.phrase_rows(clips[i]), side):
            keep[0, n, phrase], keep[1, n, phrase] = float(not s), float(s)
    hidden = torch.zeros(len(clips), world.LATENT_FRAMES, CAPTION_ROWS, dtype=torch.bool)
    for i, (text, clip) in enumerate(zip(texts, clips)):
        if text and rng.random() < OWN_EVENT_RATE:
            hidden[i] = captions.hidden_rows(clip)
    return Telling(captions.batch(texts), torch.tensor(exchanged, dtype=torch.long), torch.stack(other), keep, hidden)


def encode_rows(umt5, ids: Tensor) -> Tensor:
    """UMT5 rows of token ids [b, t], zero where padded as the host does, [b, t, d]."""
    from comfy.ldm.modules.attention import attention_pytorch

    x = umt5.shared(ids, out_dtype=torch.float32)
    mask = torch.zeros(ids.shape, dtype=x.dtype, device=ids.device).masked_fill(ids == 0, -torch.finfo(x.dtype).max)[:, None, None]
    for block in umt5.encoder.block:  # the host's stack adds in place, which autograd forbids
        attention, feed_forward = block.layer
        y, _ = attention.SelfAttention(attention.layer_norm(x), mask=mask, optimized_attention=attention_pytorch)
        x = x + y
        x = x + feed_forward.DenseReluDense(feed_forward.layer_norm(x))
    return umt5.encoder.final_layer_norm(x) * (ids != 0)[..., None]


def text_rows(umt5, telling: Telling) -> Tensor:
    """The rows [b, t, d] of a telling."""
    rows = encode_rows(umt5, telling.ids)
    if not len(telling.exchanged):
        return rows
    other = encode_rows(umt5, telling.other.flatten(0, 1)).unflatten(0, (2, -1))
    return rows.index_put((telling.exchanged,), (other * telling.keep).sum(0).to(rows.dtype))


def weighted_rows_attention(func, q: Tensor, k: Tensor, v: Tensor, heads: int, *, transformer_options: dict, **_) -> Tensor:
    """Attention override that adds each text row's log-weight: exactly the attention over all 512 rows, or those a frame sees.

    Plain products: at 208 tokens they beat the fused CPU kernel's backward.
    """
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if scores.shape[-1] == CAPTION_ROWS:
        weight = transformer_options["row_weight"].to(scores.dtype)
        scores = scores + weight.repeat_interleave(scores.shape[-2] // weight.shape[1], 1)[:, None]
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
