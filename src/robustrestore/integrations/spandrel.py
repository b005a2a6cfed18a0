"""spandrel: restoration networks from their published checkpoint files, architecture found by their weights."""

from pathlib import Path

from ..restorers import Network


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
    size = described.size_requirements
    return Network(described.model.requires_grad_(False).eval(), multiple=max(1, size.multiple_of)).eval()
