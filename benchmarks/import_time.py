"""What importing the package costs beside importing torch: fresh processes, in turn; fails above a tenth more.

python benchmarks/import_time.py [--runs 9]
"""

import argparse
import resource
import statistics
import subprocess
import sys

import harness

LIMIT = 1.1


def seconds(code: str) -> float:
    """CPU seconds of a fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    seconds("import torch"), seconds("import robustrestore")
    ratios = []
    for _ in range(options.runs):
        torch_alone = seconds("import torch")
        ratios.append(seconds("import torch; import robustrestore") / torch_alone)
    middle = statistics.median(ratios)
    harness.write(
        "import_time",
        {
            "about": harness.machine(),
            "what": "CPU time of importing torch and robustrestore over importing torch, pairs of fresh processes",
            "median": round(middle, 4),
            "lowest": round(min(ratios), 4),
            "highest": round(max(ratios), 4),
            "runs": options.runs,
        },
    )
    spread = f"lowest {min(ratios):.3f}, highest {max(ratios):.3f}"
    print(f"importing robustrestore costs {middle:.3f} times importing torch ({spread})")
    sys.exit(0 if middle <= LIMIT else 1)


if __name__ == "__main__":
    main()
