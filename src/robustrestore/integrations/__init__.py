"""Bridges to other projects, one a file; each imports its peer only when it is used."""

from . import called as called
from . import diffusers as diffusers
from . import foolbox as foolbox
from . import spandrel as spandrel
from . import torchattacks as torchattacks
