"""Training of the playground's model: one command, resumable, logged, the same weights for the same seed, device and thread count."""

import argparse
import logging
import os
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import codec, network, world
from .tellings import Captions, Telling, tell, text_rows, weighted_rows_attention

log = logging.getLogger("wan_conductor.playground")
SAVE_EVERY = 250
TOKENIZER_CAPTIONS = 20_000


def shifted(u: Tensor, shift: float) -> Tensor:
    """sigma of the progress u under a flow shift."""
    return shift * u / (1 + (shift - 1) * u)


def learning_rate(step: int, steps: int) -> float:
    """Warm up 200 steps, hold, fall linearly to zero over the last third."""
    return min(1.0, (step + 1) / 200, max(0.0, (steps - step) / (steps / 3)))


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
        sigma = torch.where(torch.arange(self.batch) % 2 == 0, u, shifted(u, network.SHIFT))
        noise = torch.randn(x0.shape, generator=generator)
        return x0, noise, sigma[torch.randperm(self.batch, generator=generator)], tell(self.captions, clips, rng)


class Training:
    """Networks, their running average, and the optimiser; saved and resumed as one."""

    def __init__(self, seed: int, rate: float, device: str):
        import comfy.ops

        self.device, self.rate = device, rate
        self.wan, self.umt5 = network.build_wan(comfy.ops.disable_weight_init), network.build_umt5(comfy.ops.disable_weight_init)
        network.initialise(self.wan, self.umt5, torch.Generator().manual_seed(seed))
        self.wan, self.umt5 = self.wan.to(device), self.umt5.to(device)
        self.parameters = [p.requires_grad_(True) for p in (*self.wan.parameters(), *self.umt5.parameters())]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
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
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.running = state["step"], state["running"]

    def save(self, checkpoint: Path) -> None:
        state = {name: getattr(self, name) for name in ("parameters", "average", "step", "running")}
        torch.save({**state, "optimiser": self.optimiser.state_dict()}, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    def averaged(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of the averaged networks."""
        names = [n for n, _ in self.wan.named_parameters()]
        wan = dict(zip(names, self.average))
        return wan, dict(zip((n for n, _ in self.umt5.named_parameters()), self.average[len(names) :]))

    def update(self, x0: Tensor, noise: Tensor, sigma: Tensor, telling: Telling, steps: int) -> Tensor:
        """One AdamW step on the flow-matching loss |v - (noise - x0)|^2 at x = (1 - sigma) x0 + sigma noise."""
        x0, noise, sigma = (t.to(self.device) for t in (x0, noise, sigma))
        telling = telling.to(self.device)
        s = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            rows = text_rows(self.umt5, telling)
            options = {"optimized_attention_override": weighted_rows_attention, "row_weight": telling.weight}
            velocity = self.forward((1 - s) * x0 + s * noise, sigma * 1000, rows, transformer_options=options)
            loss = ((velocity.float() - (noise - x0)) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * learning_rate(self.step, steps)
        self.optimiser.step()
        self.optimiser.zero_grad()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - min(0.999, (1 + self.step) / (10 + self.step)))
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
                "step %d of %d, samples %d, loss %.4f, %.1f samples/s",
                training.step,
                steps,
                training.step * options.batch,
                training.running,
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
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="AdamW's learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw clips; a GPU needs about as many as there are cores")
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a C++ compiler")
    train(parser.parse_args(arguments))
