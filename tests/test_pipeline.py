"""DefendedPipeline is a plain nn.Module: devices, modes, state, gradients, compile and export."""

import pytest
import torch
from torch import nn
from toys import Gain, Linear2, PixelSegmenter, photos

import robustrestore as rr


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_forward_is_predict_after_clean() -> None:
    images = photos()
    pipeline = rr.DefendedPipeline(_small(), [rr.purifiers.Blur(), rr.restorers.Network(Gain(0.5))])
    expected = pipeline.model(rr.purifiers.Blur()(images) * 0.5)
    torch.testing.assert_close(pipeline(images), expected)
    torch.testing.assert_close(pipeline.predict(images), pipeline.model(images))
    torch.testing.assert_close(pipeline.clean(images), rr.purifiers.Blur()(images) * 0.5)


def test_is_a_module() -> None:
    pipeline = rr.DefendedPipeline(_small(), [rr.restorers.UNet(width=4)])
    assert any(name.startswith("model.") for name in pipeline.state_dict())
    assert any(name.startswith("stages.0.") for name in pipeline.state_dict())
    assert not pipeline.eval().stages[0].training
    assert pipeline.to(torch.float64)(photos().double()).dtype == torch.float64


def test_gradients_reach_images_and_weights() -> None:
    pipeline = rr.DefendedPipeline(_small(), [rr.restorers.UNet(width=4), rr.purifiers.Jpeg()])
    leaf = photos().requires_grad_()
    pipeline(leaf).square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0
    assert pipeline.stages[0].body.head.weight.grad.abs().sum() > 0


def test_straight_through_is_the_identity_backward() -> None:
    images = photos()
    pipeline = rr.DefendedPipeline(Gain(3.0), [rr.purifiers.Blur(2.0), rr.purifiers.BitDepth(2)])
    view = pipeline.straight_through()
    torch.testing.assert_close(view(images), pipeline(images))
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(view(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, torch.full_like(images, 3.0))


def test_a_saturated_pixel_hides_no_gradient() -> None:
    pipeline = rr.DefendedPipeline(Gain(1.0), [rr.restorers.Network(Gain(9.0))])
    leaf = photos().requires_grad_()
    assert (pipeline(leaf) == 1).any()
    (gradient,) = torch.autograd.grad(pipeline(leaf).sum(), leaf)
    torch.testing.assert_close(gradient, torch.full_like(leaf, 9.0))


@pytest.mark.parametrize(
    ("stages", "error"),
    [([nn.Identity()], "wrap an image-to-image module in restorers.Network"), (["blur"], "got str")],
)
def test_stages_have_to_be_stages(stages: list[object], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        rr.DefendedPipeline(_small(), stages)


def test_one_stage_needs_no_list_and_a_function_is_no_model() -> None:
    assert len(rr.DefendedPipeline(_small(), rr.purifiers.Blur()).stages) == 1
    with pytest.raises(TypeError, match="torch.nn.Module, got function"):
        rr.DefendedPipeline(lambda x: x, [])


def test_a_stage_that_changes_the_size_is_named() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., ::2]

    with pytest.raises(ValueError, match="Network: expected run to keep the shape"):
        rr.DefendedPipeline(_small(), [rr.restorers.Network(Half())])(photos())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (photos() * 255, "divide by 255"),
        (photos() - 0.5, "Adapted"),
        (photos()[0], r"images\[None\]"),
        (photos().fill_(float("nan")), "finite"),
    ],
)
def test_bad_images(images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rr.DefendedPipeline(PixelSegmenter(), [rr.purifiers.Blur()])(images)


def test_empty_batches_pass_and_grey_images_are_named() -> None:
    purifier = rr.purifiers.Diffusion(rr.diffusion.SigmaUNet(width=4))
    for stage in (purifier, rr.restorers.UNet(width=4), rr.purifiers.Jpeg(), rr.purifiers.Median()):
        assert stage(photos()[:0]).shape == (0, 3, 16, 20)
    for stage in (purifier, rr.restorers.UNet(width=4)):
        with pytest.raises(ValueError, match=r"expected 3 channels, got 1.*expand"):
            stage(photos()[:, :1])


def test_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match=r"images\.float\(\) / 255"):
        rr.DefendedPipeline(PixelSegmenter())((photos() * 255).byte())


def test_saved_and_loaded_it_predicts_the_same(tmp_path) -> None:
    pipeline = rr.DefendedPipeline(rr.Adapted(_small(), mean=[0.5] * 3), [rr.restorers.UNet(width=4), rr.purifiers.Jpeg(40)])
    nn.init.normal_(pipeline.stages[0].body.head.weight, std=0.1)
    pipeline.save_pretrained(tmp_path)
    again = rr.DefendedPipeline.from_pretrained(tmp_path, {"model.model": _small()})
    assert torch.equal(again(photos()), pipeline(photos()))
    with pytest.raises(KeyError, match=r"model\.model"):
        rr.DefendedPipeline.from_pretrained(tmp_path)


def test_export_gives_the_same_outputs() -> None:
    pipeline = rr.DefendedPipeline(_small(), [rr.purifiers.Blur(), rr.purifiers.Median(), rr.restorers.UNet(width=4)]).eval()
    exported = torch.export.export(pipeline, (photos(),), strict=False)
    torch.testing.assert_close(exported.module()(photos()), pipeline(photos()))


def test_compile_without_graph_breaks_gives_the_same_outputs_and_gradients() -> None:
    pipeline = rr.DefendedPipeline(Linear2(3, 16), [rr.purifiers.Blur(), rr.restorers.UNet(width=4)]).eval()
    nn.init.normal_(pipeline.stages[1].body.head.weight, std=0.1)
    compiled = torch.compile(pipeline, backend="aot_eager", fullgraph=True)
    grads = []
    for module in (pipeline, compiled):
        leaf = photos(2, 16, 16).requires_grad_()
        grads.append(torch.autograd.grad(module(leaf)[:, 0].sum(), leaf)[0])
    torch.testing.assert_close(compiled(photos(2, 16, 16)), pipeline(photos(2, 16, 16)))
    torch.testing.assert_close(*grads)


def test_diffusion_pipeline_compiles() -> None:
    purifier = rr.purifiers.Diffusion(rr.diffusion.SigmaUNet(width=4), steps=2, seed=None, sampler=rr.diffusion.DDIM())
    pipeline = rr.DefendedPipeline(_small(), [purifier]).eval()
    compiled = torch.compile(pipeline, backend="aot_eager")
    with torch.no_grad(), rr.seeded(1):
        expected = pipeline(photos(1, 16, 16))
    with torch.no_grad(), rr.seeded(1):
        found = compiled(photos(1, 16, 16))
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
def test_moves_to_a_gpu() -> None:
    purifier = rr.purifiers.Diffusion(rr.diffusion.SigmaUNet(width=8), steps=3)
    pipeline = rr.DefendedPipeline(_small(), [purifier, rr.purifiers.Jpeg(), rr.purifiers.Median()])
    cpu = pipeline(photos())
    torch.testing.assert_close(pipeline.cuda()(photos().cuda()).cpu(), cpu, atol=2e-3, rtol=1e-2)
