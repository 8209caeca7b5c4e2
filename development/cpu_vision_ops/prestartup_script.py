"""Lets torchvision import beside a CPU-only torch: its wheel's ops do not load there, yet it registers meta versions of two of them."""

import importlib.util
from pathlib import Path

import torch


def compiled_ops_load() -> bool:
    """True if torchvision's own extension works with this torch, so that nothing is missing."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for extension in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            return False
    return True


def define_missing_ops() -> None:
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


if not compiled_ops_load():
    define_missing_ops()
