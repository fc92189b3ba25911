"""Requests of every kind about one small case, a model that answers them at once, and the process that serves it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import torch

from brats_cohort.case import Case
from brats_cohort.cases import read_image
from brats_cohort.regions import MODALITIES
from helpers.data.preprocess import PreprocessSettings
from helpers.models.checkpoints import ModelCard, save_checkpoint
from helpers.models.networks import build_network
from helpers.workspace import REPOSITORY


def save_model(folder: Path) -> Path:
    """A U-Net of two levels that was never trained: its answers mean nothing, but they depend on every voxel."""
    torch.manual_seed(0)
    arguments = {"channels": (4, 8), "num_res_units": 0}
    card = ModelCard(
        network="unet",
        arguments=arguments,
        preprocessing=asdict(PreprocessSettings(spacing=1.0)),
        patch=(32, 32, 32),
        postprocessing={"tumour_ml": 0.0, "enhancing_ml": 0.0},
    )
    save_checkpoint(folder / "best.safetensors", build_network("unet", **arguments), card)
    return folder


def npz_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An npz body."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A zip body of names and contents."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_of(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """A tar body of names and contents."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def arrays_of(case: Case) -> dict[str, np.ndarray]:
    """The arrays of an npz request about a case."""
    image, affine = read_image(case)
    return {**dict(zip(MODALITIES, image, strict=True)), "affine": affine}


def files_of(case: Case) -> dict[str, bytes]:
    """Names and contents of the image files of a case."""
    return {case.images[modality].path.name: case.images[modality].path.read_bytes() for modality in MODALITIES}


def bodies_of(case: Case) -> dict[str, bytes]:
    """A good body for every content type."""
    return {
        "application/x-npz": npz_of(arrays_of(case)),
        **dict.fromkeys(("application/zip", "application/x-zip-compressed"), zip_of(files_of(case))),
        "application/x-tar": tar_of(files_of(case), "w"),
        **dict.fromkeys(("application/gzip", "application/x-gzip"), tar_of(files_of(case))),
    }


@contextmanager
def serving(model_dir: Path, **environment: str) -> Iterator[tuple[httpx.Client, subprocess.Popen]]:
    """Run the serving process on a free port of loopback until the block ends, with a client for it."""
    command = [sys.executable, "-m", "helpers", "serve", "--model-dir", str(model_dir), "--port", "0"]
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    settings = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(command, env=settings, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().partition("/invocations")[0]
        with httpx.Client(base_url=address, timeout=120) as client:
            wait_for_ping(client, process)
            yield client, process
    finally:
        process.terminate()
        process.wait(40)
        process.stdout.close()


def wait_for_ping(client: httpx.Client, process: subprocess.Popen) -> None:
    """Wait until the model is loaded; raises where the process ends instead."""
    while process.poll() is None:
        try:
            if client.get("/ping").status_code != 503:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the serving process ended with status {process.returncode}")
