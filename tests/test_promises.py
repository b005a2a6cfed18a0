"""Every registered part keeps the promises of its kind. A new part needs a line in CASES."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from toys import Gain, Moody, PixelSegmenter, photos
from toys_peers import towards_grey

import robustrestore as rr
from robustrestore import checks, diffusion, registry


class _Pull(nn.Module):
    """A stand-in noise-conditioned network: moves towards the image's mean, more so for higher noise."""

    def forward(self, noisy: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        share = (level / (1 + level)).view(-1, 1, 1, 1)
        return noisy + share * (noisy.mean(dim=(2, 3), keepdim=True) - noisy)


class Mean(nn.Module):
    """The mean over pixels: a segmenter's answer as a label."""

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.mean(dim=(2, 3))


class _Still(nn.Module):
    """A stand-in network with timesteps that predicts the image it is handed."""

    def forward(self, z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return z


class _Tenth(nn.Module):
    """A stand-in blind network: a tenth of the image is noise."""

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return 0.1 * noisy


def _adaptive() -> rr.purifiers.Adaptive:
    """Two levels of blur, chosen by the mean colour."""
    features = rr.Features(nn.Sequential(nn.AdaptiveAvgPool2d(1)), "0")
    stages = [rr.purifiers.Blur(0.5), rr.purifiers.Blur(1.5)]
    return rr.purifiers.Adaptive.of(stages, features, features.statistics(photos(5)))


def _pull() -> diffusion.Denoiser:
    return diffusion.NoiseConditioned(_Pull())


def _conv() -> nn.Module:
    """A small network whose class is the mean colour's, more or less."""
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _normed() -> nn.Module:
    """The same with batch statistics, which inner attacks could spoil."""
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _weak() -> rr.Attack:
    return rr.attacks.PGD(rr.Linf(4 / 255), steps=1)


def _rainproof() -> rr.DefendedPipeline:
    return rr.DefendedPipeline(_normed(), [rr.purifiers.Denoise(diffusion.SigmaUNet(width=8)), rr.restorers.UNet(width=4)])


def _mirror() -> rr.Attack:
    return rr.attacks.AMA(rr.Linf(4 / 255), steps=2)


CASES: dict[str, dict[str, Callable[[], rr.Component]]] = {
    "attacks": {
        "alma_prox": lambda: rr.attacks.ALMAProx(rr.Linf(4 / 255), steps=4, share=0.9),
        "ama": lambda: rr.attacks.AMA(rr.Linf(4 / 255), steps=3),
        "apgd": lambda: rr.attacks.APGD(rr.Linf(4 / 255), steps=5, restarts=2),
        "apgd_t": lambda: rr.attacks.APGDT(rr.L2(0.2), steps=3, targets=2),
        "bim": lambda: rr.attacks.BIM(rr.Linf(4 / 255), steps=3),
        "called": lambda: rr.integrations.called.Called(rr.Linf(4 / 255), towards_grey),
        "constant_shift": lambda: rr.attacks.ConstantShift(rr.L2(0.2)),
        "cos_pgd": lambda: rr.attacks.CosPGD(rr.L2(0.2), steps=3, samples=2),
        "cw": lambda: rr.attacks.CW(rr.L2(0.5), steps=20, search_steps=3, lr=0.05, c=0.1),
        "cw_restoration": lambda: rr.attacks.CWRestoration(rr.L2(2.0), psnr=30, searches=2, steps=4),
        "deep_fool": lambda: rr.attacks.DeepFool(rr.L2(0.5), steps=5),
        "degraded_only": lambda: rr.attacks.DegradedOnly(rr.attacks.PGD(rr.Linf(4 / 255), steps=3), threshold=0.05),
        "fgsm": lambda: rr.attacks.FGSM(rr.Linf(4 / 255)),
        "foolbox": lambda: rr.integrations.foolbox.Foolbox(rr.Linf(4 / 255), "LinfPGD", {"steps": 3}),
        "gaussian_noise": lambda: rr.attacks.GaussianNoise(rr.Linf(4 / 255), draws=2),
        "intact_only": lambda: rr.attacks.IntactOnly(rr.attacks.PGD(rr.Linf(4 / 255), steps=3), threshold=0.05),
        "jitter": lambda: rr.attacks.Jitter(rr.Linf(4 / 255), steps=3),
        "mi_fgsm": lambda: rr.attacks.MIFGSM(rr.L2(0.2), steps=3),
        "naa": lambda: rr.attacks.NAA(rr.Linf(4 / 255), steps=3, step=0.01),
        "nes": lambda: rr.attacks.NES(rr.Linf(4 / 255), queries=20, pairs=4),
        "pgd": lambda: rr.attacks.PGD(rr.L2(0.2), steps=3, restarts=2, samples=2),
        "sea": lambda: rr.attacks.SEA(rr.Linf(4 / 255), steps=4),
        "seg_pgd": lambda: rr.attacks.SegPGD(rr.Linf(4 / 255), steps=3),
        "sequence": lambda: rr.attacks.Sequence([rr.attacks.FGSM(rr.L2(0.2)), rr.attacks.PGD(rr.L2(0.2), steps=3)]),
        "simba": lambda: rr.attacks.SimBA(rr.Linf(4 / 255), queries=8),
        "simba_dct": lambda: rr.attacks.SimBADCT(rr.L2(0.2), queries=8, frequencies=0.25),
        "square": lambda: rr.attacks.Square(rr.L2(0.2), queries=8),
        "torchattacks": lambda: rr.integrations.torchattacks.TorchAttacks(rr.Linf(4 / 255), "PGD", {"steps": 3}),
        "tpgd": lambda: rr.attacks.TPGD(rr.Linf(4 / 255), steps=3),
        "transfer": lambda: rr.attacks.Transfer(rr.attacks.SegPGD(rr.Linf(4 / 255), steps=2), PixelSegmenter()),
        "uae_rs_cw": lambda: rr.attacks.UaeRsCW(steps=2),
        "uae_rs_fgsm": rr.attacks.UaeRsFGSM,
        "uae_rs_ifgsm": lambda: rr.attacks.UaeRsIFGSM(rr.Linf(4 / 255), steps=2, bits=None),
        "uae_rs_jitter": lambda: rr.attacks.UaeRsJitter(steps=2),
        "uae_rs_mixcut": lambda: rr.attacks.UaeRsMixcut(rr.Linf(8 / 255), Gain(), rr.attacks.Samples(photos(3)), steps=2),
        "uae_rs_mixup": lambda: rr.attacks.UaeRsMixup(rr.NormalisedLinf(), Gain(), rr.attacks.Samples(photos(3)), steps=2),
        "uae_rs_tpgd": lambda: rr.attacks.UaeRsTPGD(steps=2),
        "uniform_noise": lambda: rr.attacks.UniformNoise(rr.L2(0.2), seed=3),
        "worst": lambda: rr.attacks.Worst([rr.attacks.FGSM(rr.L2(0.2)), rr.attacks.PGD(rr.L2(0.2), steps=3)]),
    },
    "class_terms": {
        "any_label": rr.guidances.AnyLabel,
        "label_of_input": rr.guidances.LabelOfInput,
        "label_of_noisy": rr.guidances.LabelOfNoisy,
    },
    "degradations": {
        "blur": rr.degradations.Blur,
        "gaussian_noise": lambda: rr.degradations.GaussianNoise(0.1, seed=3),
        "jpeg": lambda: rr.degradations.Jpeg(30),
        "rain": lambda: rr.degradations.Rain(blend="screen", seed=3),
        "sensor_noise": lambda: rr.degradations.SensorNoise.at(28),
        "under_display": lambda: rr.degradations.UnderDisplay(rr.degradations.TOLED(size=21), white=2000),
    },
    "denoisers": {
        "bfloat16": lambda: diffusion.BFloat16(_pull()),
        "blind": lambda: rr.integrations.gaussian.Blind(_Tenth()),
        "channels_last": lambda: diffusion.ChannelsLast(diffusion.SigmaUNet(width=4)),
        "clamped": lambda: diffusion.Clamped(_pull(), low=-0.5),
        "compiled": lambda: diffusion.Compiled(_pull(), backend="aot_eager"),
        "continuous_v": lambda: rr.integrations.kdiffusion.ContinuousV(_Still()),
        "discrete_time": lambda: diffusion.DiscreteTime(_Still(), prediction="sample"),
        "edm": lambda: rr.integrations.edm.EDM(_Still()),
        "float16": lambda: diffusion.Float16(_pull()),
        "graphed": lambda: diffusion.Graphed(_pull()),
        "noise_conditioned": _pull,
        "sigma_map": lambda: rr.integrations.gaussian.SigmaMap(_Pull()),
        "sigma_unet": lambda: diffusion.SigmaUNet(width=8),
    },
    "guidances": {
        "agdm": lambda: rr.guidances.AGDM(Moody(), feature_weight=0.5, label=rr.guidances.AnyLabel()),
        "frequency": lambda: rr.guidances.FrequencyGuidance(delta=0.1),
        "on_estimate": lambda: rr.guidances.OnEstimate(rr.guidances.PixelGuidance(reference=rr.guidances.Renoised())),
        "pixel": lambda: rr.guidances.PixelGuidance(strength=30, reference=rr.guidances.Denoised(_pull())),
        "ssim": rr.guidances.SSIMGuidance,
    },
    "gaps": {
        "centred_l1": rr.oracle.CentredL1Gap,
        "kl": lambda: rr.oracle.KLGap(temperature=4),
        "l1": rr.oracle.L1Gap,
        "label": rr.oracle.LabelGap,
    },
    "goals": {
        "clean_goal": lambda: rr.recipes.CleanGoal(rr.losses.L1()),
        "mirror_batch": lambda: rr.recipes.MirrorBatch(_mirror(), cached=True),
        "mirror_goal": lambda: rr.recipes.MirrorGoal(_mirror(), rr.losses.Dissimilarity()),
        "mirror_input": lambda: rr.recipes.MirrorInput(_mirror()),
    },
    "grids": {"even": diffusion.Even, "timesteps": lambda: diffusion.TimestepGrid([0.9, 0.5, 0.1])},
    "losses": {
        "balanced_cross_entropy": rr.losses.BalancedCrossEntropy,
        "clean_output": rr.losses.CleanOutput,
        "cosine_weighted": rr.losses.CosineWeighted,
        "degraded_region": lambda: rr.losses.DegradedRegion(threshold=0.05),
        "dissimilarity": rr.losses.Dissimilarity,
        "divergence": rr.losses.Divergence,
        "dlr": rr.losses.DLR,
        "intact_region": rr.losses.IntactRegion,
        "jensen_shannon": rr.losses.JensenShannon,
        "l1": rr.losses.L1,
        "margin": lambda: rr.losses.Margin(confidence=0.5),
        "masked_cross_entropy": rr.losses.MaskedCrossEntropy,
        "perceptual": lambda: rr.losses.Perceptual(Gain(), penalty=25),
        "seg_pgd_weighted": lambda: rr.losses.SegPGDWeighted(share=0.1),
        "targeted_dlr": lambda: rr.losses.TargetedDLR(rank=2),
        "undo": rr.losses.Undo,
    },
    "models": {"adapted": lambda: rr.Adapted(Gain(), mean=[0.5] * 3, std=[0.2] * 3, channels=[2, 1, 0])},
    "noises": {
        "dssn": lambda: rr.certify.DSSN(0.25, seed=3),
        "gaussian": lambda: rr.certify.Gaussian(0.25),
        "generalised_normal": lambda: rr.certify.GeneralisedNormal(0.3, 1.5),
        "gridded": lambda: rr.certify.Gridded(rr.certify.Gaussian(0.25)),
        "hyperbolic_secant": lambda: rr.certify.HyperbolicSecant(0.2),
        "laplace": lambda: rr.certify.Laplace(0.2),
        "ssn": lambda: rr.certify.SSN(0.5),
        "uniform": lambda: rr.certify.Uniform(0.4),
    },
    "pipelines": {"defended": lambda: rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur(), rr.restorers.UNet(width=4)])},
    "psfs": {
        "poled": lambda: rr.degradations.POLED(size=11, seed=3),
        "stored_psf": lambda: rr.degradations.StoredPSF.of(torch.arange(48.0).view(3, 4, 4)),
        "toled": lambda: rr.degradations.TOLED(size=11, angle=30),
    },
    "purifiers": {
        "adaptive": _adaptive,
        "bit_depth": rr.purifiers.BitDepth,
        "blur": rr.purifiers.Blur,
        "denoise": lambda: rr.purifiers.Denoise(diffusion.SigmaUNet(width=8), sigma=0.1),
        "dense_pure": lambda: rr.purifiers.DensePure(diffusion.SigmaUNet(width=8), sigma=0.1, steps=3),
        "diffusion": lambda: rr.purifiers.Diffusion(diffusion.SigmaUNet(width=8), steps=3, sampler=diffusion.DDPM()),
        "ensemble": lambda: rr.purifiers.Ensemble(rr.purifiers.Diffusion(diffusion.SigmaUNet(width=8), steps=1), runs=3),
        "jpeg": rr.purifiers.Jpeg,
        "median": rr.purifiers.Median,
        "rounds": lambda: rr.purifiers.Rounds(rr.purifiers.Diffusion(diffusion.SigmaUNet(width=8)), [[0.05, 1], [0.1, 2]]),
        "score_opt": lambda: rr.purifiers.ScoreOpt(diffusion.SigmaUNet(width=8), iterations=3),
    },
    "optimisers": {"adamw": lambda: rr.AdamW(lr=0.01), "sgd": lambda: rr.SGD(momentum=0.5)},
    "plans": {"plan": lambda: rr.Plan(steps=7, optimiser=rr.SGD(lr=0.2), average=None)},
    "recipes": {
        "adversarial_training": lambda: rr.recipes.AdversarialTraining(_conv(), rr.tasks.Classification(), _weak(), share=0.5),
        "distill": lambda: rr.recipes.Distill(
            rr.oracle.Queried(_conv()), _conv(), rr.tasks.Classification(), rr.certify.Gaussian(0.1), rr.oracle.KLGap(2)
        ),
        "distill_purifier": lambda: rr.recipes.DistillPurifier(
            rr.purifiers.Blur(), rr.restorers.UNet(width=4), _conv(), rr.tasks.Classification(), _weak(), weight=0.1
        ),
        "nat": lambda: rr.recipes.NAT(_rainproof(), rr.tasks.Classification(), _weak(), share=0.5, clean=0.5),
        "pearl": lambda: rr.recipes.PEARL(
            _rainproof(), rr.tasks.Classification(), _weak(), rr.recipes.MirrorGoal(_mirror()), weight=0.1
        ),
        "plain": lambda: rr.recipes.Plain(_conv(), rr.tasks.Classification(), part="0"),
        "purify_finetune": lambda: rr.recipes.PurifyFinetune(_rainproof(), rr.tasks.Classification(), _weak(), part="stages.1"),
        "recommended": lambda: rr.recipes.Recommended(_rainproof(), rr.tasks.Classification(), _weak(), weight=0.5),
        "trades": lambda: rr.recipes.Trades(_conv(), rr.tasks.Classification(), _weak(), beta=2),
    },
    "references": {
        "denoised": lambda: rr.guidances.Denoised(diffusion.SigmaUNet(width=4)),
        "renoised": lambda: rr.guidances.Renoised(seed=3),
    },
    "restorers": {
        "fourier_unet": lambda: rr.restorers.FourierUNet(width=4),
        "nafnet": lambda: rr.restorers.NAFNet(width=4, encoder=[1, 1], decoder=[1, 1]),
        "network": lambda: rr.restorers.Network(Gain(0.9)),
        "prenet": lambda: rr.restorers.PReNet(recursions=2, width=4),
        "prenet_r": lambda: rr.restorers.PReNetR(recursions=2, width=4),
        "prn": lambda: rr.restorers.PRN(recursions=2, width=4),
        "unet": lambda: rr.restorers.UNet(width=4),
    },
    "samplers": {
        "ddim": lambda: diffusion.DDIM(eta=0.5),
        "ddpm": lambda: diffusion.DDPM(diffusion.TimestepGrid()),
        "dpm_solver_pp": diffusion.DPMSolverPP,
        "one_step": diffusion.OneStep,
        "vp_ode": lambda: diffusion.VPODE(diffusion.Even()),
        "vp_sde": diffusion.VPSDE,
    },
    "tasks": {
        "classification": rr.tasks.Classification,
        "restoration": lambda: rr.tasks.Restoration(floor=20),
        "segmentation": lambda: rr.tasks.Segmentation(ignore=7, floor=0.4),
    },
    "threats": {
        "l2": lambda: rr.L2(0.5),
        "linf": lambda: rr.Linf(8 / 255),
        "normalised_linf": lambda: rr.NormalisedLinf(0.2),
    },
    "tiers": {
        "images": rr.oracle.Images,
        "labels": rr.oracle.Labels,
        "logits": rr.oracle.Logits,
        "probabilities": lambda: rr.oracle.Probabilities(floor=1e-4),
    },
    "votes": {"majority": lambda: rr.MajorityVote(7), "mean": lambda: rr.MeanVote(5)},
}
PARTS = [entry for entry in registry.entries() if entry.package == "robustrestore"]
FOREIGN = {"adapted": ["model"], "defended": ["model"], "network": ["network"], "noise_conditioned": ["network"]}
FOREIGN["adaptive"] = ["model"]
FOREIGN["discrete_time"] = FOREIGN["agdm"] = ["network"]
FOREIGN["pixel"] = ["reference.denoiser.network"]
FOREIGN["blind"] = FOREIGN["continuous_v"] = FOREIGN["edm"] = FOREIGN["sigma_map"] = ["network"]
FOREIGN["bfloat16"] = FOREIGN["compiled"] = FOREIGN["float16"] = FOREIGN["graphed"] = ["network"]
FOREIGN["clamped"] = ["denoiser.network"]
FOREIGN["transfer"] = ["source"]
FOREIGN["perceptual"] = ["features"]
FOREIGN |= {name: ["model"] for name in ("adversarial_training", "distill_purifier", "plain", "trades")}
FOREIGN |= {name: ["pipeline.model"] for name in ("nat", "pearl", "purify_finetune", "recommended")}
FOREIGN["distill"] = ["oracle", "surrogate"]
FOREIGN["uae_rs_mixcut"] = FOREIGN["uae_rs_mixup"] = ["features", "samples"]


def test_every_registered_part_has_a_case() -> None:
    assert {(e.kind, e.name) for e in PARTS} == {(kind, name) for kind, names in CASES.items() for name in names}


@pytest.mark.parametrize("entry", PARTS, ids=lambda e: f"{e.kind}.{e.name}")
def test_settings_and_saving(entry: registry.Entry) -> None:
    part = CASES[entry.kind][entry.name]()
    modules = dict(part.named_modules()) if isinstance(part, nn.Module) else {}
    checks.check_component(part, {path: modules[path] for path in FOREIGN.get(entry.name, [])})


@pytest.mark.parametrize("name", sorted({**CASES["purifiers"], **CASES["restorers"]}))
def test_stages(name: str) -> None:
    checks.check_stage({**CASES["purifiers"], **CASES["restorers"]}[name]())


@pytest.mark.parametrize("name", sorted(set(CASES["denoisers"]) - {"graphed"}))  # which runs on CUDA alone
def test_denoisers(name: str) -> None:
    checks.check_denoiser(CASES["denoisers"][name](), exact=name != "discrete_time")


@pytest.mark.parametrize("name", sorted(CASES["guidances"]))
def test_guidances(name: str) -> None:
    checks.check_guidance(CASES["guidances"][name]())


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("name", sorted(CASES["attacks"]))
def test_attacks(name: str) -> None:
    target = torch.randint(0, 2, (2, 16, 20), generator=torch.Generator().manual_seed(0))
    cases: dict[str, tuple[nn.Module, rr.Objective]] = {
        "map": (PixelSegmenter(), rr.tasks.Segmentation().untargeted(target)),
        "label": (nn.Sequential(PixelSegmenter(), Mean()), rr.tasks.Classification().untargeted(target[:, 0, 0])),
        "image": (Gain(0.9), rr.tasks.Restoration().untargeted(photos())),
    }
    attack = CASES["attacks"][name]()
    assert isinstance(attack, rr.Attack)
    for answer in attack.answers:
        checks.check_attack(attack, cases[answer][0], photos(), cases[answer][1])


@pytest.mark.parametrize("name", sorted(CASES["noises"]))
def test_noises(name: str) -> None:
    checks.check_noise(CASES["noises"][name]())


class _Boastful(rr.certify.Gaussian):
    def radii(self, p, dims):
        return {"l1": 1.3 * self.quantile(p)}


def test_checks_name_a_radius_that_is_too_large() -> None:
    with pytest.raises(AssertionError, match="keeps more than 1/2"):
        checks.check_noise(_Boastful(0.1))


@pytest.mark.parametrize("name", sorted(CASES["threats"]))
def test_threats(name: str) -> None:
    checks.check_threat(CASES["threats"][name]())


@pytest.mark.parametrize("name", sorted(CASES["degradations"]))
def test_degradations(name: str) -> None:
    checks.check_degradation(CASES["degradations"][name]())


def _lesson() -> rr.Batch:
    images = photos(4)
    return rr.Batch(images, torch.tensor([0, 1, 2, 1]), (0.8 * images + 0.1).clamp(0, 1), torch.arange(4))


@pytest.mark.parametrize("name", sorted(CASES["recipes"]))
def test_recipes(name: str) -> None:
    checks.check_recipe(CASES["recipes"][name](), _lesson())


@pytest.mark.parametrize("name", sorted(CASES["recipes"]))
def test_recipes_move_the_trained_part_and_nothing_else(name: str) -> None:
    """Three steps of `fit`: everything else is the same bit for bit, weights and batch statistics, and its modes."""
    recipe = CASES["recipes"][name]()
    assert isinstance(recipe, rr.Recipe)
    ours = {id(t) for t in (*recipe.trained.parameters(), *recipe.trained.buffers())}
    held = dict((*recipe.named_parameters(), *recipe.named_buffers()))
    before = {name: t.detach().clone() for name, t in held.items()}
    modes = [part.training for part in recipe.modules()]
    rr.fit(recipe, [_lesson()], rr.Plan(steps=3, batch=4, optimiser=rr.SGD(lr=0.05), average=None), quiet=True)
    same = {name: torch.equal(t, before[name]) for name, t in held.items()}
    assert all(same[name] for name, t in held.items() if id(t) not in ours)
    assert not all(same[name] for name, t in held.items() if id(t) in ours)
    assert [part.training for part in recipe.modules()] == modes


@pytest.mark.parametrize("name", sorted(CASES["recipes"]))
def test_recipes_name_the_fields_that_a_loader_lacks_before_the_first_step(name: str) -> None:
    recipe = CASES["recipes"][name]()
    assert isinstance(recipe, rr.Recipe)
    if "target" in recipe.needs:
        with pytest.raises(ValueError, match="missing target"):
            rr.fit(recipe, [rr.Batch(photos(4))], rr.Plan(steps=1, batch=4), quiet=True)
    if "clean" in recipe.needs:
        with pytest.raises(ValueError, match="missing clean"):
            rr.fit(recipe, [(photos(4), torch.zeros(4, dtype=torch.long))], rr.Plan(steps=1, batch=4), quiet=True)


class _Spoiling(rr.Recipe):
    """Its attack runs in training mode, on a part that should not move."""

    def __init__(self) -> None:
        super().__init__()
        self.moved, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    @property
    def trained(self) -> nn.Module:
        return self.moved

    def run(self, batch: rr.Batch) -> dict[str, torch.Tensor]:
        return {"loss": self.norm.train()(self.moved(batch.images)).square().mean()}


class _Cut(_Spoiling):
    """No gradient comes back."""

    def run(self, batch: rr.Batch) -> dict[str, torch.Tensor]:
        return {"loss": self.norm(self.moved(batch.images)).square().mean().detach()}


@pytest.mark.parametrize(("recipe", "promise"), [(_Spoiling(), "modes are left"), (_Cut(), "has a gradient")])
def test_checks_name_the_broken_promise_of_a_recipe(recipe: rr.Recipe, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        checks.check_recipe(recipe, _lesson())


class _Shouting(rr.Purifier):
    def run(self, images: torch.Tensor) -> torch.Tensor:
        images += 0.25
        return images


class _Blind(rr.Purifier):
    def run(self, images: torch.Tensor) -> torch.Tensor:
        return images.detach().round()


class _Dicey(rr.Purifier):
    def run(self, images: torch.Tensor) -> torch.Tensor:
        return images + 0.1 * torch.randn_like(images)


class _Lazy(rr.Attack):
    def __init__(self, threat: rr.Threat) -> None:
        self.threat = threat

    def run(self, model: object, images: torch.Tensor, objective: rr.Objective) -> torch.Tensor:
        return self.threat.random(images)


@pytest.mark.parametrize(
    ("stage", "promise"),
    [(_Shouting(), "left unchanged"), (_Blind(), "gradients flow"), (_Dicey(), "global generator")],
    ids=lambda v: type(v).__name__,
)
def test_checks_name_the_broken_promise_of_a_stage(stage: rr.Stage, promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        checks.check_stage(stage)


def test_checks_name_the_broken_promise_of_an_attack() -> None:
    target = torch.zeros(2, 16, 20, dtype=torch.long)
    with pytest.raises(AssertionError, match="global generator|lowered"):
        checks.check_attack(_Lazy(rr.Linf(0.05)), PixelSegmenter(), photos(), rr.tasks.Segmentation().untargeted(target))
