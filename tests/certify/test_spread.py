"""Certification in two processes: what one process would find, found by two, known to both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from robustrestore.certify import spread
from robustrestore.certify.stream import fingerprint

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

APART = """
import json, os, sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
from toys import PixelSegmenter, photos
from toys_certify import Line, images_of
from robustrestore import certify

rank, noise, said = int(os.environ["RANK"]), certify.Gaussian(0.25), {}
images, labels, maps = images_of(4), torch.arange(4), photos(2, 8, 8)
line, other = (certify.SmoothedClassifier(Line(seed=seed), noise, 10) for seed in (1, 1 + rank))
restorer, centre = certify.SmoothedRestorer(torch.nn.Identity(), noise), certify.CentreSmoothing(torch.nn.Identity(), noise)
whole = [(images[k : k + 1], labels[k : k + 1]) for k in range(4)]
shuffled = DataLoader(TensorDataset(images, labels), 2, sampler=[2, 0, 1, 3] if rank else None)
seen = []

def late():
    for k in range(4):
        yield images[k : k + 1] + (1e-3 if rank and k == 3 else 0), labels[k : k + 1]

for name, ask in {
    "images": lambda: line.certify(images_of(4, seed=rank), 10, 80),
    "fewer": lambda: line.certify(images[: 4 - rank], 10, 80),
    "model": lambda: other.certify(images, 10, 80),
    "noise": lambda: certify.SmoothedClassifier(Line(), certify.Gaussian(0.25 + rank)).certify(images, 10, 80),
    "alpha": lambda: line.certify(images, 10, 80, alpha=0.01 + rank / 100),
    "maps": lambda: certify.SmoothedSegmenter(PixelSegmenter(), noise, 0.75 + rank / 100).certify(maps, 10, 60),
    "restored": lambda: restorer.median(maps, [0.1], 60 + rank),
    "centre": lambda: centre.certify(maps, [0.1], 50, 20 + rank, 0.1),
    "measured model": lambda: certify.measure_classifier(other, whole, (10, 80)),
    "measured eps": lambda: certify.measure_restorer(restorer, [(maps, maps)], [0.1 + rank / 10], 60),
    "shuffled": lambda: certify.measure_classifier(line, shuffled, (10, 80), progress=lambda *done: seen.append(done)),
    "sharded": lambda: certify.measure_classifier(line, whole[rank::2], (10, 80), progress=lambda *done: seen.append(done)),
    "none": lambda: certify.measure_classifier(line, whole[: 4 - 4 * rank], (10, 80), progress=lambda *d: seen.append(d)),
    "shorter": lambda: certify.measure_classifier(line, whole[: 4 - rank], (10, 80)),
    "late": lambda: certify.measure_classifier(line, late(), (10, 80)),
    "good": lambda: certify.measure_classifier(line, whole, (10, 80)),
}.items():
    try:
        said[name] = str(ask() and "")
    except ValueError as error:
        said[name] = str(error)
(Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps([said, seen]))
torch.distributed.barrier()  # nobody leaves while another one still listens
os._exit(0)  # PyTorch 2.6 may wait for ever when it ends a group of processes on one core
"""


def _run(folder: Path, processes: int, text: str = SCRIPT) -> list[dict[str, object]]:
    folder.mkdir()
    script = folder / "certifying.py"
    script.write_text(text, encoding="utf-8")
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


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_processes_that_hold_something_else_are_all_told_so(tmp_path: Path) -> None:
    (said, counted), (also, _) = _run(tmp_path / "apart", 2, APART)  # type: ignore[misc]
    assert said == also  # type: ignore[has-type]
    assert counted == []  # type: ignore[has-type]  # no image is counted where the first batches differ
    assert said.pop("good") == ""  # type: ignore[has-type]
    wrong = {name: text.split(": expected the same in every process")[0] for name, text in said.items()}  # type: ignore[has-type]
    known = {"fewer": "images", "maps": "tau", "restored": "n", "centre": "draws"}
    known |= {"measured model": "model", "measured eps": "eps"}
    batches = dict.fromkeys(("shuffled", "sharded", "none", "shorter", "late"), "batches")
    assert wrong == {name: {**known, **batches}.get(name, name) for name in wrong}
    assert "accelerator.prepare" in said["images"]  # type: ignore[has-type]


def test_a_model_on_another_device_is_the_same() -> None:
    module = nn.Identity()
    prints = []
    for place in ("cuda:0", "cuda:1", "cpu"):
        module.place = torch.device(place)  # type: ignore[assignment]
        prints.append(fingerprint(module))
    assert prints[0] == prints[1] != prints[2]


def test_one_process_is_alone_and_so_is_one_in_a_block_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert spread.place() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with spread.alone():
        assert spread.place() == (0, 1)
