"""diffusers folders as denoisers: both layouts, every prediction, offline, and nothing imported early."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import photos

from robustrestore.integrations.diffusers import denoiser_from, load_denoiser

diffusers = pytest.importorskip("diffusers")


def _unet(outputs: int = 3, **options: object) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            in_channels=3,
            out_channels=outputs,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            add_attention=False,
            **options,
        ).eval()


def _save(folder: Path, flat: bool, unet: torch.nn.Module, scheduler: object) -> Path:
    unet.save_pretrained(folder if flat else folder / "unet")
    scheduler.save_pretrained(folder if flat else folder / "scheduler")
    return folder


def _by_hand(unet: torch.nn.Module, scheduler: object, y: torch.Tensor, t: int) -> torch.Tensor:
    a = scheduler.alphas_cumprod[t].double()
    z = (a.sqrt() * (2 * y.double() - 1)).float()
    out = unet(z, t).sample[:, :3].double()
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        z0 = (z - (1 - a).sqrt() * out) / a.sqrt()
    else:
        z0 = out if kind == "sample" else a.sqrt() * z - (1 - a).sqrt() * out
    return (z0 + 1) / 2


def _check(denoiser, unet: torch.nn.Module, scheduler: object) -> None:
    for t in (9, 99, 300):
        a = float(scheduler.alphas_cumprod[t])
        sigma = ((1 - a) / a) ** 0.5 / 2
        assert denoiser.sigma(t) == pytest.approx(sigma, rel=1e-5)
        y = photos() + sigma * torch.randn(2, 3, 16, 20, generator=torch.Generator().manual_seed(t))
        with torch.no_grad():
            found, wanted = denoiser(y, denoiser.sigma(t)), _by_hand(unet, scheduler, y, t)
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("flat", [False, True], ids=["pipeline", "flat"])
@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [("linear", "epsilon"), ("squaredcos_cap_v2", "epsilon"), ("linear", "v_prediction"), ("squaredcos_cap_v2", "sample")],
)
def test_a_folder_becomes_a_denoiser(tmp_path: Path, flat: bool, schedule: str, prediction: str) -> None:
    unet = _unet()
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule, prediction_type=prediction)
    denoiser = load_denoiser(_save(tmp_path, flat, unet, scheduler))
    assert denoiser.prediction == prediction
    assert denoiser.multiple == 2
    assert not any(part.training for part in denoiser.modules())
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    _check(denoiser, unet, scheduler)
    assert denoiser(photos(1, 17, 23), 0.1).shape == (1, 3, 17, 23)


def test_another_schedulers_folder_and_learned_variances(tmp_path: Path) -> None:
    unet = _unet(outputs=6)
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=400, beta_start=5e-4, beta_end=0.03)
    denoiser = load_denoiser(str(_save(tmp_path, False, unet, scheduler)))
    assert len(denoiser.alphas) == 400
    _check(denoiser, unet, scheduler)


def test_timesteps_between_entries_reach_the_network() -> None:
    unet, scheduler = _unet(), diffusers.DDPMScheduler()
    denoiser, told = denoiser_from(unet, scheduler), []
    unet.register_forward_pre_hook(lambda module, args: told.append(args[1]))
    with torch.no_grad():
        denoiser(photos(), (denoiser.sigma(50) * denoiser.sigma(51)) ** 0.5)
    torch.testing.assert_close(told[0], torch.tensor([50.5, 50.5]), atol=1e-3, rtol=0)
    a, b, c = (unet.time_proj(torch.tensor([t])) for t in (50.0, told[0][0].item(), 51.0))
    assert 0 < (b - a).norm() < (c - a).norm()


def test_gradients_reach_the_image() -> None:
    denoiser, leaf = denoiser_from(_unet().requires_grad_(False), diffusers.DDPMScheduler()), photos(1, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(denoiser(leaf, 0.2).square().sum(), leaf)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ScoreSdeVeScheduler: expected a scheduler with alphas_cumprod"):
        denoiser_from(_unet(), diffusers.ScoreSdeVeScheduler())
    with pytest.raises(ValueError, match="prediction: expected epsilon, v_prediction or sample, got 'flow_prediction'"):
        denoiser_from(_unet(), diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"))
    with pytest.raises(ValueError, match="UNet2DModel: expected 3 channels out, or 6 with variances, got 4"):
        denoiser_from(_unet(outputs=4), diffusers.DDPMScheduler())
    for options in ({"num_class_embeds": 10}, {"class_embed_type": "timestep"}):
        with pytest.raises(ValueError, match="UNet2DModel: expected an unconditional network, got one that wants class labels"):
            denoiser_from(_unet(**options), diffusers.DDPMScheduler())


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_schedule_that_ends_without_signal_gives_advice_that_works(tmp_path: Path, prediction: str) -> None:
    unet = _unet()
    scheduler = diffusers.DDPMScheduler(rescale_betas_zero_snr=True, prediction_type=prediction)
    assert scheduler.alphas_cumprod[-1] == 0
    advice = r"got 0 at the last timestep \(zero terminal SNR\).* scheduler.alphas_cumprod = scheduler.alphas_cumprod\[:-1\]"
    with pytest.raises(ValueError, match=advice):
        load_denoiser(_save(tmp_path, False, unet, scheduler))
    with pytest.raises(ValueError, match=advice):
        denoiser_from(unet, scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod[:-1]
    denoiser = denoiser_from(unet, scheduler)
    assert len(denoiser.alphas) == 999
    _check(denoiser, unet, scheduler)


def test_other_broken_schedules_are_refused_as_such() -> None:
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=3)
    scheduler.alphas_cumprod = torch.tensor([0.9, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"alphas: expected .*values in \(0, 1\)"):
        denoiser_from(_unet(), scheduler)


def test_a_schedule_without_betas_is_not_read_as_the_default_one(tmp_path: Path) -> None:
    for number, scheduler in enumerate((diffusers.ScoreSdeVeScheduler(), diffusers.FlowMatchEulerDiscreteScheduler())):
        folder = _save(tmp_path / str(number), False, _unet(), scheduler)
        name = type(scheduler).__name__
        with pytest.raises(ValueError, match=f"expected the configuration of a scheduler with betas .*got {name} without"):
            load_denoiser(folder)


def test_a_name_that_is_neither_folder_nor_repository_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DDPMScheduler

    def unreachable(*args: object, **options: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(DDPMScheduler, "load_config", unreachable)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="models/church: expected a folder below .*or a repository on the hub.*no conn"):
        load_denoiser("models/church")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "church").write_text("a file")
    with pytest.raises(FileNotFoundError, match="models/church: expected a folder written by diffusers"):
        load_denoiser("models/church")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing/here", "~/nothing/here", "nothing", "a/b/c"])
def test_a_missing_folder_is_named(name: str) -> None:
    for given in (name, Path(name)):
        with pytest.raises(FileNotFoundError, match=r"nothing|/no/such/folder|a/b/c"):
            load_denoiser(given)
    with pytest.raises(FileNotFoundError, match="expected a folder written by diffusers' save_pretrained"):
        load_denoiser(name)


@pytest.mark.parametrize("lost", ["unet", "scheduler", "both"])
def test_an_incomplete_folder_says_what_it_lacks(tmp_path: Path, lost: str) -> None:
    if lost != "unet":
        _unet().save_pretrained(tmp_path / "unet")
    if lost != "scheduler":
        diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    if lost == "both":
        (tmp_path / "unet" / "config.json").unlink()
        (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    wanted = "scheduler_config" if lost == "scheduler" else "config"
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))}.*: expected {wanted}\.json, got .*write it anew"):
        load_denoiser(tmp_path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = _save(tmp_path, False, _unet(), diffusers.DDPMScheduler())
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(_unet().state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    said = r"unet: expected diffusion_pytorch_model\.safetensors, got config\.json, diffusion_pytorch_model\.bin: .*pickled"
    with pytest.raises(FileNotFoundError, match=said):
        load_denoiser(folder)


def test_nothing_is_imported_early_and_a_folder_loads_offline(tmp_path: Path) -> None:
    folder = _save(tmp_path, False, _unet(), diffusers.DDPMScheduler())
    code = f"""
import sys, robustrestore, robustrestore.integrations.diffusers, robustrestore.integrations.spandrel
heavy = ("diffusers", "spandrel", "torchvision", "torchmetrics", "scipy", "PIL", "huggingface_hub")
assert not [name for name in heavy if name in sys.modules], "imported early"
from huggingface_hub import constants
assert constants.HF_HUB_OFFLINE
denoiser = robustrestore.integrations.diffusers.load_denoiser({str(folder)!r})
print(len(denoiser.alphas), "torchvision" in sys.modules)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split()[0] == "1000"


def test_a_hub_repository_is_looked_for_in_subfolders_and_then_flat() -> None:
    from robustrestore.integrations import diffusers as bridge

    asked = []

    class Part:
        @classmethod
        def from_pretrained(cls, name: str, subfolder: str | None = None, **options: object) -> str:
            asked.append(subfolder)
            if subfolder:
                raise OSError("no such folder")
            return f"flat {name}"

    assert bridge._from(Part.from_pretrained, "google/ddpm-cifar10-32", "unet", local=False) == "flat google/ddpm-cifar10-32"
    assert asked == ["unet", None]
