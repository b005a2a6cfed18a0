"""Search: what is kept, what is dropped, what it costs, and what low precision may decide."""

import pytest
import torch
from torch import Tensor
from toys import Linear2, PixelSegmenter, photos

import robustrestore as rr
from robustrestore.search import Search, ascent, raw_gradient

EPS = 8 / 255


def _goal(count: int) -> rr.Objective:
    return rr.tasks.Classification().untargeted(torch.zeros(count, dtype=torch.long))


def test_the_highest_gain_is_kept_and_what_was_never_shown_is_not() -> None:
    model, images = Linear2(), photos(2, 6, 6)
    search = Search(model, images, _goal(2))
    worse, better = images + 0.01 * model.weight.detach().sign(), images - 0.01 * model.weight.detach().sign()
    for shown in (images, better, worse):
        search.look(shown)
    assert torch.equal(search.result(), better)
    assert torch.equal(Search(model, images, _goal(2)).result(), images)


def test_a_judged_goal_keeps_harm_before_gain() -> None:
    class Three(torch.nn.Module):
        """Class 0 has probability 0.45 and loses to class 1 at 0; probability 0.4 and wins at 1."""

        def forward(self, images: Tensor) -> Tensor:
            at = images.flatten(1).mean(1, keepdim=True)
            low, high = torch.tensor([[0.45, 0.55, 1e-6]]).log(), torch.tensor([[0.4, 0.3, 0.3]]).log()
            return low * (1 - at) + high * at

    dark, bright = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    for objective, kept in ((_goal(1), bright), (_goal(1).judged(), dark)):
        search = Search(Three(), dark, objective)
        search.look(dark)
        search.look(bright)
        assert torch.equal(search.result(), kept)


def test_drop_leaves_out_what_is_lost_and_result_puts_all_together() -> None:
    images = torch.full((4, 3, 8, 8), 0.5)
    images[:, 0] += torch.tensor([0.2, -0.2, 0.2, -0.2]).view(4, 1, 1)
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(4, 8, 8, dtype=torch.long))
    search = Search(PixelSegmenter(), images, goal.judged())
    search.look(images)
    kept = search.drop()
    assert kept is not None
    assert kept.tolist() == [0, 2]
    assert len(search) == 2
    moved = search.original.clone()
    moved[:, 0] -= 0.1
    search.look(moved)
    found = search.result()
    assert torch.equal(found[[1, 3]], images[[1, 3]])
    assert torch.equal(found[[0, 2]], moved)
    plain = Search(PixelSegmenter(), images, goal)
    plain.look(images)
    assert plain.drop() is None


def test_gradient_is_the_gradient_of_the_gain() -> None:
    images, target = photos(2).double(), torch.randint(0, 2, (2, 16, 20), generator=torch.Generator().manual_seed(1))
    goal = rr.tasks.Segmentation().untargeted(target)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(goal.gain(PixelSegmenter()(leaf)).sum(), leaf)
    for found in (ascent(PixelSegmenter(), images, goal)[1], raw_gradient(PixelSegmenter(), images, goal)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_adjusted_gains_may_depend_on_the_images_themselves() -> None:
    model, images = Linear2(), photos(2, 6, 6)
    search = Search(model, images, _goal(2))
    _, plain = search.gradient(images)
    _, moved = search.gradient(images, adjust=lambda gain, leaf: gain + 3 * leaf.flatten(1).sum(1))
    torch.testing.assert_close(moved - plain, torch.full_like(images, 3.0))


def test_nan_outputs_are_named() -> None:
    images = photos(2, 6, 6)
    search = Search(lambda x: Linear2()(x) * torch.nan, images, _goal(2))
    search.look(images)
    with pytest.raises(ValueError, match="expected finite values, got NaN"):
        search.result()


class Rounding(torch.nn.Module):
    """Linear2 whose low-precision copy sees success where full precision does not: bfloat16 loses a small offset."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0], [1.0]]))

    def forward(self, images: Tensor) -> Tensor:
        score = torch.nn.functional.linear(images.flatten(1).mean(1, keepdim=True), self.weight)
        return score + torch.tensor([0.001, 0.0], device=score.device).to(score.dtype) * (images.amax() < 2)


def test_success_under_autocast_is_confirmed_in_full_precision() -> None:
    images = torch.full((1, 1, 2, 2), 0.75)
    goal = rr.tasks.Classification().untargeted(torch.tensor([0])).judged()
    with torch.autocast("cpu", torch.bfloat16):
        assert Rounding()(images).dtype == torch.bfloat16
        search = Search(Rounding(), images, goal)
        search.look(images)
        search.look(images - 0.01)
        found = search.result()
    assert float(Rounding()(found)[0, 0]) > float(Rounding()(found)[0, 1])
    assert int(search.harm.sum()) == 0


@pytest.mark.gpu
def test_one_synchronisation_at_most() -> None:
    images, model = photos(2).cuda(), PixelSegmenter().cuda()
    goal = rr.tasks.Segmentation().untargeted(torch.zeros(2, 16, 20, dtype=torch.long, device="cuda"))
    search = Search(model, images, goal)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            search.gradient(images)
            search.look(images)
            search.drop()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    search.result()
