"""What looks at the videos: YOLO through `ultralytics`, Farneback's flow through OpenCV. Both are optional."""

from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .scores import Flow

EXTRA = "pip install ultralytics opencv-python-headless"  # the extra `tempocontrol` of pyproject.toml


def optional(name: str) -> ModuleType:
    """The module, or an end with what to install."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"dev.py bench tempocontrol: needs {name}, which is not installed ({error}): {EXTRA}") from error


class YoloDetector:
    """The classes that a YOLO finds in a frame; its file is fetched by ultralytics if it is one of that project's and not there."""

    def __init__(self, file: str) -> None:
        self.model: Any = optional("ultralytics").YOLO(file)

    def __call__(self, frame: np.ndarray) -> Collection[str]:
        (found,) = self.model(np.ascontiguousarray(frame[..., ::-1]), verbose=False)  # arrays are taken as BGR
        return {found.names[int(index)] for index in found.boxes.cls}

    def check(self, classes: Collection[str]) -> None:
        """Refuse a class that it never names: a video of it would count as wrong, whatever it shows."""
        if unknown := sorted(set(classes) - set(self.model.names.values())):
            raise SystemExit(f"dev.py bench tempocontrol: the detector has no class {', '.join(unknown)}: choose another --detector")


def farneback() -> Flow:
    """Dense flow (pyramid 0.5, 3 levels, window 15, 3 iterations, polynomials of 5 pixels with sigma 1.2) on grey frames."""
    cv2 = optional("cv2")

    def flow(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (one, other)]
        return cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)

    return flow


def read_video(path: Path) -> np.ndarray:
    """All frames, "t h w 3" uint8."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
