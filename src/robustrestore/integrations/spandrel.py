"""spandrel: restoration networks from their published checkpoint files, architecture found by their weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..restorers import Network


class _Called(nn.Module):
    """A network called as spandrel calls it: one image at a time, padded to a size that it asks for; with gradients."""

    def __init__(self, described: Any) -> None:
        super().__init__()
        self.model, self._call, self._size = described.model, described._call_fn, described.size_requirements

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        right, bottom = self._size.get_padding(width, height)
        padded = F.pad(images, (0, right, 0, bottom), mode="replicate")
        restored = torch.cat([self._call(self.model, image) for image in torch.split(padded, 1)])
        return restored[..., :height, :width]


def load_restorer(file: str | Path) -> Network:
    """A restorer from a checkpoint that spandrel knows (NAFNet, Restormer, SwinIR, ...); safetensors or plain tensors.

    Raises ImportError without spandrel, ValueError for a pickled file, an unknown architecture, or a network that does
    not return images of the input's size and channels.
    """
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
        from spandrel import UnsupportedModelError as Unknown
    except ImportError as error:
        raise ImportError("load_restorer needs spandrel: pip install 'robustrestore[restorers]'") from error
    from ..weights import read_tensors

    try:
        described = ModelLoader().load_from_state_dict(read_tensors(file))
    except Unknown as error:
        raise ValueError(f"{file}: expected an architecture that spandrel knows: {error}") from error
    if not isinstance(described, ImageModelDescriptor) or described.scale != 1:
        raise ValueError(f"{file}: expected a network that keeps the image size, got {described.purpose}")
    if described.input_channels != described.output_channels:
        raise ValueError(f"{file}: expected as many channels out as in")
    described.model.requires_grad_(False).eval()
    size, call = described.size_requirements, described._call_fn
    if call.__module__ == ImageModelDescriptor.__module__ and not (size.minimum or size.square):  # the plain call: batches
        return Network(described.model, multiple=max(1, size.multiple_of)).eval()
    return Network(_Called(described)).eval()
