"""Training of the playground's model: one command, resumable, logged, the same weights for the same seed and thread count."""

import argparse
import json
import logging
import math
import os
import random
import time
from pathlib import Path

import torch
from torch import Tensor

from . import codec, network, world

log = logging.getLogger("wan_conductor.playground")
CAPTION_ROWS = 24  # longest caption in tokens; the rest of the 512 rows are padding and act as one weighted column
UNCONDITIONAL_RATE = 0.1
ROW_EXCHANGE_RATE = 0.5
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


def encode_rows(umt5, ids: Tensor) -> Tensor:
    """UMT5 rows of token ids [b, t], zero where padded as the host does, [b, t, d]."""
    from comfy.ldm.modules.attention import attention_pytorch

    x = umt5.shared(ids, out_dtype=torch.float32)
    mask = torch.zeros(ids.shape, dtype=x.dtype).masked_fill(ids == 0, -torch.finfo(x.dtype).max)[:, None, None]
    for block in umt5.encoder.block:  # the host's stack adds in place, which autograd forbids
        attention, feed_forward = block.layer
        y, _ = attention.SelfAttention(attention.layer_norm(x), mask=mask, optimized_attention=attention_pytorch)
        x = x + y
        x = x + feed_forward.DenseReluDense(feed_forward.layer_norm(x))
    return umt5.encoder.final_layer_norm(x) * (ids != 0)[..., None]


def text_rows(umt5, captions: Captions, clips: list[world.Clip], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Rows [b, t, d] and the log-weight of each row [b, t].

    Word locality: in half of the clips the caption is told twice, each time with another share of its phrases replaced, and every phrase
    keeps the rows of the telling that holds it. So no row can be relied on for what another phrase says.
    """
    texts = ["" if rng.random() < UNCONDITIONAL_RATE else c.caption for c in clips]
    ids = captions.batch(texts)
    rows = encode_rows(umt5, ids)
    exchanged = [i for i, (t, c) in enumerate(zip(texts, clips)) if t and len(c.phrases) > 1 and rng.random() < ROW_EXCHANGE_RATE]
    if exchanged:
        tellings, keep = [], torch.zeros(2, len(exchanged), CAPTION_ROWS, 1)
        sides = [[rng.random() < 0.5 for _ in clips[i].phrases] for i in exchanged]
        for telling in (0, 1):
            tellings += [replace_phrases(clips[i], [s != bool(telling) for s in side], rng) for i, side in zip(exchanged, sides)]
        keep[1] = 1
        for n, (i, side) in enumerate(zip(exchanged, sides)):
            for phrase, s in zip(captions.phrase_rows(clips[i]), side):
                keep[0, n, phrase], keep[1, n, phrase] = float(not s), float(s)
        other = encode_rows(umt5, captions.batch(tellings)).view(2, len(exchanged), CAPTION_ROWS, -1)
        rows = rows.index_put((torch.tensor(exchanged),), (other * keep).sum(0))
    real = (ids != 0).sum(1, keepdim=True)
    weight = torch.where(ids != 0, 0.0, torch.log((network.TEXT_ROWS - real) / (CAPTION_ROWS - real).float()))
    return rows, weight


def weighted_rows_attention(func, q: Tensor, k: Tensor, v: Tensor, heads: int, *, transformer_options: dict, **_) -> Tensor:
    """Attention override that adds each text row's log-weight: exactly the attention over all 512 rows.

    Plain products: at 208 tokens they beat the fused CPU kernel's backward.
    """
    q, k, v = (t.view(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if scores.shape[-1] == CAPTION_ROWS:
        scores = scores + transformer_options["row_weight"][:, None, None].to(scores.dtype)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def shifted(u: Tensor, shift: float) -> Tensor:
    """sigma of the progress u under a flow shift."""
    return shift * u / (1 + (shift - 1) * u)


def learning_rate(step: int, steps: int) -> float:
    """Warm up 200 steps, hold, fall linearly to zero over the last third."""
    return min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (steps / 3)))


def save_checkpoint(path: Path, state: dict) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def train(folder: Path, samples: int, batch: int, seed: int, rate: float, threads: int, weights: Path, compiled: bool) -> None:
    import comfy.ops
    from comfy.latent_formats import Wan21

    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    tokenizer = network.train_tokenizer([world.training_clip(rng).caption for _ in range(20000)])
    captions = Captions(tokenizer)
    matrices = codec.codec_matrices(torch.tensor(Wan21.latent_rgb_factors), torch.tensor(Wan21.latent_rgb_factors_bias))
    wan, umt5 = network.build_wan(comfy.ops.disable_weight_init), network.build_umt5(comfy.ops.disable_weight_init)
    network.initialise(wan, umt5, torch.Generator().manual_seed(seed))
    parameters = [*wan.parameters(), *umt5.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    log.info("%.2f M parameters", sum(p.numel() for p in parameters) / 1e6)
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    forward = torch.compile(wan) if compiled else wan
    average = [p.detach().clone() for p in parameters]
    steps, step, running = samples // batch, 0, None
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        for p, q in zip(parameters, state["parameters"]):
            p.data.copy_(q)
        average, step, running = state["average"], state["step"], state["running"]
        optimiser.load_state_dict(state["optimiser"])
        log.info("resumed at step %d of %d", step, steps)
    started, first = time.time(), step
    while step < steps:
        rng = random.Random(seed * 1_000_003 + step)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        clips = [world.training_clip(rng) for _ in range(batch)]
        x0 = codec.latent_of_canvas(world.draw(clips), matrices)
        u = (torch.rand(batch, generator=generator) + torch.arange(batch)) / batch
        sigma = torch.where(torch.arange(batch) % 2 == 0, u, shifted(u, network.SHIFT))[torch.randperm(batch, generator=generator)]
        s = sigma.view(-1, 1, 1, 1, 1)
        noise = torch.randn(x0.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            rows, weight = text_rows(umt5, captions, clips, rng)
            options = {"optimized_attention_override": weighted_rows_attention, "row_weight": weight}
            velocity = forward((1 - s) * x0 + s * noise, sigma * 1000, rows, transformer_options=options)
            loss = ((velocity.float() - (noise - x0)) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate * learning_rate(step, steps)
        optimiser.step()
        optimiser.zero_grad()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.999, (1 + step) / (10 + step)))
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        step += 1
        if step % 50 == 0:
            pace = (step - first) * batch / (time.time() - started)
            log.info("step %d of %d, samples %d, loss %.4f, %.1f samples/s", step, steps, step * batch, running, pace)
        if step % 250 == 0 or step == steps:
            state = {"parameters": parameters, "average": average, "step": step, "running": running, "optimiser": optimiser.state_dict()}
            save_checkpoint(checkpoint, state)
            names = [*(("wan", n) for n, _ in wan.named_parameters()), *(("umt5", n) for n, _ in umt5.named_parameters())]
            card = {"samples": step * batch, "seed": seed, "batch": batch, "learning_rate": rate, "loss": round(running, 5)}
            parts = {model: {n: v for (m, n), v in zip(names, average) if m == model} for model in ("wan", "umt5")}
            network.save_weights(weights, parts["wan"], parts["umt5"], tokenizer, matrices, card)
    (folder / "done.json").write_text(json.dumps({"samples": steps * batch, "loss": running if running is None or math.isfinite(running) else None}))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("output/playground"), help="checkpoint and log")
    parser.add_argument("--weights", type=Path, default=network.WEIGHTS, help="where the weight files go")
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a C++ compiler")
    options = parser.parse_args(arguments)
    train(options.folder, options.samples, options.batch, options.seed, options.rate, options.threads, options.weights, options.compile)
