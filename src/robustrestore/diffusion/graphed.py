"""Graphed: a denoiser whose calls are recorded once as a CUDA graph and then replayed."""

from typing import Any

import torch
from torch import Tensor

from ..replicas import is_replica
from .denoiser import Denoiser
from .faster import Faster, wants_gradient


class Graphed(Faster, name="graphed"):
    """By a CUDA graph for each size of batch, which saves the launches of kernels: much where images are small. Same answers.

    Each graph keeps the memory of its call. Where a gradient is asked for, in training mode, in a replica of DataParallel,
    under autocast from outside and inside another capture the denoiser is run as it is. Put it outermost. ValueError on other
    devices than CUDA.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.__dict__["_graphs"] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: no graph, for those are about these weights."""
        return {**super().__getstate__(), "_graphs": {}}  # type: ignore[no-untyped-call]

    def _apply(self, *args: Any, **kwargs: Any) -> "Graphed":
        """Moved or cast, the weights lie elsewhere: what was recorded is void."""
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.__dict__["_graphs"] = {}
        return self

    def run(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The estimate by replay, after three calls and a recording the first time."""
        if noisy.device.type != "cuda":
            raise ValueError(
                f"Graphed: expected images on a CUDA device, got them on {noisy.device.type}: leave Graphed out, "
                "or move the part and the images with .to('cuda')"
            )
        plain = self.training or torch.is_autocast_enabled("cuda") or torch.cuda.is_current_stream_capturing()
        if plain or is_replica(self) or wants_gradient(self, noisy):
            return self.plainly(noisy, sigma)
        graphs, key = self.__dict__["_graphs"], (noisy.shape, noisy.dtype, noisy.device)
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(noisy.device):
            if key not in graphs:
                graphs[key] = self._recorded(noisy, sigma)
            graph, shown, told, estimate = graphs[key]
            shown.copy_(noisy)
            told.copy_(sigma)
            graph.replay()
            found: Tensor = estimate.clone()
        return found

    def _recorded(self, noisy: Tensor, sigma: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        """A graph, what it reads and what it writes; libraries set themselves up and compilers run before the recording."""
        shown, told = noisy.clone(), sigma.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.plainly(shown, told)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            estimate = self.plainly(shown, told)
        return graph, shown, told, estimate
