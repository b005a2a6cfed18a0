"""Several runs of one stage follow it: its tensors, modules, mode and settings, however and whenever they change."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from timeit import repeat

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, photos
from toys_diffusion import Convolved
from toys_replica import replica

import robustrestore as rr
from robustrestore import diffusion, guidances
from robustrestore.adversarial_set import identity_of
from robustrestore.purifiers import Blur, Diffusion, Ensemble, Rounds
from robustrestore.runs import spawn

IMAGES = photos(2, 6, 6)


class Drawn(rr.Purifier):
    """images + scale * draw(seed) + shift, and 0.01 more while training: all that a stage can hold."""

    def __init__(self, seed: int = 0, more: float = 0.0) -> None:
        super().__init__()
        self.seed, self.more = seed, more
        self.scale = nn.Parameter(torch.tensor(0.05))
        self.register_buffer("shift", torch.tensor(0.02))
        self.register_buffer("draw", torch.rand((), generator=torch.Generator().manual_seed(seed)), persistent=False)

    def run(self, images: Tensor) -> Tensor:
        assert self.draw.dtype == self.scale.dtype == self.shift.dtype
        return images + self.scale * self.draw + self.shift + 0.01 * self.training + self.more


class Shown(nn.Module):
    """Class scores that tell the image's mean."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.mean((1, 2, 3))
        return torch.stack([score, -score], 1)


def _ensemble(stage: rr.Stage) -> nn.Module:
    return Ensemble(stage, 3)


def _pipeline(stage: rr.Stage) -> nn.Module:
    return rr.DefendedPipeline(Shown(), [stage], rr.MeanVote(3))


def _nested(stage: rr.Stage) -> nn.Module:
    return rr.DefendedPipeline(Shown(), [Ensemble(stage, 2)], rr.MeanVote(2))


def _seeds(seed: int) -> dict[Callable[[rr.Stage], nn.Module], list[list[int]]]:
    """The seeds of the runs that are averaged, and those of the runs that vote."""
    return {
        _ensemble: [[spawn(seed, f"run {k}") for k in range(3)]],
        _pipeline: [[seed], [spawn(seed, "vote 0")], [spawn(seed, "vote 1")]],
        _nested: [[spawn(one, f"run {k}") for k in range(2)] for one in (seed, spawn(seed, "vote 0"))],
    }


def _wanted(make: Callable, images: Tensor, scale: float, shift: float, seed: int = 0) -> Tensor:
    answers = []
    for seeds in _seeds(seed)[make]:
        draws = [float(torch.rand((), generator=torch.Generator().manual_seed(one))) for one in seeds]
        answers.append(images + scale * sum(draws) / len(draws) + shift)
    return answers[0] if make is _ensemble else rr.MeanVote(len(answers))([Shown()(one) for one in answers])


def _check(
    make: Callable, part: nn.Module, scale: float = 0.05, shift: float = 0.02, seed: int = 0, images: Tensor = IMAGES
) -> None:
    torch.testing.assert_close(part(images), _wanted(make, images, scale, shift, seed), atol=1e-6, rtol=0)


def _stage(part: nn.Module) -> Drawn:
    return next(one for one in part.modules() if isinstance(one, Drawn))


@pytest.fixture(params=[_ensemble, _pipeline, _nested], ids=["ensemble", "vote", "vote on ensembles"])
def make(request: pytest.FixtureRequest) -> Callable:
    return request.param


@pytest.fixture
def part(make: Callable) -> nn.Module:
    made = make(Drawn().eval()).eval()
    _check(make, made)
    return made


def _state(part: nn.Module) -> dict[str, Tensor]:
    values = {"scale": 0.08, "shift": -0.03}
    return {name: torch.tensor(values[name.split(".")[-1]]) for name in part.state_dict()}


def test_moved_and_cast(make: Callable, part: nn.Module) -> None:
    _check(make, part.double(), images=IMAGES.double())
    _check(make, part.float().to(torch.float64).to(torch.float32))
    _stage(part).double()  # behind the back of what holds it
    _check(make, part, images=IMAGES.double())


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_states(make: Callable, part: nn.Module, assign: bool) -> None:
    part.load_state_dict(_state(part), assign=assign)
    _check(make, part, 0.08, -0.03)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))], ids=["deepcopy", "pickle"])
def test_copies(make: Callable, part: nn.Module, how: Callable) -> None:
    other = how(part)
    with torch.no_grad():
        _stage(other).scale.fill_(0.08)
        _stage(other).shift.fill_(-0.03)
    _check(make, other, 0.08, -0.03)
    _check(make, part)


def test_torch_save(make: Callable, part: nn.Module) -> None:
    file = io.BytesIO()
    torch.save(part, file)
    file.seek(0)
    _check(make, torch.load(file, weights_only=False))


def test_replicas_of_data_parallel(make: Callable, part: nn.Module) -> None:
    other = replica(part)
    with torch.no_grad():
        _stage(part).scale.fill_(7.0)  # what is not the replica's must not be looked at
        _stage(part).shift.fill_(7.0)
    _check(make, other)
    other = replica(part)
    leaf = _stage(part).scale
    (found,) = torch.autograd.grad(other(IMAGES)[:, 0].sum(), leaf)
    (wanted,) = torch.autograd.grad(part(IMAGES)[:, 0].sum(), leaf)
    assert torch.equal(found, wanted)


def test_functional_call(make: Callable, part: nn.Module) -> None:
    found = torch.func.functional_call(part, _state(part), (IMAGES,))
    torch.testing.assert_close(found, _wanted(make, IMAGES, 0.08, -0.03), atol=1e-6, rtol=0)
    _check(make, part)


def test_modes(make: Callable, part: nn.Module) -> None:
    _check(make, part.train(), shift=0.03)
    with rr.evaluating(part):
        _check(make, part)
    _check(make, part, shift=0.03)


def test_settings_changed_in_place_and_replaced(make: Callable, part: nn.Module) -> None:
    stage = _stage(part)
    stage.more = 0.04
    _check(make, part, shift=0.06)
    stage.more = 0.0
    other = stage.replace(seed=5).eval()
    holder = next(one for one in part.modules() if any(child is stage for child in one.children()))
    name = next(name for name, child in holder.named_children() if child is stage)
    setattr(holder, name, other)
    _check(make, part, seed=5)
    if make is _ensemble:
        _check(make, part.replace(purifier=stage))


def test_runs_have_no_names_of_their_own(part: nn.Module) -> None:
    assert sum(isinstance(one, Drawn) for one in part.modules()) == 1
    assert len(list(part.parameters())) == len(list(part.buffers())) // 2 == 1


def _guided(seed: int) -> guidances.PixelGuidance:
    return guidances.PixelGuidance(20.0, reference=guidances.Renoised(seed))


def test_each_run_has_a_guidance_with_a_seed_of_its_own() -> None:
    one = Diffusion(Convolved(), 0.1, 2, seed=3, guidance=_guided(4))

    def run(text: str) -> Diffusion:
        return one.replace(seed=spawn(3, text), guidance=_guided(spawn(4, text)))

    wanted = (run("run 0")(IMAGES) + run("run 1")(IMAGES)) / 2
    torch.testing.assert_close(Ensemble(one, 2)(IMAGES), wanted, atol=1e-6, rtol=0)
    vote = rr.DefendedPipeline(Linear2(), [one], rr.MeanVote(2))
    torch.testing.assert_close(vote(IMAGES), rr.MeanVote(2)([Linear2()(part(IMAGES)) for part in (one, run("vote 0"))]))
    rounds, second = Rounds(one, [[0.1, 2], [0.2, 3]]), run("round 1").replace(sigma=0.2, steps=3)
    assert torch.equal(rounds(IMAGES), second.run(one.run(IMAGES)).clamp(0, 1))
    assert one.guidance.reference.seed == 4


def test_a_guidance_is_reached_at_any_depth_and_what_has_no_seed_is_shared() -> None:
    net = Convolved()
    inner = guidances.AGDM(nn.Conv2d(3, 4, 3), reference=guidances.Denoised(net, seed=4))
    one = Diffusion(net, 0.1, seed=None, guidance=guidances.OnEstimate(inner))
    found = rr.runs.reseeded(one, "x")
    assert found.seed is None
    assert found.guidance.guidance.reference.seed == spawn(4, "x")
    assert found.guidance.guidance.reference.denoiser is found.denoiser is net
    assert found.guidance.guidance.network is inner.network
    plain = Diffusion(net, seed=None, guidance=guidances.PixelGuidance())
    assert rr.runs.reseeded(plain, "x") is plain


def test_rounds_follow_their_purifier() -> None:
    net, pairs = Convolved(), [[0.05, 1], [0.1, 2]]
    rounds = Rounds(Diffusion(net, guidance=_guided(4)), pairs)

    def wanted(net: nn.Module) -> Tensor:
        return Rounds(Diffusion(net, guidance=_guided(4)), pairs)(IMAGES)

    first = rounds(IMAGES)
    other, twin = Convolved(), copy.deepcopy(rounds)
    with torch.no_grad():
        for weight in (*other.parameters(), *twin.parameters()):
            weight.mul_(1.5)
    assert torch.equal(rounds(IMAGES), first)
    assert torch.equal(twin(IMAGES), wanted(other))
    copied = replica(twin)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(0.0)
    assert torch.equal(copied(IMAGES), wanted(other))
    rounds.purifier.denoiser = other
    rounds.purifier.sigma = 0.7  # not used
    assert torch.equal(rounds(IMAGES), wanted(other))
    assert rounds.double()(IMAGES.double()).dtype == torch.float64


WAYS = [[], ["ChannelsLast"], ["ChannelsLast", "BFloat16"], ["Compiled"], ["BFloat16", "Compiled"]]


@pytest.mark.parametrize("ways", WAYS, ids=str)
def test_denoisers_in_replicas(ways: list[str]) -> None:
    part = rr.optimise(Diffusion(Convolved(), steps=2), [getattr(diffusion, way) for way in ways])
    if "Compiled" in ways:
        part.denoiser.backend = "eager"
    first, other, leaf = part(IMAGES), replica(part), next(part.parameters())
    (gradient,) = torch.autograd.grad(other(IMAGES).square().sum(), leaf)
    (wanted,) = torch.autograd.grad(part(IMAGES).square().sum(), leaf)
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        for weight in part.parameters():
            weight.mul_(0.0)  # what is not the replica's must not be looked at
    torch.testing.assert_close(other(IMAGES), first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ways", [["ChannelsLast"], ["BFloat16", "Compiled"]], ids=str)
def test_faster_denoisers_follow_theirs(ways: list[str]) -> None:
    part, other = (rr.optimise(Diffusion(Convolved(), steps=2), [getattr(diffusion, way) for way in ways]) for _ in range(2))
    if "Compiled" in ways:
        part.denoiser.backend = other.denoiser.backend = "eager"
    part(IMAGES)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    part.load_state_dict({name: one.clone() for name, one in other.state_dict().items()}, assign=True)
    assert torch.equal(part(IMAGES), other(IMAGES))
    twin = copy.deepcopy(part)
    assert torch.equal(twin.double()(IMAGES.double()), other.double()(IMAGES.double()))
    assert part(IMAGES).dtype == torch.float32
    part.denoiser.conv2 = nn.Conv2d(6, 3, 1)
    assert part.denoiser.plainly(IMAGES, torch.ones(2)).shape == IMAGES.shape
    assert pickle.loads(pickle.dumps(twin)).state_dict().keys() == part.state_dict().keys()


class Scaled(rr.Purifier):
    """A stage with a seed, a weight and a buffer of its own, without anything that torch.compile stumbles over."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed, self.scale = seed, nn.Parameter(torch.tensor(0.05))
        self.register_buffer("shift", torch.tensor(0.02))

    def run(self, images: Tensor) -> Tensor:
        return images + self.scale * (self.seed % 7) / 7 + self.shift + 0.01 * self.training


def test_compiled_runs_follow_weights_buffers_and_casts() -> None:
    for part in (Ensemble(Scaled(), 2), rr.DefendedPipeline(Shown(), [Scaled()], rr.MeanVote(2))):
        part.double()
        stage = next(one for one in part.modules() if isinstance(one, Scaled))
        part.load_state_dict({name: one + 0.01 for name, one in part.state_dict().items()}, assign=True)
        found = torch.compile(part, backend="eager")(IMAGES.double())
        torch.testing.assert_close(found, part(IMAGES.double()))
        assert float(stage.shift.detach()) == pytest.approx(0.03)


@pytest.mark.parametrize("make", [_ensemble, _pipeline, _nested], ids=["ensemble", "vote", "vote on ensembles"])
def test_compiled_runs_follow_the_mode(make: Callable) -> None:
    part = make(Scaled())
    compiled = torch.compile(part, backend="eager", fullgraph=True)
    for mode in (False, True, False):
        part.train(mode)
        torch.testing.assert_close(compiled(IMAGES), part(IMAGES))


def test_an_ensemble_is_the_same_before_and_after_a_call() -> None:
    net = diffusion.SigmaUNet(width=4)
    part = rr.DefendedPipeline(Linear2(3, 6), [Ensemble(Diffusion(net, guidance=_guided(4)), 2)], rr.MeanVote(2))
    before = identity_of(part)
    part(IMAGES)
    assert identity_of(part) == before == identity_of(copy.deepcopy(part))
    part.stages[0].purifier.seed = 9
    assert identity_of(part) != before


def test_following_costs_microseconds_a_run() -> None:
    one = Diffusion(Convolved(), 0.1, 2, guidance=_guided(4))
    ensemble = Ensemble(one, 10)
    spent = min(repeat(lambda: ensemble._runs.of(one), number=20, repeat=5)) / 20 / 10
    assert spent < 1e-4  # about 10 microseconds here; making a run anew takes about 300


def _guided_stage(seed: int | None, guidance: diffusion.Guidance | None) -> Diffusion:
    return Diffusion(Convolved(), 0.1, 2, seed=seed, guidance=guidance)


SEEDED = partial(_guided_stage, 3, _guided(4))
BEFORE = {
    "no seed": partial(_guided_stage, None, guidances.PixelGuidance(20.0)),
    "no guidance": partial(_guided_stage, 3, None),
    "no seed in the guidance": partial(_guided_stage, 3, guidances.PixelGuidance(20.0)),
    "fresh draws in the guidance": partial(_guided_stage, 3, guidances.PixelGuidance(20.0, reference=guidances.Renoised(None))),
    "another kind": Blur,
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_runs_of_what_had_no_seed_get_seeds_once_it_has_one(make: Callable, before: Callable) -> None:
    wanted, part = make(SEEDED())(IMAGES), make(before())
    part(IMAGES)
    holder, name = next(
        (one, name) for one in part.modules() for name, child in one.named_children() if type(child) is type(before())
    )
    old = getattr(holder, name)
    setattr(holder, name, SEEDED())
    torch.testing.assert_close(part(IMAGES), wanted, atol=1e-6, rtol=0)
    setattr(holder, name, old)
    if isinstance(old, Diffusion):
        part(IMAGES)
        old.seed, old.guidance = 3, _guided(4)
        torch.testing.assert_close(part(IMAGES), wanted, atol=1e-6, rtol=0)


class Both(nn.Module):
    """A stage's images, and what a network that its guidance knows makes of them."""

    def __init__(self, stage: rr.Stage, network: nn.Module) -> None:
        super().__init__()
        self.stage, self.network = stage, network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.stage(images))


@pytest.mark.parametrize("kind", ["reference", "network"])
def test_what_a_guidance_freezes_stays_frozen_in_replicas(kind: str) -> None:
    net = Convolved().requires_grad_()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    denoised = guidances.PixelGuidance(20.0, reference=guidances.Denoised(net, seed=4))
    guidance = denoised if kind == "reference" else guidances.AGDM(network, 50.0)
    part = Both(Diffusion(net, 0.2, 3, guidance=guidance, checkpointed=False), network)
    weights = list(part.parameters())
    found, wanted = (torch.autograd.grad(one(IMAGES).square().sum(), weights) for one in (replica(part), part))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


class Listed(rr.Purifier):
    """images + 0.01 (seed % 7) + the sum of a list of its own."""

    def __init__(self, seed: int = 0, shifts: tuple[float, ...] = (0.01, 0.02)) -> None:
        super().__init__()
        self.seed, self.shifts = seed, list(shifts)

    def run(self, images: Tensor) -> Tensor:
        return images + 0.01 * (self.seed % 7) + sum(self.shifts)


def test_lists_and_numbers_of_runs_changed_in_place(make: Callable) -> None:
    part, wanted = make(Listed()), make(Listed(shifts=(0.05, 0.02)))(IMAGES)
    part(IMAGES)
    stage = next(one for one in part.modules() if isinstance(one, Listed))
    stage.shifts[0] = 0.05
    torch.testing.assert_close(part(IMAGES), wanted)
    stage.shifts = [0.03, 0.04]
    torch.testing.assert_close(part(IMAGES), wanted)


@pytest.mark.parametrize("hold", [nn.Sequential, _pipeline], ids=["alone", "vote"])
def test_settings_of_ensembles_and_rounds_changed_in_place(hold: Callable) -> None:
    one = Diffusion(Convolved(), 0.1, 2)
    ensemble, rounds = hold(Ensemble(one, 2)), hold(Rounds(one, [[0.1, 1], [0.2, 1]]))
    ensemble(IMAGES), rounds(IMAGES)
    next(part for part in ensemble.modules() if isinstance(part, Ensemble)).runs = 4
    torch.testing.assert_close(ensemble(IMAGES), hold(Ensemble(one, 4))(IMAGES))
    stage = next(part for part in rounds.modules() if isinstance(part, Rounds))
    stage.rounds[1][0] = 0.3
    torch.testing.assert_close(rounds(IMAGES), hold(Rounds(one, [[0.1, 1], [0.3, 1]]))(IMAGES))
    stage.rounds = [[0.1, 3]]
    torch.testing.assert_close(rounds(IMAGES), hold(Rounds(one, [[0.1, 3]]))(IMAGES))
