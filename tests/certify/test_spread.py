"""Certification in two processes: what one process would find, found by two, known to both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustrestore.certify import spread

HERE = Path(__file__).parents[1]
SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from toys import PixelSegmenter, photos
from toys_certify import Line, images_of
from robustrestore import certify
from robustrestore.files import digest

out, noise, asked = Path(sys.argv[1]), certify.Gaussian(0.25), []

class Counted(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, images):
        asked.append(len(images))
        return self.model(images)

images, maps = images_of(5), photos(3, 8, 8)
line = certify.SmoothedClassifier(Counted(Line()), noise, 10)
found = {"classifier": [c.row() for c in line.certify(images, 20, 80)], "asked": sum(asked)}
batches = [(images[k : k + 1], torch.zeros(1)) for k in range(5)]
report = certify.measure_classifier(line, batches, (20, 80), folder=out / "kept")
found["report"] = json.loads(report.json())
labels = torch.zeros(3, 8, 8).long()
segmenter = certify.SmoothedSegmenter(PixelSegmenter(), noise, chunk=10)
found["maps"] = [digest(c.candidates, c.counts) for c in segmenter.certify(maps, 10, 60)]
restorer = certify.SmoothedRestorer(torch.nn.Identity(), noise, chunk=10)
found["images"] = [digest(c.low, c.high) for (c,) in restorer.median(maps, [0.1], 60)]
(centre,) = certify.CentreSmoothing(torch.nn.Identity(), noise, chunk=50).certify(maps[:1], [0.1], 900, 100)
found["centre"] = [digest(centre.centre), centre.eps_out[0.1]]
restored = certify.measure_restorer(restorer, [(maps, maps)], [0.0, 0.1], 60)
found["restored"] = [json.loads(restored.json()), certify.recheck(restored), [e.digest() for e in restored.evidence]]
(out / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))
"""


def _run(folder: Path, processes: int) -> list[dict[str, object]]:
    folder.mkdir()
    script = folder / "certifying.py"
    script.write_text(SCRIPT, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), str(folder)]
    subprocess.run(command, env=env, check=True, timeout=300, capture_output=True)
    return [json.loads((folder / f"rank{k}.json").read_text(encoding="utf-8")) for k in range(processes)]


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_two_processes_find_what_one_finds_and_share_the_work(tmp_path: Path) -> None:
    (one,) = _run(tmp_path / "one", 1)
    two = _run(tmp_path / "two", 2)
    asked = [found.pop("asked") for found in (one, *two)]
    assert two[0] == two[1] == one
    assert asked == [500, 300, 200]
    assert one["restored"][1] == []  # type: ignore[index]
    assert len(list((tmp_path / "two" / "kept").glob("part-*/*.safetensors"))) == 5


def test_one_process_is_alone_and_so_is_one_in_a_block_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert spread.place() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with spread.alone():
        assert spread.place() == (0, 1)
