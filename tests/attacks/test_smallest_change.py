"""CW and DeepFool against models whose nearest boundary is known."""

import pytest
import torch
from torch import nn
from toys import Linear2, PixelSegmenter, photos

import robustrestore as rr

LABELS = rr.tasks.Classification()
FAR = {"l2": rr.L2(100.0), "linf": rr.Linf(1.0)}
CW = rr.attacks.CW(rr.L2(100.0), steps=200, search_steps=6, c=0.1)


def _linear(classes: int = 6) -> nn.Module:
    with rr.seeded(4):
        return nn.Sequential(nn.Flatten(), nn.Linear(108, classes))


def _distances(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, dual: int) -> torch.Tensor:
    """The distance of each image to each class's boundary with its label [N, C], infinite to itself."""
    weight, scores = model[1].weight.detach(), model(images).detach()
    gaps = scores.gather(1, labels[:, None]) - scores
    slopes = torch.linalg.vector_norm(weight[labels][:, None] - weight[None], ord=dual, dim=2)
    return (gaps.abs() / slopes).nan_to_num(nan=torch.inf)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_deep_fool_lands_just_behind_the_nearest_boundary(norm: str, dual: int) -> None:
    images, threat = photos(5, 6, 6), FAR[norm]
    for model in (_linear(2), _linear(6)):
        labels = model(images).argmax(1)
        found = rr.attacks.DeepFool(threat)(model, images, LABELS.untargeted(labels))
        share = threat.size(found - images) / _distances(model, images, labels, dual).amin(1)
        assert (model(found).argmax(1) != labels).all()
        assert ((share > 1) & (share < 1.025)).all(), share


def test_the_overshoot_lengthens_the_whole_change() -> None:
    images, model = photos(5, 6, 6), _linear(2)
    labels = model(images).argmax(1)
    found = rr.attacks.DeepFool(FAR["l2"], overshoot=0.2)(model, images, LABELS.untargeted(labels))
    share = FAR["l2"].size(found - images) / _distances(model, images, labels, 2).amin(1)
    torch.testing.assert_close(share, torch.full_like(share, 1.2), atol=1e-3, rtol=0)

    def bent(x: torch.Tensor) -> torch.Tensor:  # score (mean - .2)^2 - .01: zero at .3, from .5 four steps of Newton
        score = (x.flatten(1).mean(1) - 0.2).square() - 0.01
        return torch.stack([score, -score], dim=1)

    grey = torch.full((1, 3, 6, 6), 0.5)
    found = rr.attacks.DeepFool(FAR["linf"])(bent, grey, LABELS.untargeted(torch.tensor([0])))
    assert 0.2 < float((grey - found).max()) < 0.2 * 1.025


def test_only_the_likeliest_candidates_are_looked_at() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:  # the runner-up's boundary is far, the third class's near
        rise = (x - 0.5).flatten(1).sum(1)
        return torch.stack([torch.ones_like(rise), 0.9 + 0.01 * rise, 0.5 + rise], dim=1)

    images, objective = torch.full((1, 3, 6, 6), 0.5), LABELS.untargeted(torch.tensor([0]))
    for candidates, wanted in ((1, 0.1 / 0.01), (2, 0.5)):
        found = rr.attacks.DeepFool(FAR["l2"], candidates=candidates, steps=1)(model, images, objective)
        size = FAR["l2"].size(found - images)
        torch.testing.assert_close(size, torch.tensor([1.02 * wanted / 108**0.5]), rtol=1e-3, atol=0)


def test_cw_comes_within_five_percent_of_the_distance() -> None:
    images = photos(4, 6, 6)
    for model in (_linear(2), _linear(6)):
        labels = model(images).argmax(1)
        found = CW(model, images, LABELS.untargeted(labels))
        share = FAR["l2"].size(found - images) / _distances(model, images, labels, 2).amin(1)
        assert (model(found).argmax(1) != labels).all()
        assert ((share > 1 - 1e-4) & (share < 1.05)).all(), share


@pytest.mark.parametrize("attack", [CW, rr.attacks.DeepFool(rr.L2(100.0)), rr.attacks.DeepFool(rr.Linf(1.0))], ids=repr)
def test_black_and_white_pixels_move_as_far_as_the_box_lets_them(attack: rr.Attack) -> None:
    images, model = (photos(3, 6, 6) > 0.5).float(), Linear2()
    scores, weight = model(images).detach(), model.weight.detach()
    labels = scores.argmax(1)
    way = torch.where(labels == 0, -1.0, 1.0).view(-1, 1, 1, 1) * weight
    free = ((images == 0) & (way > 0)) | ((images == 1) & (way < 0))
    order = 2 if isinstance(attack.threat, rr.L2) else 1
    slope = torch.linalg.vector_norm((2 * weight * free).flatten(1), ord=order, dim=1)
    found = attack(model, images, LABELS.untargeted(labels))
    share = attack.threat.size(found - images) * slope / (scores[:, 0] - scores[:, 1]).abs()
    assert (model(found).argmax(1) != labels).all()
    assert ((share > 1 - 1e-4) & (share < 1.05)).all(), share


def test_cw_knows_negative_scores() -> None:
    images, model = photos(2, 6, 6), _linear()
    labels = model(images).argmax(1)
    plain, low = (CW(lambda x, k=k: model(x) - k, images, LABELS.untargeted(labels)) for k in (0.0, 100.0))
    torch.testing.assert_close(plain, low, atol=5e-3, rtol=0)
    assert (model(low).argmax(1) != labels).all()


def test_cw_reaches_the_goal_by_its_confidence() -> None:
    images, model, kappa = photos(3, 6, 6), _linear(), 0.5
    labels = model(images).argmax(1)
    near, sure = (CW.replace(confidence=k)(model, images, LABELS.untargeted(labels)) for k in (0.0, kappa))
    margin = [rr.losses.Margin()(model, images, LABELS.untargeted(labels)).gain(model(found)) for found in (near, sure)]
    assert ((margin[0] > 0) & (margin[0] < kappa)).all()
    assert (margin[1] > kappa - 1e-5).all()
    wanted = LABELS.targeted((labels + 1) % 6)
    margin = [rr.losses.Margin()(model, images, wanted).gain(model(CW.replace(confidence=kappa)(model, images, wanted)))]
    assert (margin[0] > kappa - 1e-5).all()


def test_cw_of_a_map_changes_what_the_goal_asks_and_no_more() -> None:
    images, model, task = photos(2), PixelSegmenter(), rr.tasks.Segmentation()
    target = model(images).argmax(1)
    target[:, :2] = 255
    objective = task.untargeted(target)
    found = CW.replace(steps=400, c=0.01, search_steps=6)(model, images, objective)
    nearest = ((images[:, 0] - images[:, 1]).abs() / 2**0.5)[:, 2:].flatten(1).sort(1).values
    least = nearest[:, : nearest.shape[1] // 2 + 1].square().sum(1).sqrt()  # half of the pixels and one
    share = rr.L2(100.0).size(found - images) / least
    assert objective.reached(model(found)).all()
    assert ((share > 1) & (share < 1.3)).all(), share
    assert torch.equal(found[:, :, :2], images[:, :, :2])


@pytest.mark.parametrize("attack", [CW, rr.attacks.DeepFool(rr.L2(100.0))], ids=repr)
def test_what_is_reached_already_stays_and_what_is_wanted_is_reached(attack: rr.Attack) -> None:
    images, model = photos(3, 6, 6), _linear()
    labels = model(images).argmax(1)
    assert torch.equal(attack(model, images, LABELS.untargeted((labels + 1) % 6)), images)
    wanted = (labels + 1) % 6
    found = attack(model, images, LABELS.targeted(wanted))
    assert torch.equal(model(found).argmax(1), wanted)
    assert torch.equal(attack(model, images, LABELS.targeted(labels)), images)
    back = attack(model, images, LABELS.untargeted(wanted).mirrored())  # the mirrored goal: the label, not away from it
    assert torch.equal(model(back).argmax(1), wanted)


@pytest.mark.parametrize("attack", [CW, rr.attacks.DeepFool(rr.L2(100.0))], ids=repr)
def test_the_threat_caps_the_change(attack: rr.Attack) -> None:
    images, model = photos(4, 6, 6), _linear(2)
    labels = model(images).argmax(1)
    distances = _distances(model, images, labels, 2).amin(1)
    eps = float(distances.median()) * 1.1
    found = attack.replace(threat=rr.L2(eps))(model, images, LABELS.untargeted(labels))
    assert (rr.L2(eps).size(found - images) <= eps + 1e-6).all()
    assert torch.equal(model(found).argmax(1) != labels, distances < eps)
    assert ((found - images).flatten(1).abs().amax(1) > 0).all()  # what needs more comes as far as it may


def test_an_equal_score_still_asks_for_a_step() -> None:
    images, model = torch.full((1, 3, 6, 6), 0.5), Linear2()  # its scores at grey are 0 and 0
    found = rr.attacks.DeepFool(rr.L2(1.0))(model, images, LABELS.untargeted(torch.tensor([0])))
    assert model(found).argmax(1) == 1
    assert rr.L2(1.0).size(found - images) < 2e-4


def test_slips_are_named() -> None:
    for name in ("steps", "search_steps", "lr", "c"):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            rr.attacks.CW(rr.L2(1.0), **{name: 0})
    with pytest.raises(ValueError, match="confidence: expected"):
        rr.attacks.CW(rr.L2(1.0), confidence=-1.0)
    for name, value in (("steps", 0), ("candidates", 0), ("overshoot", -0.1)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            rr.attacks.DeepFool(rr.L2(1.0), **{name: value})
    target = torch.zeros(2, 16, 20, dtype=torch.long)
    with pytest.raises(TypeError, match="DeepFool: expected an objective of classification, got one of segmentation"):
        rr.attacks.DeepFool(rr.L2(1.0))(PixelSegmenter(), photos(), rr.tasks.Segmentation().untargeted(target))
    for attack in (CW, rr.attacks.DeepFool(rr.L2(1.0))):
        with pytest.raises(ValueError, match="straight_through"):
            attack(lambda x: x.detach().flatten(1)[:, :2], photos(2), LABELS.untargeted(torch.tensor([0, 0])))
