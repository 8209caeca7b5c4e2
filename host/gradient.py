"""Gradients through a frozen model under the host's inference mode, without a second copy of its weights."""

import contextlib
import gc
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..guidance.budget import MEMORY_MODES, MemoryMode

logger = logging.getLogger("wan_conductor")
T = TypeVar("T")


@contextlib.contextmanager
def gradient_mode() -> Iterator[None]:
    """Autograd on, inside a node (inference mode) and inside samplers (no_grad); `in_training` makes the host's kernels differentiable."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.in_training = before


def as_normal(value: Any) -> Any:
    """An inference tensor as a normal tensor on the same storage, which autograd may save; anything else as it is."""
    if type(value) not in (Tensor, nn.Parameter) or not value.is_inference():
        return value
    with torch.inference_mode(False):
        alias = torch.empty(0, dtype=value.dtype, device=value.device)
        return alias.set_(value.untyped_storage(), value.storage_offset(), value.size(), value.stride())


def own_copy(weight: Tensor) -> Tensor:
    """A normal tensor of its own: the host's cast buffers are used again for the next weight."""
    return as_normal(weight).detach().clone()


class NormalTensors(TorchFunctionMode):
    """Every torch function sees normal tensors in place of inference tensors: for modules that cast their weights in their own way."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*map(as_normal, args), **{name: as_normal(value) for name, value in (kwargs or {}).items()})


def run_frozen(forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """`forward` without a graph, in inference mode: there alone may the host copy into its cast buffers, which are inference tensors."""
    with torch.inference_mode():
        return as_normal(forward(*args, **kwargs))


class FrozenLinear(torch.autograd.Function):
    """Recipe "direct": a linear layer's gradient needs only its weight, so nothing is saved and the weight is cast again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, forward: Callable[..., Tensor]) -> Tensor:
        ctx.module, ctx.dtype = module, x.dtype
        return run_frozen(forward, x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        with torch.inference_mode():
            like_x = gradient.new_empty((0,), dtype=ctx.dtype)
            weight, bias, stream = comfy.ops.cast_bias_weight(ctx.module, like_x, offloadable=True)
            if type(weight) not in (Tensor, nn.Parameter):
                weight = weight.dequantize()
            gradient_x = as_normal(gradient.to(ctx.dtype) @ weight.to(ctx.dtype))
            comfy.ops.uncast_bias_weight(ctx.module, weight, bias, stream)
        return gradient_x, None, None


class FrozenCall(torch.autograd.Function):
    """Recipe "recompute", for any other module: save its input alone, run it again in the backward pass and use that graph at once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, forward: Callable[..., Tensor], kwargs: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module, ctx.forward, ctx.kwargs = module, forward, kwargs
        return run_frozen(forward, x.detach(), **kwargs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.inference_mode(False), torch.enable_grad(), owning_its_weights(ctx.module), NormalTensors():
            y = ctx.forward(x, **ctx.kwargs)
        return torch.autograd.grad(y, x, gradient)[0], None, None, None


@contextlib.contextmanager
def owning_its_weights(module: nn.Module) -> Iterator[None]:
    """The host's ops pass each cast weight through these functions last."""
    if not hasattr(module, "weight_function"):
        yield
        return
    with replaced(module, "weight_function", [*module.weight_function, own_copy]):
        with replaced(module, "bias_function", [*module.bias_function, own_copy]):
            yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an instance attribute; afterwards put the old one back, or leave none where there was none."""
    absent = name not in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if absent:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def is_host_linear(module: nn.Module) -> bool:
    """A Linear of comfy.ops whose forward and weight nobody has replaced or rescaled: its output is exactly x W^T + b with the cast W."""
    return (
        type(module).__name__ == "Linear"
        and type(module).__module__ == "comfy.ops"
        and "forward" not in vars(module)
        and getattr(module, "pre_quant_scale", None) is None
    )


def has_weights_of_its_own(module: nn.Module) -> bool:
    """A leaf with weights, or one of the host's ops (a quantised Linear may hold its weight elsewhere)."""
    return hasattr(module, "weight_function") or (not any(module.children()) and any(True for _ in module.parameters(recurse=False)))


@contextlib.contextmanager
def frozen_weights(model: nn.Module, linear: str = "direct") -> Iterator[None]:
    """Within: every module of `model` that holds weights is differentiable in its input, and autograd saves no weight.

    Never let autograd save a cast weight: offloaded weights live in buffers that the next layer overwrites, silently.
    linear: "direct" where possible, or "recompute" everywhere.
    """
    with contextlib.ExitStack() as undo:
        for module in model.modules():
            if has_weights_of_its_own(module):
                direct = linear == "direct" and is_host_linear(module)
                undo.enter_context(replaced(module, "forward", _frozen_forward(module, module.forward, direct)))
        yield


def _frozen_forward(module: nn.Module, forward: Callable[..., Tensor], direct: bool) -> Callable[..., Tensor]:
    def frozen_forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return run_frozen(forward, x, *args, **kwargs)
        if args:
            raise NotImplementedError(f"{type(module).__name__}: a gradient pass knows no second positional argument of its forward")
        if direct and not kwargs:
            return FrozenLinear.apply(x, module, forward)
        return FrozenCall.apply(x, module, forward, kwargs)

    return frozen_forward


class GradientScale:
    """Keeps gradients inside fp16's range on their way through the model: scaled up where they enter, back down where they leave.

    A loss averages over all tokens, so its gradient starts near 1e-9; fp16 ends at 6e-8. Powers of two: exact in every other dtype.
    """

    LARGEST = 2.0**10  # of what enters; leaves fp16 a factor of 64 to grow in

    def __init__(self) -> None:
        self.factor = 1.0

    def leaving(self, z: Tensor) -> Tensor:
        """The latent that the model is given."""
        return _ScaleGradient.apply(z, lambda gradient: gradient / self.factor)

    def entering(self, measured: Tensor) -> Tensor:
        """What the loss is computed from."""
        return _ScaleGradient.apply(measured, self._scale)

    def _scale(self, gradient: Tensor) -> Tensor:
        largest = float(gradient.abs().max())
        self.factor = 2.0 ** math.floor(math.log2(self.LARGEST / largest)) if 0 < largest < math.inf else 1.0
        return gradient * self.factor


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.scale(gradient), None


def next_memory_mode(memory_mode: MemoryMode) -> MemoryMode | None:
    """The mode that needs less memory than this one; None after the last."""
    rank = MEMORY_MODES.index(memory_mode) + 1
    return MEMORY_MODES[rank] if rank < len(MEMORY_MODES) else None


def within_memory(run: Callable[[], T]) -> tuple[T | None, bool]:
    """(run(), True), or (None, False) after out of memory, once everything that `run` held is free."""
    try:
        return run(), True
    except Exception as error:
        if not comfy.model_management.is_oom(error):
            raise
        logger.warning("out of memory in the gradient pass: %s", str(error))  # a log record that holds the exception holds its frames
    # Only here, with the exception and the frames it kept alive gone, is the memory free to be given back.
    gc.collect()
    comfy.model_management.soft_empty_cache()
    return None, False
