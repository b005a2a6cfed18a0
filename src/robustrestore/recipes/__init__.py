"""The shelf of recipes: how defences and models are trained, one paper a file."""

from .at import AdversarialTraining as AdversarialTraining
from .distill_purifier import DistillPurifier as DistillPurifier
from .plain import Plain as Plain
from .trades import Trades as Trades
