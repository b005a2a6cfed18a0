"""The shelf of recipes: how defences and models are trained, one paper a file."""

from .at import AdversarialTraining as AdversarialTraining
from .distill import Distill as Distill
from .distill_purifier import DistillPurifier as DistillPurifier
from .goals import CleanGoal as CleanGoal
from .goals import Goal as Goal
from .goals import MirrorBatch as MirrorBatch
from .goals import MirrorGoal as MirrorGoal
from .goals import MirrorInput as MirrorInput
from .nat import NAT as NAT
from .pearl import PEARL as PEARL
from .plain import Plain as Plain
from .purify_finetune import PurifyFinetune as PurifyFinetune
from .recommended import Recommended as Recommended
from .trades import Trades as Trades
