"""Latency, throughput and memory of the serving process on a full-size case: ``python -m benchmarks.serving``.

The process is the real one, over loopback, with a network of the default size that was never trained, or with ``--model-dir``.
The case is a phantom of 1 mm, as large as a BraTS case. Clients ask at once and again wherever they are sent away.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
import torch

from brats_cohort.cases import discover
from glioma_phantom import PhantomSettings, write_cohort
from helpers.cloud.costs import load_prices
from helpers.data.preprocess import PreprocessSettings
from helpers.models.checkpoints import ModelCard, save_checkpoint
from helpers.models.networks import build_network
from tests.requests import bodies_of, serving


def make_model(folder: Path, spacing: float) -> Path:
    """The default U-Net with random weights: as fast as a trained one, and as wrong as one can be."""
    torch.manual_seed(0)
    card = ModelCard(
        network="unet", arguments={}, preprocessing=asdict(PreprocessSettings(spacing=spacing)), patch=(128, 128, 128)
    )
    save_checkpoint(folder / "best.safetensors", build_network("unet"), card)
    return folder


class Memory:
    """Largest resident memory of a process, in MB, looked at every 20 ms."""

    def __init__(self, pid: int) -> None:
        self.process, self.peak, self.running = psutil.Process(pid), 0.0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss / 2**20)
            time.sleep(0.02)

    def stop(self) -> float:
        """The peak."""
        self.running = False
        self.thread.join()
        return self.peak


def ask(client: httpx.Client, body: bytes, kind: str) -> tuple[float, int]:
    """Seconds until the answer came, and how often we were sent away before."""
    start, away = time.perf_counter(), 0
    while True:
        answer = client.post("/invocations", content=body, headers={"content-type": kind, "accept": "application/json"})
        if answer.status_code == 200:
            return time.perf_counter() - start, away
        if answer.status_code != 503:
            raise RuntimeError(f"{answer.status_code}: {answer.text}")
        time.sleep(0.5)
        away += 1


def crowd(address: httpx.URL, body: bytes, kind: str, *, clients: int) -> list[tuple[float, int]]:
    """Ask from many clients at once."""

    def one(_: int) -> tuple[float, int]:
        with httpx.Client(base_url=address, timeout=3600) as client:
            return ask(client, body, kind)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, range(clients)))


def measure(model_dir: Path, bodies: Mapping[str, bytes], *, repeats: int, clients: int, threads: int) -> float:
    """Print both tables; returns the median seconds of one tar request alone."""
    with serving(model_dir, OMP_NUM_THREADS=str(threads)) as (client, process):
        memory = Memory(process.pid)
        medians = {}
        print(f"{'one after the other':<22} {'MB sent':>8} {'median s':>9} {'longest s':>10}")
        for kind, body in bodies.items():
            ask(client, body, kind)
            times = [ask(client, body, kind)[0] for _ in range(repeats)]
            medians[kind] = statistics.median(times)
            print(f"{kind:<22} {len(body) / 2**20:>8.1f} {medians[kind]:>9.2f} {max(times):>10.2f}")
        alone = memory.stop()
        memory, start = Memory(process.pid), time.perf_counter()
        results = crowd(client.base_url, bodies["application/x-tar"], "application/x-tar", clients=clients)
        taken, crowded = time.perf_counter() - start, memory.stop()
        away = sum(count for _, count in results)
    print(f"\n{clients} at once: all answered in {taken:.1f} s, {clients / taken:.2f} a second, sent away {away} times")
    print(f"memory of the process: {alone:.0f} MB one after the other, {crowded:.0f} MB with {clients} at once")
    return medians["application/x-tar"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model-dir", type=Path, help="folder of best.safetensors and best.json, in place of random weights")
    parser.add_argument("--spacing", type=float, default=1.0, help="mm of the network's grid, without --model-dir")
    parser.add_argument("--case-spacing", type=float, default=1.0, choices=(1.0, 2.0, 4.0), help="mm of the case")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2, help="of the serving process")
    parser.add_argument("--instance", default="", help="instance type this machine is, for the cost of 1,000 volumes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder / "cohort", 1, PhantomSettings(spacing=arguments.case_spacing), progress=False)
        bodies = bodies_of(discover(folder / "cohort")[0])
        model_dir = arguments.model_dir or make_model(folder / "model", arguments.spacing)
        seconds = measure(model_dir, bodies, repeats=arguments.repeats, clients=arguments.clients, threads=arguments.threads)
    if arguments.instance:
        usd = 1000 * seconds / 3600 * load_prices().hourly(arguments.instance)
        print(f"\n1,000 cases one after the other on {arguments.instance}, as measured here: {usd:.2f} USD")


if __name__ == "__main__":
    main()
