"""Encodings: images as the body of an HTTP request, and answers out of the body of its response."""

import base64
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEVELS = 1 / 255


class Encoding(ABC):
    """Images [n, C, H, W] to a body. `kind`: its content type; `single`: it holds one image alone, so n is 1."""

    kind: str
    single: bool = False

    @abstractmethod
    def body(self, images: Tensor) -> bytes:
        """The bytes to post."""


@dataclass(frozen=True)
class PNG(Encoding):
    """One image a request, as a PNG file: 8 bits, so the target sees the image rounded to k / 255. 1 or 3 channels."""

    kind = "image/png"
    single = True

    def body(self, images: Tensor) -> bytes:
        """A PNG file; ValueError for values outside [0, 1], which it cannot hold."""
        return _png(images[0])


@dataclass(frozen=True)
class JSONPngs(Encoding):
    """{field: [base64 of a PNG file, ...]}, rounded as `PNG`. With `key`, as TensorFlow Serving: [{key: base64}, ...]."""

    field: str = "instances"
    key: str | None = None
    kind = "application/json"

    def body(self, images: Tensor) -> bytes:
        """JSON."""
        texts = [base64.b64encode(_png(image)).decode() for image in images]
        return json.dumps({self.field: texts if self.key is None else [{self.key: text} for text in texts]}).encode()


@dataclass(frozen=True)
class JSONValues(Encoding):
    """{field: nested lists of numbers}, channels first as here, or last with `order` (0, 2, 3, 1). Nothing is lost."""

    field: str = "instances"
    order: Sequence[int] = (0, 1, 2, 3)
    kind = "application/json"

    def body(self, images: Tensor) -> bytes:
        """JSON; float32 values in full."""
        return json.dumps({self.field: images.permute(*self.order).tolist()}).encode()


@dataclass(frozen=True)
class NPY(Encoding):
    """The batch [n, C, H, W] as one NumPy file of float32. Nothing is lost."""

    kind = "application/x-npy"

    def body(self, images: Tensor) -> bytes:
        """A file of version 1.0."""
        file = io.BytesIO()
        np.save(file, images.numpy(), allow_pickle=False)
        return file.getvalue()


def npy_answers(body: bytes) -> Any:
    """A response that is a NumPy file; pickled objects in it are refused."""
    return np.load(io.BytesIO(body), allow_pickle=False)


@dataclass(frozen=True)
class JSONPath:
    """What stands in a JSON response at `path`: keys and places with dots between, * for every entry of a list.

    "outputs.logits", "predictions.*.scores", "" for the whole of it.
    """

    path: str = ""

    def __call__(self, body: bytes) -> Any:
        """The value; ValueError that shows the response where there is none."""
        try:
            return _walk(json.loads(body), [step for step in self.path.split(".") if step])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            shown = body[:200].decode("utf-8", "replace")
            raise ValueError(f"response: expected JSON with something at {self.path!r}, got {shown!r} ({error!r})") from error


def _walk(value: Any, steps: list[str]) -> Any:
    for k, step in enumerate(steps):
        if step == "*":
            return [_walk(one, steps[k + 1 :]) for one in value]
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def _png(image: Tensor) -> bytes:
    from PIL import Image

    low, high = float(image.min()), float(image.max())
    if image.shape[0] not in (1, 3) or low < -LEVELS / 2 or high > 1 + LEVELS / 2:
        raise ValueError(
            f"images: expected 1 or 3 channels in [0, 1] for a PNG file, got {image.shape[0]} in [{low:.4g}, {high:.4g}]: "
            "clamp them, or send oracle.NPY() if the service takes it"
        )
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
