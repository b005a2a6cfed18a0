"""Fields: what a data set for training yields, by name."""

from typing import TypedDict

from torch import Tensor


class Fields(TypedDict):
    """One image as a defence meets it, what it should lead to, and the image without degradation.

    `images` and `clean` are float32 [3, H, W] in [0, 1]; `target` is what the task wants: the clean image, a label map int64
    [H, W] or a label. PyTorch's own collate function stacks them, and `Batch.of` takes the result.
    """

    images: Tensor
    target: Tensor
    clean: Tensor
