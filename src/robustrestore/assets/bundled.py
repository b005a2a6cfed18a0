"""Loading what the package carries."""

from pathlib import Path

from torch import Tensor

from ..adapt import Adapted
from ..diffusion import SigmaUNet
from ..modes import seeded
from ..weights import load_weights

FOLDER = Path(__file__).parent
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
PRIORS = {"open": "prior.safetensors", "photographs": "prior_photographs.safetensors"}
STREET_SIZE = (192, 256)
STREET_MEAN, STREET_STD = (0.41, 0.425, 0.43), (0.30, 0.31, 0.30)


def prior(name: str = "open") -> SigmaUNet:
    """A bundled denoiser, frozen, in evaluation mode: RGB, sigma 0 to 0.5, any size.

    "open" (assets/prior.md) learned from images that are free for any use. "photographs" (assets/prior_photographs.md) went on
    from it with photographs that were made public for research: the better denoiser, and no better defence. ValueError: a name
    that is neither.
    """
    if name not in PRIORS:
        raise ValueError(f"prior: expected one of {', '.join(PRIORS)}, got {name!r}")
    with seeded(0):  # initial weights are drawn, and then replaced
        denoiser = SigmaUNet()
    load_weights(denoiser.body, FOLDER / PRIORS[name])
    return denoiser.requires_grad_(False).eval()


def street_segmenter() -> Adapted:
    """The bundled street-scene segmenter (assets/street.md): 11 CamVid classes, made for images of 192 x 256 pixels.

    Trained on CamVid (CC BY-NC 4.0): for research. A segmentation-models-pytorch U-Net, which has to be installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ImportError("street_segmenter needs segmentation-models-pytorch: pip install 'robustrestore[models]'") from error
    with seeded(0):  # initial weights are drawn, and then replaced
        network = smp.Unet("tu-regnetx_002", encoder_weights=None, classes=11, decoder_channels=(128, 96, 64, 32, 16))
    load_weights(network, FOLDER / "street.safetensors")
    return Adapted(network.requires_grad_(False).eval(), STREET_MEAN, STREET_STD, multiple=32).eval()


def photographs() -> dict[str, Tensor]:
    """Four photographs [1, 3, 192, 256] in [0, 1], public domain or CC0 (assets/photographs.md); no bundled weight saw them."""
    from ..data.image_file import load_image

    return {name: load_image(FOLDER / "photographs" / f"{name}.png")[None] for name in PHOTOGRAPHS}
