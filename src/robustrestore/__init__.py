"""Defences for PyTorch image models, measured against attackers who know them."""

from . import assets as assets
from . import attacks as attacks
from . import checks as checks
from . import data as data
from . import degradations as degradations
from . import diffusion as diffusion
from . import images as images
from . import integrations as integrations
from . import losses as losses
from . import metrics as metrics
from . import purifiers as purifiers
from . import restorers as restorers
from . import tasks as tasks
from .adapt import Adapted as Adapted
from .adversarial_set import AdversarialSet as AdversarialSet
from .adversarial_set import craft as craft
from .attack import Attack as Attack
from .component import Component as Component
from .counting import Counted as Counted
from .degradation import Degradation as Degradation
from .diffusion import Denoiser as Denoiser
from .diffusion import Sampler as Sampler
from .evaluate import VIEWS as VIEWS
from .evaluate import evaluate as evaluate
from .loss import ClassLoss as ClassLoss
from .loss import Loss as Loss
from .modes import evaluating as evaluating
from .modes import seeded as seeded
from .pipeline import DefendedPipeline as DefendedPipeline
from .report import Report as Report
from .score import score as score
from .stage import Purifier as Purifier
from .stage import Restorer as Restorer
from .stage import Stage as Stage
from .task import Objective as Objective
from .task import Task as Task
from .threat import L2 as L2
from .threat import Linf as Linf
from .threat import NormalisedLinf as NormalisedLinf
from .threat import Threat as Threat

__version__ = "0.1.0"
