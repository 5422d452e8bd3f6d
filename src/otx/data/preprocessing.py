"""How an image becomes the input of a network: defined once, and carried by every model file."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@functools.cache
def opencv() -> Any:
    """OpenCV without its own threads.

    They do not survive in a forked process, where the next call would wait for them for ever. We decode and resize
    images in parallel in our own threads or processes.
    """
    import cv2

    cv2.setNumThreads(1)
    return cv2


def reduced(image: NDArray[np.uint8], shorter: int) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) to `shorter` pixels at its shorter side, by nearest neighbours.

    It does not average, since `Preprocessing.resize` does not either: a network should learn from images as grainy as
    those that it is tested on.
    """
    cv2 = opencv()
    height, width = image.shape[:2]
    factor = shorter / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small: NDArray[np.uint8] = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return small


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `height` x `width` without keeping the aspect ratio, then `(rgb - mean) / std`.

    `mean` and `std` are in units of the 8-bit pixel (0 to 255), in the order red, green, blue.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        mean, std = data["mean"], data["std"]
        return cls(int(data["height"]), int(data["width"]), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one image (H, W, 3) to (height, width, 3), bilinear without antialiasing.

        openvino-model-api builds the same resize into a graph (`resize_type=standard`), so an exported model sees the
        same pixels there as here.
        """
        cv2 = opencv()
        if image.shape[:2] == (self.height, self.width):
            return image
        # with 8 bits OpenCV rounds down, OpenVINO to the nearest: one pixel in eight would differ
        resized = cv2.resize(image.astype(np.float32), (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(np.rint(resized), np.uint8)

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn images (N, height, width, 3) into network input (N, 3, height, width)."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        scaled = (images.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
