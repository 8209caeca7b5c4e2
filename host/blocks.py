"""Wan's blocks during a gradient pass: maps leave as outputs, activations are computed again instead of kept, the rest is not run."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .gradient import replaced


class EnoughBlocks(BaseException):
    """Leaves the model early. Not an Exception, so that no handler of another pack takes it for a failure."""


class BlockOutputs:
    """Where attention handlers leave what they measured in the block that is running."""

    def __init__(self) -> None:
        self._of_running_block: list[Tensor] = []
        self.of_pass: list[Tensor] = []

    def add(self, measured: Tensor) -> None:
        self._of_running_block.append(measured)

    @contextlib.contextmanager
    def of_one_block(self) -> Iterator[list[Tensor]]:
        outer, self._of_running_block = self._of_running_block, []
        try:
            yield self._of_running_block
        finally:
            self._of_running_block = outer


@contextlib.contextmanager
def measured_blocks(diffusion_model: nn.Module, outputs: BlockOutputs, memory_mode: str) -> Iterator[None]:
    """Within: what handlers add in a block is returned from it (and so has a gradient), then collected in `outputs.of_pass`.

    An EnoughBlocks raised by a handler ends the block, and the pass. memory_mode: "fast" keeps activations, "balanced" keeps the
    inputs of the blocks, "low" keeps those in main memory. Stay within until the backward pass is done: it runs the blocks again.

    Block.forward is replaced, not patches_replace used: the host's `original_block` there would run the last block again.
    """
    with contextlib.ExitStack() as undo:
        for block in (*diffusion_model.blocks, *getattr(diffusion_model, "vace_blocks", ())):
            undo.enter_context(replaced(block, "forward", _measured_forward(block.forward, outputs, memory_mode)))
        yield


def _measured_forward(forward: Callable[..., Any], outputs: BlockOutputs, memory_mode: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with outputs.of_one_block() as measured:
            try:
                result = forward(*args, **kwargs)
            except EnoughBlocks:
                return EnoughBlocks, *measured
        return result, *measured

    def measured_forward(*args: Any, **kwargs: Any) -> Any:
        if "transformer_options" in kwargs:
            kwargs["transformer_options"] = dict(kwargs["transformer_options"])  # block_index is overwritten before this runs again
        if memory_mode == "fast" or not torch.is_grad_enabled():
            result, *measured = run(*args, **kwargs)
        else:
            with _kept_in_main_memory(args) if memory_mode == "low" else contextlib.nullcontext():
                result, *measured = checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        outputs.of_pass.extend(measured)
        if result is EnoughBlocks:
            raise EnoughBlocks
        return result

    return measured_forward


def _kept_in_main_memory(args: tuple[Any, ...]) -> contextlib.AbstractContextManager:
    on_gpu = any(isinstance(value, Tensor) and value.is_cuda for value in args)
    return torch.autograd.graph.save_on_cpu(pin_memory=on_gpu)
