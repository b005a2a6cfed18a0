"""Bit-depth reduction (feature squeezing of Xu, Evans and Qi, 2018)."""

from torch import Tensor

from ..arguments import whole
from ..images import straight_through
from ..stage import Purifier


class BitDepth(Purifier, name="bit_depth"):
    """Round to 2^bits grey levels (Xu, Evans and Qi, 2018).

    Rounding has no useful derivative: backward it counts as the identity, so an adaptive attack is never blinded.
    """

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.bits = whole(bits, "bits", most=16)

    def run(self, images: Tensor) -> Tensor:
        """Round on the grid 0, 1/(2^bits - 1), ..., 1."""
        top = 2**self.bits - 1
        return straight_through((images * top).round() / top, images)
