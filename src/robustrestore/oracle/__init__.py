"""Models seen by queries alone: asked, counted, paid for once; what their answers are, and how a surrogate is held to them."""

from .encoding import NPY as NPY
from .encoding import PNG as PNG
from .encoding import Encoding as Encoding
from .encoding import JSONPath as JSONPath
from .encoding import JSONPngs as JSONPngs
from .encoding import JSONValues as JSONValues
from .encoding import npy_answers as npy_answers
from .endpoint import Endpoint as Endpoint
from .endpoint import Patience as Patience
from .endpoint import Unanswered as Unanswered
from .gap import CentredL1Gap as CentredL1Gap
from .gap import Gap as Gap
from .gap import KLGap as KLGap
from .gap import L1Gap as L1Gap
from .gap import LabelGap as LabelGap
from .ledger import Change as Change
from .ledger import OverBudget as OverBudget
from .queried import Queried as Queried
from .queried import Source as Source
from .tier import Images as Images
from .tier import Labels as Labels
from .tier import Logits as Logits
from .tier import Probabilities as Probabilities
from .tier import Tier as Tier
from .votes import Votes as Votes
