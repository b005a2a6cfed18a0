"""APGD and targeted APGD: the optimum of linear models, step control, several thresholds, classes that do not suffice."""

import pytest
import torch
from torch import Tensor, nn
from toys import Linear2, Moody, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.attacks.apgd import _halve, _Walk

EPS = 8 / 255
KINDS = (rr.attacks.APGD, rr.attacks.PGD)


class Linear5(nn.Module):
    """Five classes, linear in the image."""

    def __init__(self) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(9)
        self.weight = nn.Parameter(torch.randn(5, 108, generator=own))

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


@pytest.mark.parametrize("loss", [None, rr.losses.Margin()], ids=repr)
def test_linear_model_linf_optimum(loss: rr.Loss | None) -> None:
    images, model = photos(3, 6, 6), Linear2()
    found = rr.attacks.APGD(rr.Linf(EPS), steps=10, loss=loss)(
        model, images, rr.tasks.Classification().untargeted(torch.tensor([0, 0, 0]))
    )
    torch.testing.assert_close(found, images - EPS * model.weight.detach().sign(), atol=1e-6, rtol=0)


def test_linear_model_l2_optimum_is_met_closer_than_pgd_does() -> None:
    images, model = photos(3, 6, 6), Linear2()
    goal = rr.tasks.Classification().untargeted(torch.tensor([0, 0, 0]))
    best = images - 0.1 * model.weight.detach() / model.weight.detach().norm()
    far = [float((kind(rr.L2(0.1), steps=40)(model, images, goal) - best).abs().max()) for kind in KINDS]
    assert far[0] < 1e-4
    assert far[0] < far[1] + 1e-5  # rounding


def test_targeted_form_reaches_the_most_damaging_class_of_a_linear_model() -> None:
    images, model = photos(4, 6, 6), Linear5()
    labels = model(images).argmax(1)
    goal = rr.tasks.Classification().untargeted(labels)
    found = rr.attacks.APGDT(rr.Linf(EPS), steps=10, targets=4)(model, images, rr.losses.Margin()(model, images, goal))
    weights = model.weight.detach()
    # towards class t the margin of a linear model rises by eps |w_t - w_y|_1, box aside
    reach = []
    for image, label in zip(images, labels, strict=True):
        lift = EPS * (weights - weights[label]).abs().sum(1)
        margin = model(image[None])[0] - model(image[None])[0, label] + lift
        margin[label] = -torch.inf
        reach.append(margin.max().detach())
    logits = model(found)
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    share = ((other - own) / torch.stack(reach)).detach()
    assert float(share.min()) > 0.95  # the denominator of DLR moves with the image: no closed form is met to the digit
    assert float(share.max()) < 1 + 1e-5


@pytest.mark.parametrize("attack", [rr.attacks.APGDT, rr.attacks.APGD])
def test_two_classes_are_enough(attack: type[rr.Attack]) -> None:
    images, model = photos(2), PixelSegmenter()
    target = model(images).argmax(1)
    found = attack(rr.Linf(EPS), steps=12)(model, images, rr.tasks.Segmentation().untargeted(target))
    assert (
        float((model(found).argmax(1) != target).float().mean())
        > float(
            (
                model(rr.attacks.FGSM(rr.Linf(EPS))(model, images, rr.tasks.Segmentation().untargeted(target))).argmax(1)
                != target
            )
            .float()
            .mean()
        )
        - 1e-6
    )


def test_step_control_halves_where_few_steps_rise_and_where_nothing_is_won() -> None:
    image = torch.zeros(4, 1, 1, 1)
    walk = _Walk(
        now=image + 1,
        before=image,
        gradient=image,
        size=torch.ones(4),
        top=image + 2,
        top_gradient=image + 3,
        top_gain=torch.tensor([5.0, 5.0, 1.0, 1.0]),
        gain=torch.zeros(4),
        rises=torch.tensor([3.0, 4.0, 4.0, 4.0]),  # of a window of 4: three quarters are not enough
        halved=torch.tensor([False, False, False, True]),
        checked=torch.ones(4),
    )
    _halve(walk, 4)
    assert walk.size.tolist() == [0.5, 1, 0.5, 1]
    assert walk.now.flatten().tolist() == [2, 1, 2, 1]
    assert walk.gradient.flatten().tolist() == [3, 0, 3, 0]
    assert walk.rises.tolist() == [0, 0, 0, 0]


def test_a_loss_that_does_not_compare_is_controlled_by_the_objective() -> None:
    images, model = photos(2), Moody().eval()
    target = torch.randint(0, 3, (2, 16, 20), generator=torch.Generator().manual_seed(0))
    goal = rr.tasks.Segmentation().untargeted(target)

    class Reversed(rr.Loss):
        """The goal's own gain, with a sign that turns at random: useless for control."""

        comparable = False

        def run(self, model: object, images: Tensor, objective: rr.Objective) -> rr.Objective:
            return objective

    plain = rr.attacks.APGD(rr.Linf(EPS), steps=12)(model, images, goal)
    assert torch.equal(plain, rr.attacks.APGD(rr.Linf(EPS), steps=12, loss=Reversed())(model, images, goal))


def test_steps_are_gradients() -> None:
    images, model = photos(2), rr.Counted(PixelSegmenter())
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(2, 16, 20, dtype=torch.long))
    rr.attacks.APGD(rr.Linf(EPS), steps=7)(model, images, goal)
    assert model.backwards == 7
    assert model.forwards == 8


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="restarts: expected"):
        rr.attacks.APGD(rr.Linf(EPS), restarts=0)
    with pytest.raises(ValueError, match="targets: expected"):
        rr.attacks.APGDT(rr.Linf(EPS), targets=0)
    with pytest.raises(TypeError, match="classification or segmentation"):
        rr.attacks.APGDT(rr.Linf(EPS))(nn.Identity(), photos(1), rr.tasks.Restoration().untargeted(photos(1)))
