"""C&W for restorers: the smallest change that reaches a level in dB, against the closed form of a linear restorer."""

import pytest
import torch
from torch import Tensor
from toys import Gain, Moody, photos

import robustrestore as rr
from robustrestore import checks

TASK = rr.tasks.Restoration()
FREE = rr.L2(100.0)


def _network() -> Moody:
    with rr.seeded(0):
        return Moody().eval()


def _length(found: Tensor, images: Tensor) -> Tensor:
    return (found - images).flatten(1).norm(dim=1)


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
def test_the_smallest_change_of_a_linear_restorer(gain: float) -> None:
    """||f(x + d) - f(x)||^2 = gain^2 ||d||^2: the level asks for exactly ||d|| = sqrt(tau D) / gain, anywhere."""
    images, model = photos(2, 8, 9) * min(1.0, 0.9 / gain), Gain(gain)  # what is shown lies in [0, 1]
    goal = TASK.untargeted(images * gain)
    psnr = 30.0
    found = rr.attacks.CWRestoration(FREE, psnr=psnr)(model, images, goal)
    least = (10 ** (-psnr / 10) * images[0].numel()) ** 0.5 / gain
    length = _length(found, images)
    assert (length >= least * (1 - 1e-4)).all()
    assert (length <= least * 1.05).all()
    assert (TASK.loss(model(found), images * gain) >= 10 ** (-psnr / 10)).all()


def test_a_truth_off_the_output_is_left_along_the_shortest_way() -> None:
    images, model = photos(1, 8, 9), Gain(1.0)
    truth = images + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    goal, psnr = TASK.untargeted(truth), 25.0
    found = rr.attacks.CWRestoration(FREE, psnr=psnr)(model, images, goal)
    least = (10 ** (-psnr / 10) * images.numel()) ** 0.5 - (truth - images).norm()
    assert float(_length(found, images)) == pytest.approx(float(least), rel=0.05)


def test_a_targeted_goal_ends_at_the_level() -> None:
    images, model = photos(2, 8, 9), Gain(1.0)
    wanted = photos(2, 8, 9).flip(2)
    found = rr.attacks.CWRestoration(FREE, psnr=20.0, steps=100)(model, images, TASK.targeted(wanted))
    tau = 10 ** (-20.0 / 10)
    assert (TASK.loss(model(found), wanted) <= tau).all()
    least = _length(wanted, images) - (tau * images[0].numel()) ** 0.5
    assert (_length(found, images) <= least * 1.05).all()
    mirrored = rr.attacks.CWRestoration(FREE, psnr=20.0, steps=100)(model, images, TASK.untargeted(wanted).mirrored())
    torch.testing.assert_close(mirrored, found)


def test_lower_levels_cost_more_and_more_searches_never_do() -> None:
    images, model = photos(2), torch.nn.Sequential(_network(), torch.nn.Sigmoid())  # what is shown lies in [0, 1]
    with torch.no_grad():
        goal = TASK.untargeted(model(images))
    lengths = [_length(rr.attacks.CWRestoration(FREE, psnr=p)(model, images, goal), images) for p in (55.0, 50.0, 45.0)]
    assert (torch.stack(lengths).diff(dim=0) > 0).all()
    by_search = [_length(rr.attacks.CWRestoration(FREE, psnr=50.0, searches=n)(model, images, goal), images) for n in (3, 5, 9)]
    assert (torch.stack(by_search).diff(dim=0) <= 1e-6).all()


def test_overshoot_that_nobody_sees_is_no_success() -> None:
    images, psnr = torch.full((1, 3, 8, 8), 0.95), 15.0
    images[..., :4] = 0.5

    def model(x: Tensor) -> Tensor:
        return x + 9 * (x - 0.95).clamp(min=0)  # the cheapest way to an error that is cut off

    found = rr.attacks.CWRestoration(FREE, psnr=psnr)(model, images, TASK.untargeted(images))
    assert float(TASK.loss(model(found).clamp(0, 1), images)) >= 10 ** (-psnr / 10)


def test_black_and_white_images_move() -> None:
    """C&W's tanh has next to no slope at 0 and 1: there a binary image would come back all but unchanged."""
    own = torch.Generator().manual_seed(1)
    images = (torch.rand(1, 3, 8, 9, generator=own) > 0.5).float()
    model = Gain(1.0)
    found = rr.attacks.CWRestoration(FREE, psnr=25.0)(model, images, TASK.untargeted(images))
    assert (TASK.loss(model(found), images) >= 10**-2.5).all()
    assert float(_length(found, images)) <= 1.1 * (10**-2.5 * images.numel()) ** 0.5


def test_what_is_broken_already_stays_and_what_cannot_be_broken_gives_the_best() -> None:
    images, model = photos(2, 8, 9), Gain(0.5)
    goal = TASK.untargeted(torch.stack([images[0], images[1] * 0.5]))  # the first is far below the level already
    tight = rr.Linf(1 / 255)
    found = rr.attacks.CWRestoration(tight, psnr=20.0, searches=3, steps=10)(model, images, goal)
    assert torch.equal(found[0], images[0])
    best = rr.attacks.PGD(tight, steps=10)(model, images, goal)
    got, most = (goal.gain(model(x))[1] for x in (found, best))
    assert 0 < got <= most * (1 + 1e-5)
    assert got > 0.2 * most


def test_promises_batch_mates_and_settings() -> None:
    images, model = photos(3, 8, 9).double(), _network().double()  # Adam divides by faint gradients: rounding grows in it
    with torch.no_grad():
        clean = model(images)
    attack = rr.attacks.CWRestoration(rr.L2(2.0), psnr=30.0, searches=3, steps=10)
    checks.check_attack(attack, model, images, TASK.untargeted(clean))
    checks.check_component(attack)
    whole = attack(model, images, TASK.untargeted(clean))
    single = torch.cat([attack(model, images[k : k + 1], TASK.untargeted(clean[k : k + 1])) for k in range(3)])
    torch.testing.assert_close(whole, single, atol=1e-8, rtol=0)
    assert torch.equal(attack.replace(threat=rr.L2(0.0))(model, images, TASK.untargeted(clean)), images)


def test_slips_are_named() -> None:
    with pytest.raises(TypeError, match="expected an objective of restoration"):
        rr.attacks.CWRestoration(FREE)(
            lambda x: x.flatten(1)[:, :2], photos(1), rr.tasks.Classification().untargeted(torch.tensor([0]))
        )
    for slip in ({"searches": 0}, {"steps": 0}, {"samples": 0}, {"rate": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            rr.attacks.CWRestoration(FREE, **slip)
