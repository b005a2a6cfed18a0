"""What a model tells of the images that it was trained on: membership inference, measured by attacks. No guarantee."""

from .attacks import Confidence as Confidence
from .attacks import Entropy as Entropy
from .attacks import Gap as Gap
from .attacks import MembershipAttack as MembershipAttack
from .attacks import ModifiedEntropy as ModifiedEntropy
from .attacks import NoiseDistance as NoiseDistance
from .attacks import Pool as Pool
from .lira import LiRA as LiRA
from .lira import Shadow as Shadow
from .lira import train_shadows as train_shadows
from .membership import VoteScores as VoteScores
from .membership import membership as membership
from .report import MembershipReport as MembershipReport
