"""Centre smoothing (Kumar and Goldstein, 2021): any outputs with a distance; the centre of where most of them fall."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..identity import of_callable
from . import bounds
from .additive import Gaussian
from .noise import Noise
from .restorer import gaussian, like, psnr, sizes
from .spread import Progress, Tally, tallies
from .stream import ChunkSize, Model, answers, check, fingerprint, sampling

Distance = Callable[[Tensor, Tensor], Tensor]
"""`(outputs [N, ...], one [1, ...]) -> [N]`, symmetric, with the triangle inequality: a squared distance has none."""


def rmse(outputs: Tensor, other: Tensor) -> Tensor:
    """The root of the mean squared difference [N]."""
    return (outputs.double() - other.double()).flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True, eq=False)
class CentreCertificate:
    """One image: the `centre`, None where abstained, and for each `eps` how far the answer moves at most.

    `eps_out[eps]`: the answer for any one image at an L2 distance of at most `eps` is at most that far from `centre` by
    `distance`, or it abstains; with probability at least 1 - `alpha` over the noise at both, if it is asked with the same
    `alpha` and other draws. None where `n` is too small for that `eps`.
    """

    centre: Tensor | None
    eps_out: dict[float, float | None]
    n0: int
    n: int
    alpha: float
    noise: Gaussian
    model: str
    distance: Distance = rmse

    def psnr_low(self, target: Tensor, eps: float) -> float | None:
        """The certified PSNR in dB, where the distance is `rmse`: TypeError for another one; None without a promise."""
        if self.distance is not rmse:
            raise TypeError(f"distance: expected certify.centre.rmse for a PSNR, got {of_callable(self.distance)}")
        bound = self.eps_out.get(eps)
        if self.centre is None or bound is None:
            return None
        return psnr((float(rmse(self.centre[None], like(target, self.centre)[None])) + bound) ** 2)

    def statement(self, eps: float) -> str:
        """The promise in words."""
        moved = self.eps_out.get(eps)
        if self.centre is None or moved is None:
            return "No promise: the smoothed map abstains."
        return (
            f"With probability at least 1 - {self.alpha:g} over the sampling of noise at both images: the smoothed map (centre "
            f"of base {self.model} under {self.noise!r}), asked with alpha {self.alpha:g} at an image at an L2 distance of at "
            f"most {bounds.written(eps)}, abstains or answers within {bounds.written(moved)} of this centre."
        )


class CentreSmoothing:
    """`model` under Gaussian `noise`, its answer the approximate centre of the smallest ball around half of the outputs.

    Of `candidates` draws, the one whose ball with a share 1/2 + `delta` of `n0` fresh draws is smallest: at most twice the
    smallest there is, if one candidate lies in that. Another `n0` draws check that its ball holds more than 1/2 - `delta`;
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

    def predict(self, images: Tensor, n0: int = 2000, alpha: float = 0.01, seed: int | None = None) -> list[Tensor | None]:
        """The centre for each image, None where it abstains; `alpha` as for `certify`, of which half is spent here.

        The draws are others than those of `certify` under the same seed.
        """
        check(self.model, self.noise, images)
        bounds.check_alpha(alpha)
        bounds.check_counts(n0=n0)
        found = []
        for number, image in enumerate(images):
            with sampling(self.model, self.noise, image, self._size, seed, f"predict {number}") as blocks:
                found.append(self._centre(blocks, n0, alpha / 2))
        return found

    def certify(
        self,
        images: Tensor,
        eps: Sequence[float],
        n0: int = 2000,
        n: int = 10_000,
        alpha: float = 0.01,
        seed: int | None = 0,
        progress: Progress | None = None,
    ) -> list[CentreCertificate]:
        """One certificate an image: 3 R; R holds a share Phi(probit(1/2 + delta) + eps / sigma) of the outputs, by `n` draws.

        Half of `alpha` is spent on the answer at the other image, half on R: `predict` is to be asked with the same `alpha`.
        Each `eps` is a statement of its own.
        """
        check(self.model, self.noise, images)
        bounds.check_alpha(alpha)
        bounds.check_counts(n0=n0, n=n)
        wanted, base, found = sizes(eps), fingerprint(self.model), []

        def count(image: Tensor, number: int) -> Tally:
            with sampling(self.model, self.noise, image, self._size, seed, str(number)) as blocks:
                centre = self._centre(blocks, n0, alpha / 2)
                if centre is None:
                    return {}
                far = self._distances(blocks, n, centre[None])[0].sort().values
                return {"centre": centre, "far": far}

        about = {"model": base, "noise": self.noise.config(), "draws": [n0, n], "alpha": alpha, "seed": seed, "eps": wanted}
        about |= {"delta": self.delta, "candidates": self.candidates, "distance": of_callable(self.distance)}
        for done in tallies(images, None, count, progress, about):
            out = {e: self._moved(done["far"], e, alpha / 2) if done else None for e in wanted}
            centre = done["centre"].to(images.device) if done else None
            found.append(CentreCertificate(centre, out, n0, n, alpha, self.noise, base, self.distance))
        return found

    def _moved(self, far: Tensor, eps: float, alpha: float) -> float | None:
        from scipy.stats import norm

        share = float(norm.cdf(norm.ppf(0.5 + self.delta) + eps / self.noise.sigma))
        rank = bounds.ranks(len(far), 0.5, share, alpha)[1]
        return 3 * float(far[rank - 1]) if rank <= len(far) else None

    def _centre(self, blocks: Iterator[Tensor], n0: int, alpha: float) -> Tensor | None:
        """The centre, None where it cannot be told at this error probability."""
        outputs = torch.cat([o.clone() for o in answers(self.model, blocks, self.candidates, self._size)])
        level = (alpha - (0.5 - self.delta) ** self.candidates) / 2  # no candidate in the smallest ball; rank; share
        if level <= 0:
            raise ValueError(f"candidates: expected more than {self.candidates} for this alpha and delta")
        rank = bounds.ranks(n0, 0.5 + self.delta, 0.5, level)[0]
        if rank < 1:
            return None
        radii = self._distances(blocks, n0, outputs).sort(dim=1).values[:, rank - 1]
        best = int(radii.argmin())
        inside = int((self._distances(blocks, n0, outputs[best][None])[0] <= radii[best]).sum())
        return outputs[best] if float(bounds.lower(inside, n0, level)) > 0.5 - self.delta else None

    def _distances(self, blocks: Iterator[Tensor], n: int, centres: Tensor) -> Tensor:
        """[centres, n]."""
        wide = self.distance is rmse  # to float64 once, not at each centre
        chunks = (o.double() if wide else o for o in answers(self.model, blocks, n, self._size))
        parts = [torch.stack([self.distance(outputs, c[None]) for c in centres]) for outputs in chunks]
        found = torch.cat(parts, dim=1)
        if not bool((found >= 0).all()) or math.isinf(float(found.max())):
            raise ValueError("distance: expected finite values >= 0")
        return found
