"""Any image-to-image network as a restorer."""

from torch import Tensor, nn

from ..stage import Restorer


class Network(Restorer, name="network"):
    """A module that maps images [N, C, H, W] in [0, 1] to images of the same size; `multiple`: what the size divides by."""

    def __init__(self, network: nn.Module, multiple: int = 1) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network: expected a torch.nn.Module, got {type(network).__name__}")
        self.network, self.multiple = network, multiple

    def run(self, images: Tensor) -> Tensor:
        """The network's output."""
        restored: Tensor = self.network(images)
        return restored
