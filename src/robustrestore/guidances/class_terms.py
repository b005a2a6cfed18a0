"""Which class a class term of guidance stands for: the paper behind AGDM leaves that open to us."""

from abc import abstractmethod

from torch import Tensor

from ..component import Component


class ClassTerm(Component, kind="class_terms"):
    """log p(y | x) of a network's scores for some y. Plug-ins write `run`.

    Scores [N, C] of a classifier or [N, C, H, W] of a segmenter, whose pixels are independent given the image.
    """

    @abstractmethod
    def run(self, scores: Tensor, given: Tensor) -> Tensor:
        """One value an image [N]; `scores` of the noisy image, `given` of the input."""


class LabelOfInput(ClassTerm, name="label_of_input"):
    """The class that the network gives the input: our default for AGDM (Lin et al., 2024)."""

    def run(self, scores: Tensor, given: Tensor) -> Tensor:
        """The log-probability of the input's class, summed over pixels."""
        return _summed(scores.log_softmax(1).gather(1, given.argmax(1, keepdim=True)))


class LabelOfNoisy(ClassTerm, name="label_of_noisy"):
    """The class that the network gives the noisy image itself: maximal confidence, near COUP's guidance (2024)."""

    def run(self, scores: Tensor, given: Tensor) -> Tensor:
        """The log-probability of the likeliest class, summed over pixels."""
        return _summed(scores.log_softmax(1).amax(1))


class AnyLabel(ClassTerm, name="any_label"):
    """No class in particular: log-sum-exp of the scores, the density of JEM (Grathwohl et al., 2020)."""

    def run(self, scores: Tensor, given: Tensor) -> Tensor:
        """The log-sum-exp, summed over pixels."""
        return _summed(scores.logsumexp(1))


def _summed(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)
