"""The shelf of restorers: stages that take degradation out."""

from .network import Network as Network
from .unet import UNet as UNet
