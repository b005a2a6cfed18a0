"""Centre smoothing (Kumar and Goldstein, 2021): any outputs with a distance; the centre of where most of them fall."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import bounds
from .additive import Gaussian
from .noise import Noise
from .restorer import gaussian, psnr
from .stream import ChunkSize, Model, Progress, answers, check, fingerprint, sampling

Distance = Callable[[Tensor, Tensor], Tensor]
"""`(outputs [N, ...], one [1, ...]) -> [N]`, symmetric, with the triangle inequality: a squared distance has none."""


def rmse(outputs: Tensor, other: Tensor) -> Tensor:
    """The root of the mean squared difference [N]."""
    return (outputs.double() - other.double()).flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True)
class CentreCertificate:
    """One image: the `centre`, None where abstained, and for each `eps` how far the answer moves at most.

    `eps_out[eps]`: the answer for any one image at an L2 distance of at most `eps` is at most that far from `centre`, or it
    abstains; with probability at least 1 - `alpha` over the noise at both. None where `n` is too small for that `eps`.
    """

    centre: Tensor | None
    eps_out: dict[float, float | None]
    n_pred: int
    n: int
    alpha: float
    noise: Gaussian
    model: str

    def psnr_low(self, target: Tensor, eps: float) -> float | None:
        """The certified PSNR in dB where the distance is `rmse`; None without a promise."""
        bound = self.eps_out.get(eps)
        if self.centre is None or bound is None:
            return None
        here = float(rmse(self.centre[None], target[None].to(self.centre.device)))
        return psnr(min(1.0, here + bound) ** 2)

    def statement(self, eps: float) -> str:
        """The promise in words."""
        if self.centre is None or self.eps_out.get(eps) is None:
            return "No promise: the smoothed map abstains."
        return (
            f"With probability at least 1 - {self.alpha:g} over the sampling of noise at both images: the smoothed map (centre "
            f"of base {self.model} under {self.noise!r}), asked at an image at an L2 distance of at most {eps:g}, abstains or "
            f"answers within {self.eps_out[eps]:.6g} of this centre."
        )


class CentreSmoothing:
    """`model` under Gaussian `noise`, its answer the approximate centre of the smallest ball around half of the outputs.

    Of `candidates` draws, the one whose ball with a share 1/2 + `delta` of `n_pred` fresh draws is smallest: at most twice the
    smallest there is, if one candidate lies in that. Another `n_pred` draws check that its ball holds more than 1/2 - `delta`;
    otherwise it abstains. The published Hoeffding bounds are replaced by exact binomial ones, which abstain less.
    """

    def __init__(
        self,
        model: Model,
        noise: Noise,
        distance: Distance = rmse,
        delta: float = 0.05,
        candidates: int = 30,
        chunk: int | None = None,
    ) -> None:
        if not 0 < delta < 0.5 or candidates < 1:
            raise ValueError(f"delta, candidates: expected a share in (0, 0.5) and one at least, got {delta}, {candidates}")
        self.model, self.noise, self.distance = model, gaussian(noise), distance
        self.delta, self.candidates, self.chunk = delta, candidates, chunk
        self._size = ChunkSize(chunk)

    def predict(self, images: Tensor, n_pred: int = 2000, alpha: float = 0.01, seed: int | None = None) -> list[Tensor | None]:
        """The centre for each image, None where it abstains; `alpha` as for `certify`, of which half is spent here."""
        check(self.model, self.noise, images)
        found = []
        for number, image in enumerate(images):
            with sampling(self.model, self.noise, image, self._size, seed, number) as blocks:
                found.append(self._centre(blocks, n_pred, alpha / 2))
        return found

    def certify(
        self,
        images: Tensor,
        eps: Sequence[float],
        n_pred: int = 2000,
        n: int = 10_000,
        alpha: float = 0.01,
        seed: int | None = 0,
        progress: Progress | None = None,
    ) -> list[CentreCertificate]:
        """One certificate an image: 3 R; R holds a share Phi(probit(1/2 + delta) + eps / sigma) of the outputs, by `n` draws.

        Half of `alpha` is spent on the answer at the other image, half on R. Each `eps` is a statement of its own.
        """
        check(self.model, self.noise, images)
        bounds.check_alpha(alpha)
        base, found = fingerprint(self.model), []
        for number, image in enumerate(images):
            with sampling(self.model, self.noise, image, self._size, seed, number) as blocks:
                centre = self._centre(blocks, n_pred, alpha / 2)
                out: dict[float, float | None] = dict.fromkeys(map(float, eps))
                if centre is not None:
                    far = self._distances(blocks, n, centre[None])[0].sort().values
                    out = {float(e): self._moved(far, float(e), alpha / 2) for e in eps}
            found.append(CentreCertificate(centre, out, n_pred, n, alpha, self.noise, base))
            if progress is not None:
                progress(number + 1, len(images))
        return found

    def _moved(self, far: Tensor, eps: float, alpha: float) -> float | None:
        from scipy.stats import norm

        share = float(norm.cdf(norm.ppf(0.5 + self.delta) + eps / self.noise.sigma))
        rank = bounds.ranks(len(far), 0.5, share, alpha)[1]
        return 3 * float(far[rank - 1]) if rank <= len(far) else None

    def _centre(self, blocks: Iterator[Tensor], n_pred: int, alpha: float) -> Tensor | None:
        """The centre, None where it cannot be told at this error probability."""
        outputs = torch.cat([o.clone() for o in answers(self.model, blocks, self.candidates, self._size)])
        level = (alpha - (0.5 - self.delta) ** self.candidates) / 2  # no candidate in the smallest ball; rank; share
        if level <= 0:
            raise ValueError(f"candidates: expected more than {self.candidates} for this alpha and delta")
        rank = bounds.ranks(n_pred, 0.5 + self.delta, 0.5, level)[0]
        if rank < 1:
            return None
        radii = self._distances(blocks, n_pred, outputs).sort(dim=1).values[:, rank - 1]
        best = int(radii.argmin())
        inside = int((self._distances(blocks, n_pred, outputs[best][None])[0] <= radii[best]).sum())
        return outputs[best] if float(bounds.lower(inside, n_pred, level)) > 0.5 - self.delta else None

    def _distances(self, blocks: Iterator[Tensor], n: int, centres: Tensor) -> Tensor:
        """[centres, n]."""
        parts = [torch.stack([self.distance(o, c[None]) for c in centres]) for o in answers(self.model, blocks, n, self._size)]
        found = torch.cat(parts, dim=1)
        if not bool((found >= 0).all()) or math.isinf(float(found.max())):
            raise ValueError("distance: expected finite values >= 0")
        return found
