"""fit in two processes: the same steps as in one, each on half of the images; the main one writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
TRAINING = """
import json, sys
from pathlib import Path
import torch
from toys_training import colours
import robustrestore as rr
from robustrestore.weights import fingerprint

with rr.seeded(0):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 3))
task = rr.tasks.Classification()
attack = rr.attacks.PGD(rr.Linf(4 / 255), steps=2, seed=0)
recipe = rr.recipes.AdversarialTraining(network, task, attack)
plan = rr.Plan(steps=20, batch=8, optimiser=rr.AdamW(lr=0.01), average=0.9, every=5)
validation = rr.Validation(network, colours(), task, attack, batch=4)
folder = Path(sys.argv[1])
history = rr.fit(recipe, colours(), plan, validation, folder, quiet=True)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
(folder / f"rank{rank}.txt").write_text(fingerprint(network))
"""


SKIPPING = """
import sys
from pathlib import Path
import torch
from toys_training import classifier, colours
import robustrestore as rr
from robustrestore.weights import fingerprint

class Skipping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = classifier(), torch.nn.Linear(2, 2)
    def forward(self, images):
        return self.used(images)

network = Skipping()
plan = rr.Plan(steps=3, batch=4, average=None)
rr.fit(rr.recipes.Plain(network, rr.tasks.Classification()), colours(), plan, quiet=True)
rank = torch.distributed.get_rank()
Path(sys.argv[1]).mkdir(exist_ok=True)
(Path(sys.argv[1]) / f"rank{rank}.txt").write_text(fingerprint(network.used))
"""


STOPPING = """
import sys
from pathlib import Path
import torch
from toys_training import classifier, colours
import robustrestore as rr
from robustrestore.weights import fingerprint

class Odd(rr.recipes.Plain):
    def run(self, batch):
        found = super().run(batch)
        return {**found, "loss": found["loss"] + (torch.nan if 7 in batch.index.tolist() else 0)}

network, told = classifier(), "went on"
try:
    rr.fit(Odd(network, rr.tasks.Classification()), colours(), rr.Plan(steps=8, batch=30, average=None), quiet=True)
except ArithmeticError as error:
    told = str(error)
Path(sys.argv[1]).mkdir(exist_ok=True)
weights = all(bool(weight.isfinite().all()) and weight.grad is None for weight in network.parameters())
(Path(sys.argv[1]) / f"rank{torch.distributed.get_rank()}.txt").write_text(f"{weights} {told}")
"""


def _run(folder: Path, processes: int, text: str = TRAINING) -> None:
    script = folder.parent / "training.py"
    script.write_text(text, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script), str(folder)]
    done = subprocess.run(command, env=env, check=False, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_two_processes_take_the_same_steps_as_one(tmp_path: Path) -> None:
    _run(tmp_path / "one", 1)
    _run(tmp_path / "two", 2)
    one, two = (json.loads((tmp_path / name / "history.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    for mine, theirs in zip(one["rows"], two["rows"], strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-5)
    assert two["validations"] == [pytest.approx(row, abs=1e-6) for row in one["validations"]]
    prints = [(tmp_path / "two" / f"rank{k}.txt").read_text(encoding="utf-8") for k in range(2)]
    assert prints[0] == prints[1]


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_weights_that_a_step_leaves_out_do_no_harm_in_two_processes(tmp_path: Path) -> None:
    _run(tmp_path / "two", 2, SKIPPING)
    assert len({(tmp_path / "two" / f"rank{k}.txt").read_text(encoding="utf-8") for k in range(2)}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="gloo over the loopback device")
def test_a_loss_that_is_not_finite_in_one_process_stops_both(tmp_path: Path) -> None:
    _run(tmp_path / "two", 2, STOPPING)
    told = sorted((tmp_path / "two" / f"rank{k}.txt").read_text(encoding="utf-8") for k in range(2))
    assert all(one.startswith("True loss: expected a finite number, got nan in step 1 on the images ") for one in told)
    assert sum("of another process" in one for one in told) == 1
    assert sum(" 7," in one or "[7," in one or " 7]" in one for one in told) == 1
