"""The whole table of speed, in under ten minutes on two idle cores.

    python benchmarks/speed/table.py --data FOLDER              # of the .npz files
    python benchmarks/speed/table.py --data FOLDER --only simulation --only distances
    python benchmarks/speed/table.py --device cuda              # training, on a GPU

Every topic is a file beside this one that yields rows; it runs in a process of its own, with as
many threads as its rows are about. A topic that fails is a line of the table, and the exit code.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
from timing import Row, format_rows

#: Topics and their threads.
TOPICS = {
    "importing": 1,
    "training": 1,
    "quality": 1,
    "holdout": 2,
    "simulation": 1,
    "distances": 1,
    "coupling": 2,
    "entropic": 1,
    "scaling": 2,
}
ON_A_GPU = {"device": 2}
PACKAGES = ("cellflow-sb", "torch", "numpy", "numba", "pot", "torchcfm", "torchdyn", "torchsde")
LIMIT = 900.0


def facts(device: str) -> list[str]:
    """Lines that say what the figures were measured with."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        model = next(lines, f": {model}").split(":", 1)[1].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    out = [f"{cores} cores of {model}, {platform.system()}, Python {platform.python_version()}"]
    if hasattr(os, "getloadavg"):
        out[0] += f"; load before {os.getloadavg()[0]:.1f}"
    if device == "cuda":
        import torch

        out.append(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    return [*out, ", ".join(found)]


def run_topic(topic: str, threads: int, limit: float, options: list[str]) -> list[Row]:
    """Rows of `topic` from a fresh process; one more says so if it failed."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "rows"
        target.touch()
        command = [sys.executable, __file__, "--topic", topic, "--output", str(target), *options]
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        try:
            code = subprocess.run(command, env=os.environ | limits, timeout=limit).returncode
            failure = f"exit code {code}: see standard error" if code else ""
        except subprocess.TimeoutExpired:
            failure = f"not done after {limit:.0f} s"
        rows = [Row(**json.loads(line)) for line in target.read_text().splitlines()]
    seconds = time.perf_counter() - start
    print(f"{topic}: {len(rows)} rows, {seconds:.0f} s {failure}", file=sys.stderr, flush=True)
    if failure or not rows:
        note = failure or "no rows"
        rows.append(Row(topic, "-", seconds, None, "s", "FAILED", None, note, met=False))
    return rows


def child(topic: str, data: Path | None, device: str, target: Path) -> None:
    """Run one topic in this process, each row written as it comes."""
    import torch

    torch.set_num_threads((TOPICS | ON_A_GPU)[topic])
    module = import_module(topic)
    found = module.rows(device) if topic in ON_A_GPU else module.rows(data, quick=True)
    with target.open("a", encoding="utf-8") as file:
        for row in found:
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", multiple=True, type=click.Choice([*TOPICS, *ON_A_GPU]))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--limit", default=LIMIT, help="Seconds after which a topic counts as failed.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Also to a file.")
@click.option("--topic", hidden=True, type=click.Choice([*TOPICS, *ON_A_GPU]))
def main(data, only, device, limit, output, topic) -> None:
    if topic is not None:
        child(topic, data, device, output)
        return
    topics = ON_A_GPU if device == "cuda" and not only else TOPICS | ON_A_GPU
    chosen = [t for t in topics if t in (only or topics)]
    chosen = chosen if only or device == "cuda" else [t for t in chosen if t in TOPICS]
    if data is None and set(chosen) - {"importing", *ON_A_GPU}:
        raise click.UsageError("Give the folder of the .npz files as --data.")
    options = ["--device", device] + ([] if data is None else ["--data", str(data)])
    head, start = facts(device), time.perf_counter()
    rows = [r for t in chosen for r in run_topic(t, (TOPICS | ON_A_GPU)[t], limit, options)]
    tail = f"{time.perf_counter() - start:.0f} s for the table"
    text = "\n".join([*head, "", format_rows(rows), "", tail])
    click.echo(text)
    if output is not None:
        output.write_text(text + "\n", encoding="utf-8")
    if any(row.target == "FAILED" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
