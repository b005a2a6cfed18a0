"""SmoothedRestorer: the median or mean image of a restorer under Gaussian noise, with an interval for every value."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import bounds
from .additive import Gaussian
from .noise import Noise
from .spread import Progress, Tally, tallies
from .stream import ChunkSize, Model, answers, check, fingerprint, kept, sampling

BINS = 64
Interval = tuple[Tensor, Tensor, Tensor]
Bound = Callable[[Tally, float, int, float], Interval]


@dataclass(frozen=True, eq=False)
class IntervalCertificate:
    """One restored image: `middle`, the estimate of the smoothed image, and where each value stays, [C, H, W], on the CPU.

    `middle` is an estimate from finitely many draws (of the median: the middle of one of 64 bins), and no bound is on it.
    `low`, `high`: for every image at an L2 distance of at most `eps`, each value of the ideal smoothed map (that of infinitely
    many draws) lies between them; all of them at once with probability at least 1 - `alpha` over the noise.
    """

    what: str
    middle: Tensor
    low: Tensor
    high: Tensor
    eps: float
    n: int
    alpha: float
    noise: Gaussian
    model: str

    def psnr_low(self, target: Tensor) -> float:
        """The certified PSNR in dB against `target` [C, H, W]: no image within `eps` makes the ideal smoothed map worse."""
        wanted = like(target, self.low)
        far = torch.maximum((self.low.double() - wanted).abs(), (self.high.double() - wanted).abs())
        return psnr(float(far.square().mean()))

    def psnr(self, target: Tensor) -> float:
        """The PSNR of `middle`, without attack."""
        return psnr(float((self.middle.double() - like(target, self.middle)).square().mean()))

    def statement(self) -> str:
        """The promise in words."""
        values = self.low.numel()
        return (
            f"With probability at least 1 - {self.alpha:g} over the sampling of noise, jointly for all {values} values: "
            f"the ideal smoothed map (the {self.what} of base {self.model} under {self.noise!r}) stays in these intervals for "
            f"every image at an L2 distance of at most {bounds.written(self.eps)}; mean width "
            f"{float((self.high - self.low).mean()):.4g}. A "
            "mean or median of finitely many draws differs from it by its own sampling error."
        )


def like(target: Tensor, image: Tensor) -> Tensor:
    """The target in float64 beside the image; ValueError where it is of another shape."""
    if target.shape != image.shape:
        raise ValueError(f"target: expected the shape {list(image.shape)} of the restored image, got {list(target.shape)}")
    return target.double().to(image.device)


def sizes(eps: Sequence[float]) -> list[float]:
    """The sizes as numbers; ValueError unless there is one or more, all finite and >= 0."""
    given = list(eps) if isinstance(eps, Sequence) and not isinstance(eps, str) else []
    if not given or not all(isinstance(e, int | float) and 0 <= e < math.inf for e in given):
        raise ValueError(f"eps: expected a list of L2 sizes >= 0 such as [0.05], got {eps!r}")
    return [float(e) for e in given]


def psnr(error: float) -> float:
    """In dB, of a mean squared error of values in [0, 1]."""
    return 10 * math.log10(1 / error) if error > 0 else math.inf


class SmoothedRestorer:
    """`model` under Gaussian `noise`, for any callable from images to images [N, C, H, W]; outputs are cut to [0, 1].

    What is certified is this object's map, not the model's. Radii are L2, in units of [0, 1] images.
    """

    def __init__(self, model: Model, noise: Noise, chunk: int | None = None) -> None:
        self.model, self.noise, self.chunk = model, gaussian(noise), chunk
        self._size = ChunkSize(chunk)

    def __repr__(self) -> str:
        return f"SmoothedRestorer({type(self.model).__name__}, {self.noise!r})"

    def median(
        self,
        images: Tensor,
        eps: Sequence[float],
        n: int = 1000,
        alpha: float = 0.001,
        pilot: int = 50,
        seed: int | None = 0,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[list[IntervalCertificate]]:
        """For each image one certificate an `eps`: median smoothing (Chiang et al., 2020), joint over the values.

        `pilot` draws set 64 bins for each value, `n` fresh ones are counted in them; the order statistics that bound the
        quantiles Phi(-eps / sigma) and Phi(eps / sigma) are rounded outward to the edges of bins. Memory does not grow with
        `n`: some 400 bytes for each value of an image, beside the chunk. Each `eps` is a statement of its own. Where a rank
        falls outside 1..n the bound is 0 or 1.
        """
        wanted = {"eps": sizes(eps), "alpha": alpha, "n": n}
        return self._certified(self.counts(images, n, pilot, seed, folder, progress), "median", wanted, median_bounds)

    def counts(
        self,
        images: Tensor,
        n: int = 1000,
        pilot: int = 50,
        seed: int | None = 0,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Tally]:
        """All that is random of `median`, for each image: `intervals` makes the bounds for any `eps` and `alpha` of it.

        `counts` [66, C, H, W]: how many of the n draws fell into each bin, the first and the last being all below and above;
        the others lie from `start` by `width`.
        """
        bounds.check_counts(2, n=n, pilot=pilot)

        def tally(blocks: Iterator[Tensor]) -> Tally:
            return self._histogram(blocks, pilot, n)

        return self._counted(images, {"what": "median", "n": n, "pilot": pilot, "seed": seed}, tally, folder, progress)

    def mean(
        self,
        images: Tensor,
        eps: Sequence[float],
        n: int = 1000,
        alpha: float = 0.001,
        seed: int | None = 0,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> list[list[IntervalCertificate]]:
        """The same for the mean image. Three bounds hold at once, and the best of them counts for each value.

        With mu the expectation, bounded by Bernstein's inequality with a bounded deviation (Maurer and Pontil, 2009):
        Phi(probit(mu) -/+ eps / sigma), which is Cohen's argument for a function to [0, 1]; mu -/+ (2 Phi(eps / 2 sigma) - 1),
        the total variation; and mu -/+ deviation * sqrt(exp(eps^2 / sigma^2) - 1), by Cauchy and Schwarz. The median's are
        mostly narrower.
        """

        bounds.check_counts(2, n=n)

        def tally(blocks: Iterator[Tensor]) -> Tally:
            return self._moments(blocks, n)

        wanted = {"eps": sizes(eps), "alpha": alpha, "n": n}
        drawn = {"what": "mean", "n": n, "seed": seed}
        return self._certified(self._counted(images, drawn, tally, folder, progress), "mean", wanted, _mean_bounds)

    def _counted(
        self,
        images: Tensor,
        about: dict[str, Any],
        tally: Callable[[Iterator[Tensor]], Tally],
        folder: str | Path | None,
        progress: Progress | None,
    ) -> Iterator[Tally]:
        """What was counted for each image, over all processes."""
        check(self.model, self.noise, images)
        about = {**about, "model": fingerprint(self.model), "noise": self.noise.config()}

        def count(image: Tensor, number: int) -> Tally:
            with sampling(self.model, self.noise, image, self._size, about["seed"], str(number)) as blocks:
                return tally(blocks)

        return tallies(images, kept(folder, self.model, about), count, progress, about)

    def _certified(
        self, counted: Iterator[Tally], what: str, wanted: dict[str, Any], bound: Bound
    ) -> list[list[IntervalCertificate]]:
        bounds.check_alpha(wanted["alpha"])
        eps, n, alpha, base = wanted["eps"], wanted["n"], wanted["alpha"], fingerprint(self.model)
        found = []
        for done in counted:
            known = ((size, intervals(done, size / self.noise.sigma, n, alpha, bound)) for size in eps)
            found.append([IntervalCertificate(what, *three, size, n, alpha, self.noise, base) for size, three in known])
        return found

    def _outputs(self, blocks: Iterator[Tensor], count: int) -> Iterator[Tensor]:
        for outputs in answers(self.model, blocks, count, self._size):
            if outputs.dim() != 4 or bool(outputs.isnan().any()):
                raise ValueError(f"model: expected images [N, C, H, W] without NaN, got {list(outputs.shape)}")
            yield outputs.float().clamp(0, 1)

    def _histogram(self, blocks: Iterator[Tensor], pilot: int, n: int) -> Tally:
        """Counts [BINS + 2, C, H, W] of each value in its bins, which lie from `start` by `width`; whole numbers of 16 bits.

        Of 32 bits where n does not fit.
        """
        low: Tensor | None = None
        high = torch.empty(0)
        for outputs in self._outputs(blocks, pilot):
            least, most = outputs.amin(0), outputs.amax(0)
            low, high = (least, most) if low is None else (torch.minimum(low, least), torch.maximum(high, most))
        if low is None:
            raise ValueError("images: expected at least one value")
        room = (high - low) / 4 + 1e-3
        start, width = low - room, (high - low + 2 * room) / BINS
        counts = torch.zeros(BINS + 2, *low.shape, dtype=torch.int32, device=low.device)
        for outputs in self._outputs(blocks, n):
            for some in torch.split(outputs, 4):  # the places are int64, so a few images at a time
                bins = ((some - start) / width).floor_().clamp_(-1, BINS).long() + 1
                counts.scatter_add_(0, bins, torch.ones_like(bins, dtype=torch.int32))
        small = n <= torch.iinfo(torch.int16).max
        return {"counts": counts.to(torch.int16) if small else counts, "start": start, "width": width}

    def _moments(self, blocks: Iterator[Tensor], n: int) -> Tally:
        """Mean and unbiased variance of each value, in float64, around the first output so that nothing cancels."""
        first: Tensor | None = None
        total, squares = torch.empty(0), torch.empty(0)
        for outputs in self._outputs(blocks, n):
            if first is None:
                first = outputs[0].double()
                total, squares = torch.zeros_like(first), torch.zeros_like(first)
            off = outputs.double() - first
            total, squares = total + off.sum(0), squares + off.square().sum(0)
        if first is None:
            raise ValueError("images: expected at least one value")
        return {"mean": first + total / n, "variance": ((squares - total.square() / n) / (n - 1)).clamp(min=0)}


def gaussian(noise: Noise) -> Gaussian:
    """`noise` if it is Gaussian, as the bounds of images need; TypeError otherwise."""
    if not isinstance(noise, Gaussian):
        raise TypeError(f"noise: expected certify.Gaussian, the one whose bounds for images are known here, got {noise!r}")
    return noise


def intervals(counted: Tally, shift: float, n: int, alpha: float, bound: Bound) -> Interval:
    """(middle, low, high) for a change of `shift` = eps / sigma, as float32 rounded outward."""
    middle, low, high = bound(counted, shift, n, alpha)
    low, high = (low.clamp(0, 1) - 1e-6).clamp(min=0), (high.clamp(0, 1) + 1e-6).clamp(max=1)
    return middle.float(), low.float(), high.float()


def check_counted(counted: Tally, n: int) -> None:
    """ValueError unless these are whole counts of n draws for each value, in bins of its own: files are not believed."""
    counts, start, width = counted["counts"], counted["start"], counted["width"]
    if not (counts.shape[1:] == start.shape == width.shape and len(counts) == BINS + 2):
        got = ", ".join(f"{name} {list(counted[name].shape)}" for name in ("counts", "start", "width"))
        raise ValueError(f"counts: expected {BINS + 2} bins for each value, with a start and a width of its own, got {got}")
    if not (bool(start.isfinite().all()) and bool(width.isfinite().all()) and bool((width > 0).all())):
        raise ValueError("counts: expected bins with a finite start and a finite width > 0, got others")
    whole = counts.dtype in (torch.int16, torch.int32, torch.int64)
    if not (whole and bool((counts >= 0).all()) and bool((counts.sum(0, dtype=torch.int64) == n).all())):
        raise ValueError(f"counts: expected {n} draws for each value, as whole numbers >= 0, got others")


def _phi(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def median_bounds(counted: Tally, shift: float, n: int, alpha: float) -> Interval:
    """The edges of the bins that hold the order statistics; a sample may sit one rounding error outside its bin."""
    check_counted(counted, n)
    start, width = counted["start"].double(), counted["width"].double()
    total = counted["counts"].cumsum(0, dtype=torch.int32)
    below, above = bounds.ranks(n, _phi(-shift), _phi(shift), alpha / (2 * counted["counts"][0].numel()))
    slip = 1e-5 * width + 1e-6

    def bin_of(rank: int) -> Tensor:
        return (total < rank).sum(0)

    first, last, middle = bin_of(below), bin_of(above), bin_of((n + 1) // 2)
    low = torch.where(first == 0, 0.0, start + (first - 1) * width - slip)
    high = torch.where(last == BINS + 1, 1.0, start + last * width + slip)
    low = low if below > 0 else torch.zeros_like(low)
    high = high if above <= n else torch.ones_like(high)
    return (start + (middle - 0.5) * width).clamp(0, 1), low, high


def _mean_bounds(counted: Tally, shift: float, n: int, alpha: float) -> Interval:
    """The best of three, all under one event."""
    mean, variance = counted["mean"], counted["variance"]
    if mean.shape != variance.shape or not bool((mean.isfinite() & variance.isfinite() & (variance >= 0)).all()):
        raise ValueError("moments: expected a finite mean and a variance >= 0 for each value, got others")
    half, deviation = (torch.from_numpy(x).to(mean) for x in bounds.bernstein(variance.cpu().numpy(), n, alpha / mean.numel()))
    low, high = (mean - half).clamp(0, 1), (mean + half).clamp(0, 1)
    total = torch.full_like(mean, 2 * _phi(shift / 2) - 1)
    moved = torch.minimum(deviation * math.sqrt(math.expm1(min(shift, 20.0) ** 2)), total)
    least = torch.maximum(low - moved, torch.special.ndtr(torch.special.ndtri(low) - shift))
    most = torch.minimum(high + moved, torch.special.ndtr(torch.special.ndtri(high) + shift))
    return mean, least, most
