"""The bundled derain network under every restoration attack: PSNR against the clean photograph, at four sizes.

python benchmarks/restorer_attacks.py [--steps 20] [--photos 4] [--device cuda]

The photographs are those of scikit-image, rain is ours. Random noise of the same size stands beside the attacks. Writes
results/restorer_attacks.json.
"""

import argparse

from rich.progress import track

import harness
import robustrestore as rr

SIZES = (1, 2, 4, 8)


def attacks(threat: rr.Threat, steps: int) -> dict[str, rr.Attack]:
    """By the name in the table."""
    ours, losses = rr.attacks, rr.losses
    return {
        "uniform noise": ours.UniformNoise(threat),
        "constant shift": ours.ConstantShift(threat),
        "PGD, ground truth": ours.PGD(threat, steps),
        "PGD, L1 to ground truth": ours.PGD(threat, steps, loss=losses.L1()),
        "APGD, ground truth": ours.APGD(threat, steps),
        "CosPGD, ground truth": ours.CosPGD(threat, steps),
        "PGD, away from its own clean output": ours.PGD(threat, steps, loss=losses.CleanOutput()),
        "PGD, undo the restoration": ours.PGD(threat, steps, loss=losses.Undo()),
        "Worst": ours.Worst.restoration(threat, steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    clean = list(rr.assets.photographs().values())[: options.photos]
    rain = rr.degradations.Rain()
    batches = [(rain(image, [k]).to(options.device), image.to(options.device)) for k, image in enumerate(clean)]
    pipeline = rr.DefendedPipeline(rr.restorers.UNet.derain()).to(options.device)
    content = {"about": {**harness.machine(options.device), "images": len(clean), "steps": options.steps, "seed": 0}}
    content["results"] = {}
    for size in SIZES:
        named = attacks(rr.Linf(size / 255), options.steps)
        report = rr.evaluate(pipeline, track(batches, f"eps {size}/255"), rr.tasks.Restoration(), list(named.values()))
        rows = {"no attack": report.row("none", "-", "none")}
        rows |= {name: report.row("none", "-", repr(attack)) for name, attack in named.items()}
        content["results"][str(size)] = {
            "rows": {name: {"PSNR": [row.values["PSNR"], *row.intervals["PSNR"]], "SSIM": row.values["SSIM"]}
                     for name, row in rows.items()},
            "verdicts": report.verdicts,
        }  # fmt: skip
        harness.write("restorer_attacks", content)
        print(size, {name: round(row.values["PSNR"], 2) for name, row in rows.items()})


if __name__ == "__main__":
    main()
