"""The shelf of tasks."""

from .classification import Classification as Classification
from .restoration import Restoration as Restoration
from .segmentation import Segmentation as Segmentation
