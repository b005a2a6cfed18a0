"""The shelf of restorers: stages that take degradation out."""

from .fourier_unet import FourierUNet as FourierUNet
from .nafnet import NAFNet as NAFNet
from .network import Network as Network
from .prenet import PRN as PRN
from .prenet import PReNet as PReNet
from .prenet import PReNetR as PReNetR
from .unet import UNet as UNet
