"""What a purifier is worth in front of the bundled derain network: rain and attack on the bundled photographs.

python benchmarks/photographs.py [--device cuda]

The story of `robustrestore demo`, with every baseline. Writes results/photographs.json.
"""

import argparse

import harness
import robustrestore as rr
from robustrestore.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rain = rr.degradations.Rain()
    clean = [image.to(options.device) for image in rr.assets.photographs().values()]
    batches = [(rain(image, [k]), image) for k, image in enumerate(clean)]
    pipeline = rr.DefendedPipeline(rr.restorers.UNet.derain(), [rr.purifiers.Diffusion.default()]).to(options.device)
    baselines = [rr.purifiers.Blur(), rr.purifiers.Jpeg(), rr.purifiers.Median(), rr.purifiers.BitDepth()]
    attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=options.steps)
    report = rr.evaluate(pipeline, batches, rr.tasks.Restoration(), [attack], baselines=baselines)
    report.about |= {"degradation": repr(rain), "machine": harness.machine(options.device)}
    write_text(harness.RESULTS / "photographs.json", report.json())
    print(report)


if __name__ == "__main__":
    main()
