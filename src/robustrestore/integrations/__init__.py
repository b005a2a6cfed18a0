"""Bridges to other projects, one a file; each imports its peer only when it is used."""

from . import called as called
from . import diffusers as diffusers
from . import edm as edm
from . import foolbox as foolbox
from . import gaussian as gaussian
from . import guided_diffusion as guided_diffusion
from . import kdiffusion as kdiffusion
from . import spandrel as spandrel
from . import torchattacks as torchattacks
