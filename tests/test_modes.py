"""Looking at a module changes nothing: modes, statistics and random numbers are as found afterwards."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from toys import Moody, photos

import robustrestore as rr
from robustrestore.modes import evaluating, generator, seeded


def mixed() -> Moody:
    model = Moody().train()
    model.norm.eval()
    return model


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in module.named_modules()}


AS_FOUND = {"": True, "conv": True, "norm": False, "drop": True, "head": True}


def test_every_part_gets_its_own_mode_again() -> None:
    model = mixed()
    assert modes(model) == AS_FOUND
    with evaluating(model):
        assert not any(modes(model).values())
    assert modes(model) == AS_FOUND


def test_also_after_an_error_and_after_a_change_inside() -> None:
    model = mixed()
    with contextlib.suppress(ZeroDivisionError), evaluating(model):
        model.train()
        _ = 1 / 0
    assert modes(model) == AS_FOUND


def test_no_dropout_and_no_new_statistics_inside() -> None:
    model = Moody().train()
    before = model.norm.running_mean.clone()
    with evaluating(model):
        assert torch.equal(model(photos()), model(photos()))
    assert torch.equal(model.norm.running_mean, before)
    model(photos())
    assert not torch.equal(model.norm.running_mean, before)


def test_a_bound_method_stands_for_its_module() -> None:
    pipeline = rr.DefendedPipeline(mixed(), [rr.purifiers.Blur()])
    with evaluating(pipeline.predict):
        assert not any(modes(pipeline).values())
    assert modes(pipeline.model) == AS_FOUND
    assert pipeline.training


def test_nested_overlapping_and_several_modules() -> None:
    model, other = mixed(), nn.Dropout()
    with evaluating(model, other, model.drop):
        with evaluating(model.conv):
            assert not model.conv.training
        assert not any([*modes(model).values(), other.training])
    assert modes(model) == AS_FOUND
    assert other.training


@pytest.mark.parametrize("thing", [lambda x: x, None, torch.relu, [].append], ids=["function", "None", "builtin", "method"])
def test_what_is_no_module_is_left_alone(thing: object) -> None:
    model = mixed()
    with evaluating(thing, model):
        assert not model.training
    assert modes(model) == AS_FOUND


@pytest.fixture
def untouched() -> Iterator[None]:
    """PyTorch's global generator is the same before and after the test."""
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    yield
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.usefixtures("untouched")
def test_a_seed_repeats_and_leaves_the_global_generator_as_found() -> None:
    def draw(seed: int) -> torch.Tensor:
        with seeded(seed):
            return torch.rand(5)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_a_seed_is_the_one_that_manual_seed_knows() -> None:
    with seeded(12):
        inside = torch.rand(5)
    torch.manual_seed(12)
    assert torch.equal(inside, torch.rand(5))


@pytest.mark.usefixtures("untouched")
def test_after_an_error_and_nested() -> None:
    with contextlib.suppress(KeyError), seeded(3):
        raise KeyError(torch.rand(2))
    with seeded(3):
        first = torch.rand(2)
        with seeded(8):
            torch.rand(9)
        second = torch.rand(2)
    with seeded(3):
        assert torch.equal(torch.rand(4), torch.cat([first, second]))


def test_no_seed_goes_on_with_the_global_generator() -> None:
    torch.manual_seed(7)
    with seeded(None):
        first = torch.rand(2)
    second = torch.rand(2)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(4), torch.cat([first, second]))


def _draws(make: Callable[[], torch.Generator]) -> torch.Tensor:
    return torch.rand(5, generator=make())


@pytest.mark.usefixtures("untouched")
def test_a_generator_of_ones_own() -> None:
    assert torch.equal(_draws(lambda: generator(3)), _draws(lambda: generator(3)))
    assert not torch.equal(_draws(lambda: generator(3)), _draws(lambda: generator(4)))
    assert torch.equal(_draws(lambda: generator(0)), torch.rand(5, generator=torch.Generator().manual_seed(0)))


@pytest.mark.usefixtures("untouched")
def test_a_generator_without_a_seed_follows_the_global_one() -> None:
    with seeded(3):
        first, second = _draws(lambda: generator(None)), _draws(lambda: generator(None))
    assert not torch.equal(first, second)
    with seeded(3):
        assert torch.equal(first, _draws(lambda: generator(None)))
