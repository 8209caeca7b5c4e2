"""Training of the playground's model: one command, resumable, logged, the same weights for the same seed, device and thread count."""

import argparse
import logging
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from . import codec, network, world
from .tellings import Captions, Telling, tell, text_rows, weighted_rows_attention

log = logging.getLogger("wan_conductor.playground")
SAVE_EVERY = 250
TOKENIZER_CAPTIONS = 20_000
ADAMW_SHARE = 0.4  # of Muon's learning rate, for what is no hidden matrix
KINDS_OF_EVENT = (world.STILL, *world.MOTIONS)
UNREAD = -100  # torch's ignore_index
TRAINING_SHIFT = 8.0  # of half of the noise levels; more than the schedule's: text has its say above sigma 0.9
READ_TEXT, READ_PLACE = 1, 2  # blocks
READ_TEXT_WEIGHT, READ_PLACE_WEIGHT = 0.05, 0.02


def shifted(u: Tensor, shift: float) -> Tensor:
    """sigma of the progress u under a flow shift."""
    return shift * u / (1 + (shift - 1) * u)


def learning_rate(step: int, steps: int) -> float:
    """Warm up 200 steps, hold, fall linearly to zero over the last third."""
    return min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (steps / 3)))


def reading_targets(clips: list[world.Clip]) -> tuple[Tensor, Tensor]:
    """What a reader of the tokens should find in clips of one subject: its event at every latent frame "b f" (0: still) and its shape "b".

    UNREAD in clips of several.
    """
    events = torch.full((len(clips), world.LATENT_FRAMES), UNREAD)
    shapes = torch.full((len(clips),), UNREAD)
    for i, clip in enumerate(clips):
        if len(clip.subjects) == 1:
            events[i] = torch.tensor([KINDS_OF_EVENT.index(event) for event in world.event_of_frames(clip.subjects[0])])
            shapes[i] = world.SHAPES.index(clip.subjects[0].shape)
    return events, shapes


class Readers(nn.Module):
    """Linear readers of the tokens, for training alone: the event of every frame and the shape from the mean over space after block
    `READ_TEXT`, every token's own place after block `READ_PLACE`.

    A motion's word lowers the flow-matching loss by a few per cent, and only where noise hides the video; without readers the words of
    motions had 0.3 % of the text attention after 172,000 clips (padding 90 %), and motions came out at random. Rotary positions are
    relative: that a token lies early and high must be found out from where attention ends, before `moves up` can mean anything at sigma 1.
    """

    def __init__(self, wan: nn.Module):
        super().__init__()
        width, (_, *patch) = network.WAN_CONFIG["dim"], network.WAN_CONFIG["patch_size"]
        self.event = nn.Linear(width, len(KINDS_OF_EVENT))
        self.shape = nn.Linear(width, len(world.SHAPES))
        self.grid = (world.LATENT_FRAMES, *(world.CANVAS // 2 // size for size in patch))
        self.place = nn.ModuleList(nn.Linear(width, size) for size in self.grid)
        self.tokens: dict[int, Tensor] = {}
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        for block in {READ_TEXT, READ_PLACE}:
            wan.blocks[block].register_forward_hook(lambda _, inputs, tokens, block=block: self.tokens.update({block: tokens}))

    def loss(self, events: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the text's readers, and of the places'."""
        frames = self.tokens[READ_TEXT].unflatten(1, (world.LATENT_FRAMES, -1)).mean(2)
        of_text = F.cross_entropy(self.event(frames).float().flatten(0, 1), events.flatten(), ignore_index=UNREAD)
        of_text = of_text + F.cross_entropy(self.shape(frames.mean(1)).float(), shapes, ignore_index=UNREAD)
        tokens = self.tokens[READ_PLACE]
        places = torch.meshgrid(*(torch.arange(size, device=tokens.device) for size in self.grid), indexing="ij")
        of_place = [
            F.cross_entropy(reader(tokens).float().flatten(0, 1), place.flatten().repeat(len(tokens)))
            for reader, place in zip(self.place, places, strict=True)
        ]
        self.tokens.clear()
        return of_text, torch.stack(of_place).sum()


class Batches(Dataset):
    """Batch number `step` of a training: clips, their words and noise levels, all drawn from (seed, step) alone."""

    def __init__(self, captions: Captions, matrices: dict[str, Tensor], batch: int, seed: int, first: int, steps: int):
        self.captions, self.matrices, self.batch, self.seed, self.first, self.steps = captions, matrices, batch, seed, first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int):
        key = self.seed * 1_000_003 + self.first + index
        rng, generator = random.Random(key), torch.Generator().manual_seed(key)
        clips = [world.training_clip(rng) for _ in range(self.batch)]
        x0 = codec.latent_of_canvas(world.draw(clips), self.matrices)
        # stratified; half of the levels uniform, half shifted towards noise, where what happens is decided
        u = (torch.rand(self.batch, generator=generator) + torch.arange(self.batch)) / self.batch
        sigma = torch.where(torch.arange(self.batch) % 2 == 0, u, shifted(u, TRAINING_SHIFT))
        noise = torch.randn(x0.shape, generator=generator)
        return x0, noise, sigma[torch.randperm(self.batch, generator=generator)], tell(self.captions, clips, rng), reading_targets(clips)


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains the parameter: the matrices of the blocks, not embeddings, heads, norms and tables."""
    return parameter.ndim == 2 and ".block" in f".{name}" and "relative_attention_bias" not in name


class Training:
    """Networks, their running average, and the optimiser; saved and resumed as one."""

    def __init__(self, seed: int, rate: float, device: str):
        import comfy.ops

        self.device, self.rate = device, rate
        self.wan, self.umt5 = network.build_wan(comfy.ops.disable_weight_init), network.build_umt5(comfy.ops.disable_weight_init)
        network.initialise(self.wan, self.umt5, torch.Generator().manual_seed(seed))
        self.wan, self.umt5 = self.wan.to(device), self.umt5.to(device)
        self.readers = Readers(self.wan).to(device)
        self.reading: tuple[Tensor, ...] = ()
        self.parameters = [p.requires_grad_(True) for p in (*self.wan.parameters(), *self.umt5.parameters())]
        self.average = [p.detach().clone() for p in self.parameters]
        matrices = [p for n, p in (*self.wan.named_parameters(), *self.umt5.named_parameters()) if is_hidden_matrix(n, p)]
        chosen = {id(p) for p in matrices}
        others = [*(p for p in self.parameters if id(p) not in chosen), *self.readers.parameters()]
        self.optimisers = (
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate * ADAMW_SHARE, weight_decay=0.01, betas=(0.9, 0.98), fused=True),
        )
        self.forward = self.wan
        self.step, self.running = 0, float("nan")

    def start_from(self, weights: Path) -> None:
        """Begin with weight files of an earlier training; their optimiser state is not kept."""
        for model, name in ((self.wan, "wan"), (self.umt5, "umt5")):
            state = network.load_weights(name, weights)
            state.pop("spiece_model", None)
            model.load_state_dict({k: v.float() for k, v in state.items()})
        for average, p in zip(self.average, self.parameters):
            average.copy_(p.detach())

    def resume(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True, map_location=self.device)
        for own, saved in ((self.parameters, state["parameters"]), (self.average, state["average"])):
            for p, q in zip(own, saved):
                p.data.copy_(q)
        self.readers.load_state_dict(state["readers"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.step, self.running = state["step"], state["running"]

    def save(self, checkpoint: Path) -> None:
        state = {name: getattr(self, name) for name in ("parameters", "average", "step", "running")}
        state |= {"readers": self.readers.state_dict(), "optimisers": [o.state_dict() for o in self.optimisers]}
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    def averaged(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of the averaged networks."""
        names = [n for n, _ in self.wan.named_parameters()]
        wan = dict(zip(names, self.average))
        return wan, dict(zip((n for n, _ in self.umt5.named_parameters()), self.average[len(names) :]))

    def update(self, x0: Tensor, noise: Tensor, sigma: Tensor, telling: Telling, targets: tuple[Tensor, Tensor], steps: int) -> Tensor:
        """One step on the flow-matching loss |v - (noise - x0)|^2 at x = (1 - sigma) x0 + sigma noise, and on what readers find."""
        x0, noise, sigma = (t.to(self.device) for t in (x0, noise, sigma))
        telling = telling.to(self.device)
        s = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            rows = text_rows(self.umt5, telling)
            options = {"optimized_attention_override": weighted_rows_attention, "row_weight": telling.weight}
            velocity = self.forward((1 - s) * x0 + s * noise, sigma * 1000, rows, transformer_options=options)
            loss = ((velocity.float() - (noise - x0)) ** 2).mean()
            self.reading = self.readers.loss(*(target.to(self.device) for target in targets))
        (loss + READ_TEXT_WEIGHT * self.reading[0] + READ_PLACE_WEIGHT * self.reading[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, share in zip(self.optimisers, (1.0, ADAMW_SHARE)):
            for group in optimiser.param_groups:
                group["lr"] = self.rate * share * learning_rate(self.step, steps)
            optimiser.step()
            optimiser.zero_grad()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - min(0.997, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return loss.detach()


def train(options: argparse.Namespace) -> None:
    import comfy.model_management
    from comfy.latent_formats import Wan21

    comfy.model_management.in_training = True  # the host's fused kernels have no gradient
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    tokenizer = network.train_tokenizer([world.training_clip(rng).caption for _ in range(TOKENIZER_CAPTIONS)])
    matrices = codec.codec_matrices(torch.tensor(Wan21.latent_rgb_factors), torch.tensor(Wan21.latent_rgb_factors_bias))
    training = Training(options.seed, options.rate, options.device)
    log.info("%.2f M parameters", sum(p.numel() for p in training.parameters) / 1e6)
    steps, checkpoint = options.samples // options.batch, options.folder / "checkpoint.pt"
    if options.start:
        training.start_from(options.start)
    if checkpoint.is_file():
        training.resume(checkpoint)
        log.info("resumed at step %d of %d", training.step, steps)
    if options.compile:
        training.forward = torch.compile(training.wan)
    batches = Batches(Captions(tokenizer), matrices, options.batch, options.seed, training.step, steps)
    started, first = time.time(), training.step
    for batch in DataLoader(batches, batch_size=None, num_workers=options.workers, prefetch_factor=4 if options.workers else None):
        loss = training.update(*batch, steps=steps)
        if training.step % 10 == 0:
            training.running = loss.item() if training.running != training.running else 0.9 * training.running + 0.1 * loss.item()
        if training.step % 50 == 0:
            pace = (training.step - first) * options.batch / (time.time() - started)
            log.info(
                "step %d of %d, samples %d, loss %.4f, reading %.3f %.3f, %.1f samples/s",
                training.step,
                steps,
                training.step * options.batch,
                training.running,
                *(reading.item() for reading in training.reading),
                pace,
            )
        if training.step % SAVE_EVERY == 0 or training.step == steps:
            training.save(checkpoint)
            card = {k: getattr(options, k) for k in ("seed", "batch", "rate", "device")} | {"samples": training.step * options.batch}
            network.save_weights(options.weights, *training.averaged(), tokenizer, matrices, card)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground train", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("output/playground"), help="checkpoint, from which the same command goes on")
    parser.add_argument("--weights", type=Path, default=network.WEIGHTS, help="where the weight files go")
    parser.add_argument("--start", type=Path, help="folder of weight files to begin with, instead of random ones")
    parser.add_argument("--samples", type=int, default=400_000, help="clips to see in all; the learning rate falls over the last third")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=3.5e-3, help="Muon's learning rate, of which AdamW has a share")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw clips; a GPU needs about as many as there are cores")
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a C++ compiler")
    train(parser.parse_args(arguments))
