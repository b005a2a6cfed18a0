"""The shelf of attacks, one paper a file."""

from .ama import AMA as AMA
from .fgsm import FGSM as FGSM
from .pgd import PGD as PGD
