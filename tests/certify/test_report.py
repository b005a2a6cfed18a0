"""Reports: figures by hand, checked again from the counts, tampering found; denoised smoothing."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import PixelSegmenter, photos
from toys_certify import Line, images_of

import robustrestore as rr
from robustrestore import certify, diffusion

NOISE = certify.Gaussian(0.25)
EPS = [0.0, 0.02]


def classified(folder: Path | None = None, **more: object) -> certify.CertifiedReport:
    model, images = Line(), images_of(30)
    target = model(images).argmax(1)
    target[:3] = 1 - target[:3]
    batches = [(images[:20], target[:20]), (images[20:], target[20:])]
    smoothed = certify.SmoothedClassifier(model, more.pop("noise", NOISE))  # type: ignore[arg-type]
    return certify.measure_classifier(smoothed, batches, (50, 1000), folder=folder, **more)  # type: ignore[arg-type]


def segmented() -> certify.CertifiedReport:
    images = photos(3, 12, 12)
    target = PixelSegmenter()(images).argmax(1)
    target[:, :2] = 255
    smoothed = certify.SmoothedSegmenter(PixelSegmenter(), certify.Gaussian(0.1))
    return certify.measure_segmenter(smoothed, [(images[:2], target[:2]), (images[2:], target[2:])], (20, 200))


def test_figures_of_a_classifier_are_those_of_its_rows(tmp_path: Path) -> None:
    report = classified(tmp_path)
    good = [r["radius"]["l2"] for r in report.rows if r["prediction"] == r["target"]]
    assert report.acr()["value"] == pytest.approx(sum(good) / 30)
    assert report.certified_accuracy(0.25)["value"] == pytest.approx(sum(r >= 0.25 for r in good) / 30)
    assert report.curve()[0][1] == pytest.approx(len(good) / 30)
    area = sum((b[0] - a[0]) * b[1] for a, b in zip(report.curve(), report.curve()[1:], strict=False))
    assert area == pytest.approx(report.acr()["value"])  # the ACR is the area below the curve
    assert len(list(tmp_path.glob("part-0000*/batch-*.safetensors"))) == 30
    assert classified(tmp_path).json() == report.json()
    assert "certified with probability at least 1 - 0.001" in report.markdown()
    assert "not for the base model" in report.markdown()


def test_batches_see_different_noise() -> None:
    image = images_of(1)
    batches = [(image, torch.zeros(1)), (image, torch.zeros(1))]
    found = certify.measure_classifier(certify.SmoothedClassifier(Line(), NOISE), batches, (10, 1000))
    assert found.rows[0]["counts"] != found.rows[1]["counts"]


def test_figures_of_a_segmenter_count_abstentions_as_errors() -> None:
    report = segmented()
    summary = report.summary()
    labelled = sum(r["labelled"] for r in report.rows)
    assert labelled == 3 * 120
    accuracy = summary["certified pixel accuracy"]["value"]
    assert accuracy == pytest.approx(sum(r["right"] for r in report.rows) / labelled)
    assert accuracy + summary["abstained"]["value"] <= 1 + 1e-9
    assert summary["certified mean IoU"]["value"] < summary["of certified pixels right"]["value"]


def test_10_mean_iou_by_hand_with_abstentions() -> None:
    from robustrestore.certify.measure import segmentation_row

    counts = torch.tensor([[200, 200, 200], [200, 3, 3]])
    candidates = torch.tensor([[0, 0, 1], [1, 1, 0]], dtype=torch.int16)
    target = torch.tensor([[0, 1, 1], [255, 1, 0]])
    known = {"tau": 0.75, "alpha": 0.001, "noise": NOISE, "shape": (3, 2, 3), "model": "m", "correction": certify.bounds.holm}
    row = segmentation_row(certify.SegmentationCertificate(candidates, counts, 10, 200, **known), target, 255)  # type: ignore[arg-type]
    assert (row["labelled"], row["kept"], row["right"]) == (5, 3, 2)
    assert row["intersection"] == [1, 1]
    assert row["union"] == [3, 3]  # class 0: two true, one said wrongly; class 1: three true
    mean = certify.CertifiedReport("segmentation", [row]).summary()["certified mean IoU"]["value"]
    assert mean == pytest.approx(1 / 3)


def restored(folder: Path | None = None) -> certify.CertifiedReport:
    images = photos(3, 12, 12)
    smoothed = certify.SmoothedRestorer(nn.AvgPool2d(3, 1, 1, count_include_pad=False), certify.Gaussian(0.05))
    return certify.measure_restorer(smoothed, [(images[:2], images[:2]), (images[2:], images[2:])], EPS, 200, folder=folder)


@pytest.mark.parametrize("make", [classified, segmented, restored], ids=["classifier", "segmenter", "restorer"])
def test_recheck_finds_nothing_in_a_report_as_made(make: object, tmp_path: Path) -> None:
    report = make()  # type: ignore[operator]
    assert certify.recheck(report) == []
    report.save(tmp_path)
    assert certify.recheck(tmp_path) == []
    assert certify.recheck(tmp_path / "certified.json") == []


@pytest.mark.parametrize("noise", [certify.Uniform(0.4), certify.Gridded(NOISE), certify.DSSN(0.05)], ids=repr)
def test_recheck_knows_every_noise(noise: certify.Noise) -> None:
    model, images = Line(), (images_of(3) * 255).round() / 255
    report = certify.measure_classifier(
        certify.SmoothedClassifier(model, noise), [(images, model(images).argmax(1))], (20, 300)
    )
    assert certify.recheck(report) == []
    assert certify.recheck(classified(looks=certify.Looks([100, 1000], 0.2))) == []


def test_recheck_finds_what_was_changed(tmp_path: Path) -> None:
    report = classified()
    report.save(tmp_path)
    file = tmp_path / "certified.json"

    def changed(path: list[object], value: object) -> list[str]:
        content = json.loads(report.json())
        at = content
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        file.write_text(json.dumps(content))
        return certify.recheck(file)

    row = next(k for k, r in enumerate(report.rows) if r["prediction"] is not None)
    label = str(report.rows[row]["selected"])
    assert "radius l2" in changed(["rows", row, "radius", "l2"], 0.9)[0]
    assert "p_low" in changed(["rows", row, "p_low"], 0.999)[0]
    assert "draws" in changed(["rows", row, "counts", label], 1000)[0] or report.rows[row]["counts"][label] == 1000
    assert changed(["about", "alpha"], 0.5)
    assert changed(["about", "noise", "settings", "sigma"], 0.5)
    assert changed(["rows", row, "n"], 900)
    assert changed(["rows", row, "prediction"], None)
    assert "level" in changed(["about", "level"], 0.01)[0]
    assert changed(["summary", "ACR l2", "value"], 0.9) == [f"summary: expected ACR l2 = {report.acr()['value']:.9g}, got 0.9"]
    assert changed(["rows", row, "n0"], 0) == [f"row {row}: n0: expected 50, got 0"]
    assert len(changed(["about", "draws"], [51, 1000])) == len(report.rows)
    assert "draws" in changed(["about", "draws"], [0, 1000])[0]
    assert changed(["rows"], []) == ["rows: expected certificates, got none"]
    assert changed(["summary"], None) == ["summary: expected figures, got none"]
    assert "cannot be made" in changed(["rows", row], {})[0]
    with pytest.raises(ValueError, match="missing alpha, level"):
        changed(["about"], {"noise": report.about["noise"], "model": "", "draws": [50, 1000], "looks": None})
    table = segmented()
    content = json.loads(table.json())
    content["rows"][0]["threshold"] -= 1
    content["rows"][1]["right"] += 1
    file.write_text(json.dumps(content))
    assert list(dict.fromkeys(text.split(":")[0] for text in certify.recheck(file))) == ["summary", "row 0", "row 1"]


def test_recheck_finds_what_was_changed_of_restored_images(tmp_path: Path) -> None:
    from safetensors.torch import load, save_file

    report = restored(tmp_path / "progress")
    report.save(tmp_path)
    assert report.json() == restored().json()  # a folder changes nothing
    assert certify.recheck(tmp_path) == []
    content, counts = json.loads(report.json()), tmp_path / "counts" / "000001.safetensors"

    def changed(path: list[object], value: object) -> list[str]:
        other = json.loads(report.json())
        at = other
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        (tmp_path / "certified.json").write_text(json.dumps(other))
        return certify.recheck(tmp_path)

    psnr = content["rows"][1]["certified"]["0.02"]
    found = changed(["rows", 1, "certified", "0.02"], psnr + 1e-6)
    assert f"row 1: L2 <= 0.02: expected {psnr:.9g}, got {psnr + 1e-6}" in found
    assert changed(["rows", 2, "psnr"], 40.0)[-1].startswith("row 2: PSNR: expected")
    for path, value in (
        (["about", "alpha"], 0.01),
        (["about", "noise", "settings", "sigma"], 0.06),
        (["about", "eps"], [0.0, 0.01]),
    ):
        assert len([text for text in changed(path, value) if text.startswith("row")]) >= 3
    assert "expected 201 draws" in changed(["about", "draws"], [50, 201])[0]
    (tmp_path / "certified.json").write_text(report.json())
    tensors = load(counts.read_bytes())
    tensors["counts"][3] += tensors["counts"][40]
    tensors["counts"][40] = 0  # the sums are as before
    save_file(tensors, counts)
    assert certify.recheck(tmp_path) == ["row 1: counts: expected those that the row was made from, got others"]
    honest = certify.CertifiedReport.load(tmp_path)
    honest.rows[1]["counts"] = honest.evidence[1].digest()
    assert any(text.startswith("row 1: L2 <=") for text in certify.recheck(honest))
    counts.unlink()
    assert certify.recheck(tmp_path) == ["counts: expected a file in counts for each of 3 rows, got 2"]


def test_sizes_are_stated_in_full_and_do_not_collapse() -> None:
    eps, images = [0.0, 1.0, 0.05, 0.1234567, 0.12345671, 1e-05], photos(1, 4, 4)
    report = certify.measure_restorer(certify.SmoothedRestorer(nn.Identity(), NOISE), [(images, images)], eps, 20)
    assert list(report.rows[0]["certified"]) == ["0", "1", "0.05", "0.1234567", "0.12345671", "1e-05"]
    assert [float(key) for key in report.rows[0]["certified"]] == eps
    assert "l2 >= 0.12345671" in classified().summary([0.12345671])


def test_counts_give_bounds_for_other_sizes_and_alphas_without_the_model() -> None:
    from robustrestore.certify.restorer import intervals, median_bounds

    image, smoothed = photos(1, 8, 8), certify.SmoothedRestorer(nn.Identity(), NOISE)
    (counted,) = smoothed.counts(image, 400)
    assert counted["counts"].dtype == torch.int16
    (direct,) = smoothed.median(image, [0.1], 400, 0.01)
    again = intervals(counted, 0.1 / 0.25, 400, 0.01, median_bounds)
    assert all(torch.equal(a, b) for a, b in zip(again, (direct[0].middle, direct[0].low, direct[0].high), strict=True))


def test_batches_and_images_do_not_matter_and_progress_counts_images() -> None:
    model, images = Line(), images_of(5)
    target, smoothed = model(images).argmax(1), certify.SmoothedClassifier(Line(), NOISE)
    seen: list[tuple[int, int]] = []
    reports = [
        certify.measure_classifier(
            smoothed, [(images[a:b], target[a:b]) for a, b in cuts], (10, 100), progress=lambda *p: seen.append(p)
        )
        for cuts in ([(0, 5)], [(0, 2), (2, 4), (4, 5)])
    ]
    assert reports[0].json() == reports[1].json()
    assert seen[:5] == [(k, 5) for k in range(1, 6)]
    assert seen[5:] == [*((k, 6) for k in range(1, 6)), (5, 5)]  # the last batch was smaller than its length said
    maps, restorer = certify.SmoothedSegmenter(PixelSegmenter(), NOISE), certify.SmoothedRestorer(nn.Identity(), NOISE)
    shots = photos(2, 8, 8)
    for ask in (
        lambda told: certify.measure_segmenter(maps, [(shots, torch.zeros(2, 8, 8).long())], (5, 60), progress=told),
        lambda told: certify.measure_restorer(restorer, [(shots, shots)], [0.0], 20, progress=told),
        lambda told: maps.certify(shots, 5, 60, progress=told),
        lambda told: smoothed.certify(images[:2], 10, 100, progress=told),
        lambda told: restorer.median(shots, [0.0], 20, progress=told),
        lambda told: restorer.mean(shots, [0.0], 20, progress=told),
        lambda told: certify.CentreSmoothing(nn.Identity(), NOISE).certify(shots, [0.0], 50, 20, 0.1, progress=told),
    ):
        seen.clear()
        ask(lambda *p: seen.append(p))
        assert seen == [(1, 2), (2, 2)]


def test_report_of_a_restorer_and_its_limits() -> None:
    images = photos(2, 12, 12)
    smoothed = certify.SmoothedRestorer(nn.Identity(), certify.Gaussian(0.05))
    report = certify.measure_restorer(smoothed, [(images, images)], [0.0, 0.02], n=200)
    summary = report.summary()
    assert summary["certified PSNR, L2 <= 0"]["value"] > summary["certified PSNR, L2 <= 0.02"]["value"]
    assert summary["PSNR of the noisy input"]["value"] == pytest.approx(20 * math.log10(1 / 0.05), abs=0.01)
    with pytest.raises(ValueError, match="classification"):
        report.acr()


def test_radii_of_label_maps_of_several_sizes_are_those_of_the_largest() -> None:
    def model(images: Tensor) -> Tensor:
        return torch.stack([images[:, 0], 1 - images[:, 0]], dim=1)

    batches = [(torch.rand(1, 1, h, h), torch.zeros(1, h, h, dtype=torch.long)) for h in (4, 16)]
    report = certify.measure_segmenter(certify.SmoothedSegmenter(model, certify.Gaussian(0.1)), batches, (10, 60))
    assert report.summary()["radius linf"]["value"] == report.rows[1]["radius"]["linf"] < report.rows[0]["radius"]["linf"]


def test_targets_and_batches_that_do_not_fit_are_named() -> None:
    images = photos(2, 12, 12)
    line, table = certify.SmoothedClassifier(Line(), NOISE), certify.SmoothedSegmenter(PixelSegmenter(), NOISE)
    restorer = certify.SmoothedRestorer(nn.Identity(), certify.Gaussian(0.05))
    measures = (
        lambda batches: certify.measure_classifier(line, batches, (5, 20)),
        lambda batches: certify.measure_segmenter(table, batches, (5, 60)),
        lambda batches: certify.measure_restorer(restorer, batches, [0.0], n=20),
    )
    for measure in measures:
        with pytest.raises(ValueError, match="at least one of"):
            measure([])
        with pytest.raises(ValueError, match="expected targets .2"):
            measure([(images, torch.zeros(1, 3, 12, 12))])
    (found,) = restorer.median(images[:1], [0.0], n=20)
    for ask in (found[0].psnr_low, found[0].psnr):
        with pytest.raises(ValueError, match="expected the shape"):
            ask(images[0, :1])


def test_promises_say_of_whom_and_over_what() -> None:
    images = photos(1, 12, 12)
    smoothed = certify.SmoothedRestorer(nn.Identity(), certify.Gaussian(0.05))
    promise = certify.measure_restorer(smoothed, [(images, images)], [0.0, 0.02], n=50).promise()
    assert "jointly over its values, each size by itself" in promise
    assert "ideal smoothed map" in promise
    assert "jointly over its pixels" in segmented().promise()
    assert "jointly" not in classified().promise()


def test_diffusion_timestep_of_a_noise() -> None:
    """The first timestep with noise of at least 2 sigma on [-1, 1] images, on both schedules in use."""
    cosine = [math.cos((t / 4000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(4001)]
    betas = [min(1 - cosine[t + 1] / cosine[t], 0.999) for t in range(4000)]
    alphas, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        alphas.append(product)
    levels = (0.12, 0.25, 0.5, 1.0)
    assert [certify.first_timestep(s, diffusion.linear_alphas()) for s in levels] == [70, 145, 259, 396]
    assert [certify.first_timestep(s, alphas) for s in levels] == [573, 1158, 1984, 2809]
    for s in levels:
        assert s <= certify.timestep_sigma(s, alphas) < 1.01 * s
    with pytest.raises(ValueError, match="got 0.0 at timestep 1"):
        certify.first_timestep(0.5, [1.0, 0.0])
    with pytest.raises(ValueError, match="last of 1000"):
        certify.first_timestep(100.0, diffusion.linear_alphas())


class Wiener(nn.Module):
    """The best denoiser of images that are one grey level each."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy.mean(dim=(1, 2, 3), keepdim=True).expand_as(noisy)


def test_denoised_smoothing_is_a_stage_in_front() -> None:
    """A model that falls to noise on one pixel; behind a denoiser, no noise added, it is certified far."""

    def pixel(images: Tensor) -> Tensor:
        value = images[:, 0, 0, 0] - 0.5
        return torch.stack([value, -value], dim=1)

    class Pixel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return pixel(images)

    image = torch.full((1, 1, 8, 8), 0.6)
    defended = rr.DefendedPipeline(Pixel(), [rr.purifiers.Denoise(diffusion.NoiseConditioned(Wiener()), sigma=0.25)])
    (plain,) = certify.SmoothedClassifier(Pixel(), NOISE).certify(image, n=2000)
    (found,) = certify.SmoothedClassifier(defended, NOISE).certify(image, n=2000)
    assert plain.radius["l2"] <= 0.1  # one pixel is that far from the threshold
    assert 0.5 < found.radius["l2"] <= 0.8  # the mean of 64 pixels: 0.1 * sqrt(64)
