"""Certificates by randomised smoothing: what a model averaged over noise can be promised to answer. Knows no attack."""

from . import bounds as bounds
from .additive import Gaussian as Gaussian
from .additive import GeneralisedNormal as GeneralisedNormal
from .additive import HyperbolicSecant as HyperbolicSecant
from .additive import Laplace as Laplace
from .additive import Uniform as Uniform
from .centre import CentreCertificate as CentreCertificate
from .centre import CentreSmoothing as CentreSmoothing
from .certificate import Certificate as Certificate
from .classifier import Looks as Looks
from .classifier import Prediction as Prediction
from .classifier import SmoothedClassifier as SmoothedClassifier
from .gridded import Gridded as Gridded
from .hierarchy import Hierarchy as Hierarchy
from .noise import NORMS as NORMS
from .noise import Noise as Noise
from .noise import Norm as Norm
from .restorer import IntervalCertificate as IntervalCertificate
from .restorer import SmoothedRestorer as SmoothedRestorer
from .segmenter import SegmentationCertificate as SegmentationCertificate
from .segmenter import SmoothedSegmenter as SmoothedSegmenter
from .splitting import DSSN as DSSN
from .splitting import SSN as SSN
