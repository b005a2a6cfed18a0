"""optimise: what is no way is refused before anything is copied."""

from functools import partial

import pytest
from toys import photos
from toys_diffusion import Convolved

import robustrestore as rr
from robustrestore import diffusion
from robustrestore.diffusion import BFloat16, ChannelsLast, Compiled


class Uncopied(Convolved):
    def __deepcopy__(self, memo: dict) -> None:
        raise AssertionError("copied")


@pytest.mark.parametrize(
    ("ways", "kind", "message"),
    [
        (
            [BFloat16(Convolved())],
            TypeError,
            "expected classes such as diffusion.BFloat16, got a BFloat16: hand over",
        ),
        (BFloat16, TypeError, r"expected a list of classes such as \[diffusion.BFloat16\], got <class"),
        (BFloat16(Convolved()), TypeError, "expected a list of classes"),
        ("bfloat16", TypeError, "expected a list of classes such as .* got 'bfloat16'"),
        (None, TypeError, "expected a list of classes such as .* got None"),
        (["bfloat16"], TypeError, "expected classes such as diffusion.BFloat16, got 'bfloat16'"),
        ([ChannelsLast, 16], TypeError, "expected classes such as diffusion.BFloat16, got 16"),
        ([rr.purifiers.Blur], TypeError, "expected classes such as diffusion.BFloat16, got <class .*Blur"),
        ([BFloat16, ChannelsLast, BFloat16], ValueError, "expected each way once, got BFloat16 more than once"),
        ([Compiled, partial(Compiled, backend="eager")], ValueError, "expected each way once, got Compiled more than once"),
    ],
    ids=str,
)
def test_what_is_no_way(ways: object, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"ways: {message}"):
        rr.optimise(rr.purifiers.Diffusion(Uncopied()), ways)


def test_functions_and_classes_of_ones_own_are_ways() -> None:
    part = rr.purifiers.Diffusion(Convolved())
    fast = rr.optimise(part, (way for way in [lambda one: ChannelsLast(one), partial(Compiled, backend="eager")]), photos())
    assert type(fast.denoiser) is Compiled
    assert type(fast.denoiser.denoiser) is diffusion.ChannelsLast


def _wrapped(denoiser: diffusion.Denoiser, kind: type) -> diffusion.Denoiser:
    return kind(denoiser)


def test_one_function_with_other_arguments_is_another_way() -> None:
    part = rr.purifiers.Diffusion(Convolved())
    made = rr.optimise(part, [partial(_wrapped, kind=ChannelsLast), partial(_wrapped, kind=BFloat16)])
    assert isinstance(made.denoiser, BFloat16)
    assert made(photos()).shape == photos().shape
