"""The checklist of DUCD, 17 to 21, on targets whose certificates are known; 15 and 16 are beside the oracle and the recipe.

The target of 17 is a line with a ripple that is zero on 8-bit images and drowns all else under noise: asked about clean images
it tells the line, and smoothed by queries it answers at random.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn
from toys import Gain, PixelSegmenter
from toys_certify import Line, images_of

import robustrestore as rr
from robustrestore import certify, oracle
from robustrestore.recipe import training

TASK, NOISE = rr.tasks.Classification(), certify.Gaussian(0.3)


class Rippled(nn.Module):
    """Two linear scores, and `gain` times a sum of sines that is zero where every value is k / 255."""

    def __init__(self, gain: float = 5.0) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(16, 2), nn.Parameter(torch.tensor(gain))
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        ripple = self.gain * torch.sin(2 * math.pi * 255 * images).flatten(1).sum(1)
        return self.layer((images - 0.5).flatten(1)) + torch.stack([ripple, -ripple], dim=1)


def target() -> Rippled:
    model = Rippled()
    with torch.no_grad():
        model.layer.weight.copy_(torch.stack([Line().weight.flatten(), -Line().weight.flatten()]))
    return model


def eight_bit(count: int, seed: int = 0) -> Tensor:
    return (images_of(count, seed) * 255).round() / 255


def learn(recipe: rr.Recipe, images: Tensor, steps: int = 150, lr: float = 0.3, target: Tensor | None = None) -> None:
    how = rr.AdamW(lr, weight_decay=0.0, floor=0.001)
    with training(recipe) as weights, rr.seeded(0):
        optimiser = how.make(weights)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = how.rate(step, steps)
            loss = recipe(rr.Batch(images, target))["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def distilled(
    asked: oracle.Queried, images: Tensor, noise: certify.Noise | None, surrogate: nn.Module | None = None
) -> nn.Module:
    made = Rippled() if surrogate is None else surrogate
    learn(rr.recipes.Distill(asked, made, TASK, noise), images)
    return made.eval()


def acr(model: object, images: Tensor, noise: certify.Noise = NOISE, norm: certify.Norm = "l2") -> float:
    labels = Line()(images).argmax(1)
    smoothed = certify.SmoothedClassifier(model, noise)  # type: ignore[arg-type]
    return float(certify.measure_classifier(smoothed, [(images, labels)], draws=(50, 500)).acr(norm)["value"])


def known_acr(images: Tensor) -> float:
    """Of the line itself, if every count were its expectation."""
    p = norm.cdf(Line().distance(images).double().numpy() / NOISE.sigma)
    return float(NOISE.radius(certify.bounds.lower(p * 500, 500, 0.001), "l2", 16).mean())


def test_17_the_smoothed_surrogate_beside_the_other_ways_at_the_same_draws_alpha_and_images() -> None:
    queries, test = eight_bit(200), eight_bit(40, seed=9)
    asked = oracle.Queried(target(), budget=200)
    surrogate, plain = distilled(asked, queries, NOISE), distilled(asked, queries, None)
    assert torch.equal(plain(test).argmax(1), Line()(test).argmax(1))  # where no noise is, both know the line
    assert asked.sent == 200
    found, wanted = acr(surrogate, test), known_acr(test)
    assert asked.sent == 200  # certificates and answers of the surrogate cost no query
    assert found == pytest.approx(wanted, rel=0.1)
    by_queries = oracle.Queried(target())
    assert acr(by_queries, test) < 0.05 * wanted  # (ii) the raw target under noise answers by its ripple
    assert by_queries.sent == 40 * 550
    twin = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))  # (i) white box: labels, under the noise
    noisy = queries.repeat(4, 1, 1, 1)
    noisy = noisy + NOISE.sample_like(noisy, torch.Generator().manual_seed(1))
    optimiser = torch.optim.LBFGS(twin.parameters(), max_iter=50)
    labels = Line()(queries).argmax(1).repeat(4)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(twin(noisy), labels)
        value.backward()
        return value

    optimiser.step(loss)
    assert acr(twin, test) == pytest.approx(wanted, rel=0.1)
    assert acr(plain, test) < 0.05 * wanted  # (iv) no denoiser, no noise in the training
    denoised = rr.DefendedPipeline(plain, [rr.purifiers.BitDepth(8)]).eval()  # (iii) rounding takes the ripple out
    assert acr(denoised, test) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("norm_", ["l1", "l2", "linf"])
def test_18_the_gain_over_gaussian_is_seen_on_other_images_with_the_frozen_noise(norm_: certify.Norm) -> None:
    asked, queries = oracle.Queried(Line()), images_of(200)
    noises: list[certify.Noise] = [certify.Gaussian(0.3), certify.Uniform(0.8)]
    models = [distilled(asked, queries, noise, nn.Sequential(nn.Flatten(), nn.Linear(16, 2))) for noise in noises]
    selection, test = images_of(20, seed=5), images_of(40, seed=6)
    smoothed = [certify.SmoothedClassifier(model, noise) for model, noise in zip(models, noises, strict=True)]
    choice = certify.select_noise(smoothed, [(selection, Line()(selection).argmax(1))], norm_, draws=(50, 500))
    report = choice.measure([(test, Line()(test).argmax(1))], draws=(50, 500))
    gain = float(report.acr(norm_)["value"]) / acr(models[0], test, noises[0], norm_)
    if norm_ == "l1":
        assert choice.noise.name == "uniform"
        assert gain > 1.1
    else:
        assert choice.noise.name == "gaussian"
        assert gain == pytest.approx(1.0, abs=0.05)  # nil, but for the draws
    assert choice.noise.tightness(norm_) == "exact"


class Averaged(nn.Module):
    """The mean probabilities under fresh noise: what PGD with EOT differentiates."""

    def __init__(self, model: nn.Module, draws: int = 64) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, images: Tensor) -> Tensor:
        many = images.repeat_interleave(self.draws, 0)
        scores = self.model(many + NOISE.sample_like(many)).log_softmax(1)
        return scores.view(len(images), self.draws, -1).logsumexp(1)


def moved(attack: rr.Attack, model: object, images: Tensor, labels: Tensor, task: rr.Task = TASK) -> Tensor:
    with rr.seeded(0), rr.images.trusted():
        return attack(model, images, task.untargeted(labels))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def deployed() -> tuple[nn.Module, certify.SmoothedClassifier]:
    surrogate = distilled(oracle.Queried(Line()), images_of(200), NOISE, nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    return surrogate, certify.SmoothedClassifier(surrogate, NOISE)


@pytest.mark.parametrize("way", ["pgd", "square"])
def test_19_attacks_on_what_is_deployed_break_no_certificate_and_win_beyond_the_distance(
    way: str, deployed: tuple[nn.Module, certify.SmoothedClassifier]
) -> None:
    surrogate, smoothed = deployed
    images = 0.5 + 0.5 * (images_of(24, seed=9) - 0.5)  # far from 0 and 1, where a change would be cut off
    labels = surrogate(images).argmax(1)
    radii = torch.tensor([one.radius["l2"] for one in smoothed.certify(images, n0=50, n=1000)])
    weight = (surrogate[1].weight[0] - surrogate[1].weight[1]).detach()
    far = ((surrogate(images)[:, 0] - surrogate(images)[:, 1]).abs() / weight.norm()).detach()
    inside = radii > 0.03
    assert int(inside.sum()) >= 8
    for place in inside.nonzero()[:8, 0].tolist():
        one = slice(place, place + 1)
        for size, wins in ((0.95 * float(radii[place]), False), (1.6 * float(far[place]), way == "pgd")):
            threat = rr.L2(size)
            attack = (
                rr.attacks.PGD(threat, steps=10)
                if way == "pgd"
                else rr.attacks.Square(threat, queries=100, loss=rr.losses.Margin())
            )
            said = smoothed.predict(moved(attack, Averaged(surrogate), images[one], labels[one]), n=1000, seed=3)[0].prediction
            if wins:
                assert said == 1 - int(labels[place])
            elif size < float(radii[place]):
                assert said in (int(labels[place]), None)


def test_19_what_is_made_on_the_surrogate_transfers_to_the_target_it_learnt_from(
    deployed: tuple[nn.Module, certify.SmoothedClassifier],
) -> None:
    images = 0.5 + 0.5 * (images_of(40, seed=8) - 0.5)
    labels, distance = Line()(images).argmax(1), Line().distance(images)
    near = distance < 0.3
    asked = oracle.Queried(Line())
    for share, falls in ((0.8, 0.0), (1.4, 1.0)):
        found = [
            moved(rr.attacks.PGD(rr.L2(share * float(far)), steps=10), deployed[0], image[None], label[None])
            for image, label, far in zip(images[near], labels[near], distance[near], strict=True)
        ]
        wrong = (asked(torch.cat(found)).argmax(1) != labels[near]).double().mean()
        assert float(wrong) == pytest.approx(falls, abs=0.1)
    assert asked.sent == 2 * int(near.sum())


def test_20_members_among_the_queries_make_the_surrogate_tell_what_the_target_tells() -> None:
    """Target and surrogates are least-squares fits with more pixels than images, so what each knows by heart is known."""
    own = torch.Generator().manual_seed(0)
    inside, outside, others = (images_of(50, seed, size=12) for seed in (0, 1, 2))
    labels = [torch.randint(0, 3, (50,), generator=own) for _ in range(2)]

    def fit(images: Tensor, scores: Tensor) -> nn.Module:
        layer = nn.Linear(144, 3, bias=False)
        layer.weight.data = (torch.linalg.pinv(images.flatten(1).double() - 0.5) @ scores.double()).T.float()
        return nn.Sequential(_Centred(), layer)

    target = fit(inside, 5 * nn.functional.one_hot(labels[0], 3))
    asked = oracle.Queried(target)
    models: dict[str, rr.privacy.attacks.Model] = {"target": target}
    for count in (0, 50):
        queries = torch.cat([inside[:count], others[count:]])
        assert rr.data.overlap(list(inside), list(queries)) == count  # type: ignore[arg-type]
        models[f"{count} members"] = fit(queries, asked(queries))
    smoothed = certify.SmoothedClassifier(models["0 members"], certify.Gaussian(0.3))
    models["smoothed"] = rr.privacy.VoteScores(smoothed, n=30)
    report = rr.privacy.membership(models, [(inside, labels[0])], [(outside, labels[1])], [rr.privacy.Confidence()])
    found = {name: report.row(name, "Confidence") for name in models}
    assert found["target"].accuracy.low > 0.8  # an over-fitted target: far above one half
    assert found["50 members"].auc.value == pytest.approx(found["target"].auc.value, abs=1e-3)
    assert found["0 members"].auc.value < found["50 members"].auc.value - 0.1
    assert found["smoothed"].auc.value < found["0 members"].auc.value + 0.05


class _Centred(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) - 0.5


def test_21_label_maps_by_l1_a_pixel_certified_pixels_hold() -> None:
    """The target tells red from green: the true distance of a pixel to its boundary is |red - green| / sqrt 2."""
    own, sigma = torch.Generator().manual_seed(3), 0.1
    queries, image = torch.rand(16, 3, 8, 8, generator=own), torch.rand(1, 3, 8, 8, generator=own)
    asked = oracle.Queried(PixelSegmenter())
    surrogate = nn.Conv2d(3, 2, 1)
    learn(rr.recipes.Distill(asked, surrogate, rr.tasks.Segmentation(), certify.Gaussian(sigma)), queries, 100, 0.3)
    assert asked.sent == 16
    assert isinstance(asked.tier.gap(), oracle.L1Gap)
    smoothed = certify.SmoothedSegmenter(surrogate, certify.Gaussian(sigma), tau=0.75)
    (found,) = smoothed.certify(image, n0=20, n=400)
    kept, far = found.certified[None], (image[:, 0] - image[:, 1]).abs() / math.sqrt(2)
    assert float(kept.double().mean()) > 0.6
    assert torch.equal(found.candidates.long()[kept[0]], PixelSegmenter()(image).argmax(1)[kept])
    assert bool((far[kept] > 0.8 * found.radius["l2"]).all())
    pgd, labels = rr.attacks.PGD(rr.L2(0.99 * found.radius["l2"]), steps=10), PixelSegmenter()(image).argmax(1)
    attacked = moved(pgd, surrogate, image, labels, rr.tasks.Segmentation())
    (again,) = smoothed.certify(attacked, n0=20, n=400, seed=1)
    assert torch.equal(again.candidates.long()[kept[0]], found.candidates.long()[kept[0]])


def test_21_restored_images_by_l1_a_pixel_the_interval_holds_the_true_change() -> None:
    """The target halves every value, so an image that moves by eps moves its answer by eps / 2, along any one value."""
    own, sigma, eps = torch.Generator().manual_seed(4), 0.1, 0.05
    queries, image = torch.rand(16, 3, 8, 8, generator=own), 0.3 + 0.4 * torch.rand(1, 3, 8, 8, generator=own)
    asked = oracle.Queried(Gain(0.5), oracle.Images())
    surrogate = nn.Conv2d(3, 3, 1)
    learn(rr.recipes.Distill(asked, surrogate, rr.tasks.Restoration(), certify.Gaussian(sigma)), queries, 150, 0.1)
    smoothed = certify.SmoothedRestorer(surrogate, certify.Gaussian(sigma))
    ((flat, moved_by),) = smoothed.median(image, eps=[0.0, eps], n=2000)
    weight = surrogate.weight.detach()[..., 0, 0]
    exact, worst = (
        surrogate(image).detach()[0],
        eps * weight.norm(dim=1)[:, None, None],
    )  # the median of a linear map is the map
    assert bool((moved_by.low <= exact - worst + 1e-6).all())
    assert bool((moved_by.high >= exact + worst - 1e-6).all())
    assert float((moved_by.high - moved_by.low).mean()) < 2 * float(worst.mean()) + 0.05
    assert float((flat.high - flat.low).mean()) < 0.05  # without a change only sampling error is left
    truth = image[0] / 2
    adversarial = image.clone()
    adversarial[0, 0, 0, 0] += eps
    error = float((surrogate(adversarial)[0] - truth).detach().square().mean())
    assert moved_by.psnr_low(truth) <= 10 * np.log10(1 / error)
    noisy = 10 * np.log10(1 / (float((image - truth).square().mean()) + sigma**2))
    assert moved_by.psnr_low(truth) > noisy  # not vacuous here: better than to leave the image as it came
