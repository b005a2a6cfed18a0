"""Bridges to other projects, one a file; each imports its peer only when it is used."""

from . import diffusers as diffusers
from . import spandrel as spandrel
