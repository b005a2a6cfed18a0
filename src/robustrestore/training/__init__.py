"""Training: a plan, the images in their order, checkpoints, validation, and `fit` that runs a recipe on them."""

from .finetune import finetune as finetune
from .fit import fit as fit
from .history import History as History
from .plan import SGD as SGD
from .plan import AdamW as AdamW
from .plan import Optimiser as Optimiser
from .plan import Plan as Plan
from .validation import Validation as Validation
