"""The shelf of losses that an attack may climb in place of the task's own."""

from .balanced import BalancedCrossEntropy as BalancedCrossEntropy
from .clean_output import CleanOutput as CleanOutput
from .cosine import CosineWeighted as CosineWeighted
from .dissimilarity import Dissimilarity as Dissimilarity
from .divergence import Divergence as Divergence
from .divergence import divergence as divergence
from .dlr import DLR as DLR
from .dlr import TargetedDLR as TargetedDLR
from .jensen_shannon import JensenShannon as JensenShannon
from .l1 import L1 as L1
from .margin import Margin as Margin
from .masked import MaskedCrossEntropy as MaskedCrossEntropy
from .perceptual import Perceptual as Perceptual
from .region import DegradedRegion as DegradedRegion
from .region import IntactRegion as IntactRegion
from .seg_pgd import SegPGDWeighted as SegPGDWeighted
from .undo import Undo as Undo
