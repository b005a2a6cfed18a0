"""diffusers folders whose files contradict each other: refused by name, where diffusers itself would go on."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor
from toys import photos

from robustrestore.integrations.diffusers import load_denoiser

diffusers = pytest.importorskip("diffusers")
FILE = "diffusion_pytorch_model.safetensors"


def _unet(block: str = "") -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=(f"{block}DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", f"{block}UpBlock2D"),
            norm_num_groups=4,
        ).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _unet().save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    return tmp_path


def _rewritten(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load(file.read_bytes())
    change(state)
    save_file(state, file)


def _told(folder: Path, part: str, **changes: object) -> None:
    """Changes in a configuration; None leaves the key out."""
    file = folder / part / ("config.json" if part == "unet" else "scheduler_config.json")
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in changes or value is not None}))


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda s: s.pop("conv_in.weight"), r"missing: conv_in\.weight: a file is incomplete"),
    "unknown": (lambda s: s.update(more=torch.zeros(1)), r"unknown: more: "),
    "shape": (
        lambda s: s.update({"conv_in.weight": torch.zeros(8, 4, 3, 3)}),
        r"of another shape: conv_in\.weight \(expected \[8, 3, 3, 3\], got \[8, 4, 3, 3\]\): ",
    ),
    "all": (
        lambda s: s.update({"conv_in.bias": torch.zeros(9), "more": s.pop("conv_out.bias")}),
        r"missing: conv_out\.bias; unknown: more; of another shape: conv_in\.bias \(expected \[8\], got \[9\]\): ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit_are_named_with_their_sizes(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    change, said = WRONG[name]
    _rewritten(folder / "unet" / FILE, change)
    with pytest.raises(ValueError, match=rf"expected the weights of its UNet2DModel; {said}"):
        load_denoiser(folder)
    assert not caplog.records
    assert not logging.getLogger("diffusers.models.modeling_utils").disabled


def test_a_configuration_of_another_width(folder: Path) -> None:
    _told(folder, "unet", block_out_channels=[16, 32])
    with pytest.raises(ValueError, match=r"of another shape: conv_in\.weight \(expected \[16, 3, 3, 3\], got \[8, 3, 3, 3\]\)"):
        load_denoiser(folder)


def test_weights_that_are_no_numbers(folder: Path) -> None:
    _rewritten(folder / "unet" / FILE, lambda s: s.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)}))
    with pytest.raises(ValueError, match=r"expected weights of its UNet2DModel: .*conv_in\.bias"):
        load_denoiser(folder)


def test_shards_are_read_and_have_to_be_whole(folder: Path) -> None:
    (folder / "unet" / FILE).unlink()
    _unet().save_pretrained(folder / "unet", max_shard_size="20KB")
    first, second, *_ = sorted((folder / "unet").glob("*.safetensors"))
    noisy = photos(1, 8, 8)
    with torch.no_grad():
        whole = load_denoiser(folder).network(noisy, torch.tensor([9]))
        torch.testing.assert_close(whole, _unet()(noisy, 9).sample)
    lost = next(iter(load_file(second)))
    _rewritten(second, lambda s: s.pop(lost))
    with pytest.raises(ValueError, match=rf"{second.name}: expected what its index says; missing: {lost}"):
        load_denoiser(folder)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected {first.name}, which its index names, got none"):
        load_denoiser(folder)


def test_weights_under_the_old_names_of_attention_still_load(folder: Path) -> None:
    """As in the repositories of 2022, the DDPMs of Google among them."""
    unet, old = _unet("Attn"), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    unet.save_pretrained(folder / "unet")

    def rename(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if ".attentions." in name]:
            for new, was in old.items():
                if f".{new}." in name:
                    state[name.replace(f".{new}.", f".{was}.")] = state.pop(name)

    _rewritten(folder / "unet" / FILE, rename)
    assert any(".query." in name for name in load_file(folder / "unet" / FILE))
    noisy = photos(1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_denoiser(folder).network(noisy, torch.tensor([9])), unet(noisy, 9).sample)


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "AutoencoderKL", 3])
def test_other_networks_are_refused(folder: Path, name: object) -> None:
    _told(folder, "unet", _class_name=name)
    with pytest.raises(ValueError, match=f"expected the configuration of a UNet2DModel, got {name}: other networks"):
        load_denoiser(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prediction_type": "noise"}, "prediction_type: expected epsilon, v_prediction or sample, got 'noise'"),
        ({"use_flow_sigmas": True}, "prediction_type: .*got use_flow_sigmas"),
        ({"num_train_timesteps": 0}, "num_train_timesteps: expected a whole number >= 2, got 0"),
        ({"num_train_timesteps": 9.5}, "num_train_timesteps: expected a whole number >= 2, got 9.5"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas: expected as many as num_train_timesteps, 1000, got 2"),
        ({"beta_start": None}, "a scheduler with betas .*got DDPMScheduler without beta_start"),
        ({"beta_start": -0.1}, r"expected betas of its scheduler in \(0, 1\], got -0\.1 to 0\.02"),
        ({"beta_end": 2.0}, r"expected betas of its scheduler in \(0, 1\], got 0\.0001 to 2"),
        ({"beta_end": "a"}, "expected the configuration of a scheduler that diffusers can make: "),
        ({"beta_schedule": "bent"}, "a scheduler that diffusers can make: bent is not implemented"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "a scheduler of diffusers with betas .*, got FlowMatchEuler.*hand one",
        ),
        ({"_class_name": "Foo"}, "a scheduler of diffusers with betas .*, got Foo"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_schedules_that_contradict_are_refused(folder: Path, changes: dict[str, object], said: str) -> None:
    _told(folder, "scheduler", **changes)
    with pytest.raises(ValueError, match=said):
        load_denoiser(folder)


def test_what_is_no_configuration(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected the configuration of a scheduler by names, got list"):
        load_denoiser(folder)


def test_a_schedule_is_what_its_own_class_makes_of_it(folder: Path) -> None:
    for number, scheduler in enumerate(
        (
            diffusers.CogVideoXDDIMScheduler(rescale_betas_zero_snr=False),
            diffusers.DDPMScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3),
        )
    ):
        place = folder / str(number)
        _unet().save_pretrained(place / "unet")
        scheduler.save_pretrained(place / "scheduler")
        assert load_denoiser(place).alphas == pytest.approx(scheduler.alphas_cumprod.tolist(), rel=1e-6)
