"""The small weights and photographs that the package carries; a model card stands beside each."""

from .bundled import FOLDER as FOLDER
from .bundled import STREET_SIZE as STREET_SIZE
from .bundled import photographs as photographs
from .bundled import prior as prior
from .bundled import street_segmenter as street_segmenter
