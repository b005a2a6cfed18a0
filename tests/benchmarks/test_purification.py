"""The framework of the purifier tables, on a toy whose numbers are known; the rebuilt DDPM, on random weights."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustrestore as rr
from robustrestore.weights import fingerprint

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ddpm_mnist
    import purification
    import purifier_rows

    yield purifier_rows, purification, ddpm_mnist
    for name in (
        "purifier_rows",
        "purifier_sets",
        "purification",
        "agdm_strengths",
        "longer_attack",
        "ddpm_mnist",
        "published",
        "purifier_tables",
        "table_parts",
        "harness",
    ):
        sys.modules.pop(name, None)


class Half(nn.Module):
    """The estimate is gray whatever the image: a purifier that leaves nothing of an attack, and nothing of the image."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 + 0 * noisy


class Bright(nn.Module):
    """Class 1 where the image is brighter than 0.5 on average; at 0.5, class 0."""

    def forward(self, images: Tensor) -> Tensor:
        score = images.mean((1, 2, 3)) - 0.5
        return 10 * torch.stack([torch.full_like(score, 1e-4), score], 1)


def case(parts):
    levels = torch.tensor([0.3, 0.45, 0.55, 0.7] * 2)
    images = levels.view(-1, 1, 1, 1).expand(-1, 1, 16, 16).clone()
    return parts.Case(
        model=Bright(),
        batches=[(images[:4], (levels[:4] > 0.5).long()), (images[4:], (levels[4:] > 0.5).long())],
        task=rr.tasks.Classification(),
        denoiser=rr.diffusion.NoiseConditioned(Half()),
        sigma=0.1,
        eps=(0.1, 0.01),
        attack_steps=4,
        thorough=("DDPM",),
        known=("one-step", "DDPM"),
        few=("blur", "DDPM"),
        alone={"another model": Bright()},
    )


def test_the_table_says_what_is_known_of_the_toy(parts, tmp_path: Path) -> None:
    rows, script, _ = parts
    *_, made = script.at(case(rows), 0.1, tmp_path)
    assert made["missing"] == []
    cell = {(row["defence"], row["column"]): row["values"]["accuracy"] for row in made["rows"]}
    assert cell["no defence", "no attack"] == cell["another model", "no attack"] == 1.0
    assert cell["no defence", "adaptive"] == cell["another model", "adaptive"] == 0.5  # levels within 0.1 of 0.5 flip
    assert cell["blur", "worst"] == 0.5  # a blur does not change flat images
    assert {cell["one-step", column] for column in ("no attack", "oblivious", "adaptive", "noise known", "worst")} == {0.5}
    assert ("one-step", "bpda") not in cell
    assert ("DDPM", "surrogate") in cell
    assert ("DDIM", "noise known") not in cell
    assert ("DDIM", "worst") not in cell  # it would look better than that of rows with known noise
    assert not any("DDIM" in line for line in made["verdicts"])
    assert {row["count"] for row in made["rows"]} == {8}
    assert "Worst case, one-step against no defence: no difference beyond chance; accuracy 0.500 against 0.500" in "\n".join(
        made["verdicts"]
    )


def test_other_sizes_have_few_rows_and_the_attacker_who_sees_what_is_scored(parts, tmp_path: Path) -> None:
    rows, script, _ = parts
    *_, made = script.at(case(rows), 0.01, tmp_path)
    assert {(row["defence"], row["column"]) for row in made["rows"] if row["column"] not in ("no attack", "worst")} == {
        ("no defence", "adaptive"),
        ("another model", "adaptive"),
        ("blur", "adaptive"),
        ("DDPM", "noise known"),
    }
    assert {row["values"]["accuracy"] for row in made["rows"] if row["defence"] == "no defence"} == {1.0}


def test_what_is_done_is_not_done_again(parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, script, _ = parts
    first = list(script.at(case(rows), 0.01, tmp_path))
    assert first[0]["missing"]

    def refuse(*_: object) -> Tensor:
        raise AssertionError("attacked again")

    monkeypatch.setattr(rr.attacks.PGD, "run", refuse)
    assert list(script.at(case(rows), 0.01, tmp_path)) == first


def test_agdm_has_a_row_where_there_is_a_network_and_keeps_the_others_as_they_were(parts) -> None:
    rows, _, _ = parts
    from dataclasses import replace

    bare = case(rows)
    robust = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    without = [group.name for group in rows.groups(bare, 0.1)]
    more = [group.name for group in rows.groups(replace(bare, auxiliary=robust, terms=True), 0.1)]
    assert set(more) - set(without) == {"fresh AGDM oblivious adaptive"}
    assert set(rows.chains(replace(bare, auxiliary=robust, terms=True), 0)) - set(rows.chains(bare, 0)) == {
        "AGDM",
        "AGDM, features alone",
        "AGDM, class alone",
    }


def test_agdm_without_classes_is_guided_by_features_alone(parts) -> None:
    rows, _, _ = parts
    from dataclasses import replace

    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    made = rows.chains(replace(case(rows), auxiliary=network, class_weight=0.0), 0)["AGDM"]
    assert (made.guidance.class_weight, made.guidance.feature_weight) == (0.0, 1.0)


def test_a_sweep_of_strengths_stands_beside_the_chain_without_guidance(parts, tmp_path: Path) -> None:
    rows, _, _ = parts
    from dataclasses import replace

    import agdm_strengths

    bare = case(rows)
    robust = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        robust[2].weight.copy_(torch.tensor([[-10.0], [10.0]]))
        robust[2].bias.copy_(torch.tensor([5.0, -5.0]))
    (images, labels), _ = bare.batches
    tuned = replace(bare, auxiliary=robust, agdm=0.5, tuning=[(images[:3], labels[:3])])
    made = agdm_strengths.swept(tuned, (0.001, 1000.0), tmp_path)
    found = {(row["defence"], row["column"]): row["values"]["accuracy"] for row in made["rows"]}
    assert made["about"]["taken"] == 0.5
    assert made["about"]["auxiliary weights"] == fingerprint(robust)
    assert {row["count"] for row in made["rows"]} == {3}
    assert list(dict.fromkeys(name for name, _ in found)) == ["0", "0.001", "1000"]
    assert found["0", "no attack"] == found["0.001", "no attack"] == pytest.approx(2 / 3, abs=1e-6)  # gray is class 0
    assert found["1000", "no attack"] == 1.0  # its class of the input


class Side(nn.Module):
    """Class 1 where one half of the image, left or right, is brighter than 0.5 on average."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, images: Tensor) -> Tensor:
        half = images[..., 8:] if self.right else images[..., :8]
        score = half.mean((1, 2, 3)) - 0.5
        return 10 * torch.stack([-score, score], 1)


class RightTwice(nn.Module):
    """The estimate has the right half on both sides. With `hidden` no gradient tells so."""

    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        right = noisy[..., 8:].detach() + 0 * noisy[..., 8:] if self.hidden else noisy[..., 8:]
        return torch.cat([right, right], -1)


def sides(parts, hidden: bool = False):
    """A model that looks left behind chains that show it the right; levels within 0.1 of 0.5 flip."""
    from dataclasses import replace

    return replace(
        case(parts),
        model=Side(right=False),
        denoiser=rr.diffusion.NoiseConditioned(RightTwice(hidden)),
        sigma=0.01,
        auxiliary=nn.Sequential(nn.Flatten(), nn.Linear(256, 2)),
        agdm=1e-6,
        thorough=("DDPM", "AGDM"),
        known=("DDPM", "AGDM"),
        alone={"left": Side(right=False), "right": Side(right=True)},
        attack_steps=6,
    )


def test_a_longer_attack_stands_beside_transferred_ones(parts, tmp_path: Path) -> None:
    rows, _, _ = parts
    import longer_attack

    made = longer_attack.longer(sides(rows), tmp_path)
    found = {(row["defence"], row["column"]): row["values"]["accuracy"] for row in made["rows"]}
    assert found["left", "adaptive"] == found["right", "adaptive"] == found["DDPM", "noise known"] == 0.5
    assert found["AGDM", "noise known"] == 0.5
    assert found["AGDM, attack from left", "adaptive"] == 1.0  # the chain does not look there
    assert found["AGDM, attack from right", "adaptive"] == found["AGDM, attack from DDPM", "adaptive"] == 0.5
    assert found[longer_attack.WORST, "adaptive"] == 0.5
    assert made["about"]["attacks"] == ["PGD(threat=Linf(eps=0.1), steps=6, step=0.025, restarts=1, samples=1, seed=0)"]
    assert "seed=0" in made["about"]["defences"]["AGDM"][0]
    assert made["warnings"] == []
    assert [line.split(":")[0] for line in made["verdicts"]] == [
        f"PGD-6, {mine}, against {name}"
        for mine in ("AGDM", longer_attack.WORST)
        for name in ("left", "right", "no defence", "blur", "median", "JPEG", "DDPM")
    ] + ["PGD-6, left, against blur", "PGD-6, right, against blur"]


def test_a_row_without_gradient_does_not_save_agdm(parts, tmp_path: Path) -> None:
    rows, _, _ = parts
    import longer_attack

    made = longer_attack.longer(sides(rows, hidden=True), tmp_path)
    found = {(row["defence"], row["column"]): row["values"]["accuracy"] for row in made["rows"]}
    assert found["AGDM", "noise known"] == found["AGDM, attack from left", "adaptive"] == 1.0
    assert found["AGDM, attack from right", "adaptive"] == found[longer_attack.WORST, "adaptive"] == 0.5
    assert any(line.startswith("No evidence: AGDM") for line in made["warnings"])
    said = {line.split(":")[0]: line for line in made["verdicts"]}
    assert "better; accuracy 1.000 against 0.500, difference +0.500" in said["PGD-6, AGDM, against left"]
    assert "accuracy 0.500 against 0.500" in said[f"PGD-6, {longer_attack.WORST}, against left"]


def run(script, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    monkeypatch.setattr(
        sys, "argv", ["script", "--set", "toy", "--progress", str(folder / "progress" / script.__name__), *words]
    )
    script.main()


def test_the_scripts_work_together_and_lose_nothing(parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, purification, _ = parts
    from dataclasses import replace

    import harness
    import longer_attack
    import purifier_sets
    import purifier_tables
    import table_parts

    torch.manual_seed(0)
    toy = {"case": replace(sides(rows), attack_steps=4)}
    monkeypatch.setitem(purifier_sets.SETS, "toy", lambda *_: toy["case"])
    for module in (harness, purifier_tables, table_parts):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"expected the set's table purification_toy.json, found none"):
        run(longer_attack, monkeypatch, tmp_path)
    run(purification, monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="--steps: expected more than the table's 4, got 4"):
        run(longer_attack, monkeypatch, tmp_path, "--steps", "4")
    run(longer_attack, monkeypatch, tmp_path, "--steps", "6")
    table = purifier_tables.longer_attack("toy")
    assert "| accuracy, Linf 0.1, n = 8 | PGD-4 | PGD-6 |" in table
    assert "| left | 0.500 [0.157, 0.843] | 0.500 [0.157, 0.843] |" in table
    assert "| AGDM, attack from left |  | 1.000 [0.631, 1.000] |" in table
    assert "- PGD-6, AGDM, against DDPM: no difference beyond chance" in table

    toy["case"] = replace(toy["case"], agdm=2e-6)
    with pytest.raises(SystemExit, match=r"purification_toy.json of the same settings, it differs in \['agdm'\]"):
        run(longer_attack, monkeypatch, tmp_path)
    before = (tmp_path / "purification_toy.json").read_bytes()
    with pytest.raises(SystemExit, match=r"--sizes: .* it differs in \['agdm'\]"):
        run(purification, monkeypatch, tmp_path, "--sizes", "1")
    with pytest.raises(SystemExit, match=r"--sizes: expected numbers from 0 to 1, got \[7\]"):
        run(purification, monkeypatch, tmp_path, "--sizes", "7")
    assert (tmp_path / "purification_toy.json").read_bytes() == before
    toy["case"] = replace(toy["case"], agdm=1e-6)
    run(purification, monkeypatch, tmp_path, "--sizes", "1")
    assert (tmp_path / "purification_toy.json").read_bytes() == before


def test_strengths_that_are_none_and_sets_that_lack_something(parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _, _ = parts
    from dataclasses import replace

    import agdm_strengths
    import purifier_sets

    toy = {"case": replace(sides(rows), auxiliary=None)}
    monkeypatch.setitem(purifier_sets.SETS, "toy", lambda *_: toy["case"])
    with pytest.raises(SystemExit, match="expected --auxiliary WEIGHTS"):
        run(agdm_strengths, monkeypatch, tmp_path)
    toy["case"] = sides(rows)
    with pytest.raises(SystemExit, match="toy: expected images beside those of the table"):
        run(agdm_strengths, monkeypatch, tmp_path)
    toy["case"] = replace(toy["case"], tuning=toy["case"].batches)
    for wrong in ("0", "nan", "inf", "-1"):
        with pytest.raises(SystemExit, match="--strengths: expected finite numbers above 0"):
            run(agdm_strengths, monkeypatch, tmp_path, "--strengths", "1", wrong)
    weights = tmp_path / "weights.safetensors"
    for content in (None, b"no weights"):
        if content is not None:
            weights.write_bytes(content)
        with pytest.raises(SystemExit, match=r"weights.safetensors: expected a safetensors file of a Linear"):
            purifier_sets.same(nn.Linear(2, 2), weights)


@pytest.mark.parametrize("script", ["purification", "agdm_strengths", "longer_attack"])
def test_what_a_set_lacks_is_said(parts, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    main = importlib.import_module(script).main
    nowhere = ["--data", str(tmp_path / "nowhere")]
    for words, said in (
        (["--set", "camvid"], "camvid: expected --data"),
        (["--set", "x"], "expected one of"),
        (["--set", "rows", *nowhere], "expected one of"),
        (["--set", "a.b", *nowhere], "expected one of"),
        (["--set", "camvid", *nowhere], "camvid: expected other files in --data"),
        (["--set", "mnist", *nowhere], "mnist: expected other files in --data"),
    ):
        monkeypatch.setattr(sys, "argv", [script, *words, "--progress", str(tmp_path)])
        with pytest.raises(SystemExit, match=said):
            main()


def test_the_digits_network_loads_what_it_saves_and_tells_noise_per_image(parts, tmp_path: Path) -> None:
    _, _, ddpm = parts
    torch.manual_seed(0)
    network = ddpm.UNet().eval()
    torch.save({f"network.{name}": value for name, value in network.state_dict().items()}, tmp_path / "w.pt")
    denoiser = ddpm.load(tmp_path / "w.pt")
    noisy, sigma = torch.rand(2, 1, 28, 28), torch.tensor([0.1, 0.4])
    with torch.no_grad():
        both = denoiser(noisy, sigma)
        alone = denoiser(noisy[1:], sigma[1:])
        times = denoiser.timestep(sigma)
        a = torch.tensor([denoiser.alphas[int(t)] for t in times]).view(-1, 1, 1, 1)
        z = a.sqrt() * (2 * noisy + 0 - 1)
        expected = ((z - (1 - a).sqrt() * network(z, times)) / a.sqrt() + 1) / 2
    assert torch.allclose(both[1:], alone, atol=1e-5)
    assert torch.allclose(both, expected, atol=1e-5)


def test_the_last_block_of_the_digits_network_does_not_normalise(parts) -> None:
    _, _, ddpm = parts
    network = ddpm.UNet().eval()
    blocks = [part for part in network.modules() if isinstance(part, ddpm.Block)]
    assert [part.plain for part in blocks].count(True) == 1
    last, features = network.b_out[-1], torch.rand(1, 10, 28, 28)
    nn.init.constant_(last.ln.weight, 7.0)
    with torch.no_grad():
        before = last(features)
        nn.init.constant_(last.ln.weight, -3.0)
        assert torch.equal(last(features), before)
