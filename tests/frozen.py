"""What a refactoring must not change, as hashes: ``python -m tests.frozen`` compares, ``--write`` sets the reference anew.

Phantoms (calibrated and randomised), prepared files, label maps of the released model, their scores and the endpoint's answer,
all through the command line, so that the modules behind it may move. ``--real FOLDER`` adds real cases in BraTS 2021 names.
Another kind of processor may round a probability near the threshold differently, so `make test` does not run this.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
from safetensors.numpy import load_file

REFERENCE = Path(__file__).with_name("frozen.json")
RELEASED = Path(__file__).parents[1] / "helpers" / "models" / "released"
SEGMENTER = ("segresnet_1", "segresnet_2", "unet")
MODALITIES = ("t1", "t1ce", "t2", "flair")


def digest(*arrays: np.ndarray) -> str:
    """Hash of the values, shapes and types of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def of_nifti(path: Path) -> str:
    """Hash of what a NIfTI file says: voxels and their place."""
    image = nib.load(path)
    return digest(np.asanyarray(image.dataobj).astype(np.float32), image.affine.round(6))


def helpers(*words: object) -> None:
    """Run a command of the package."""
    subprocess.run([sys.executable, "-m", "helpers", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def freeze_phantoms(folder: Path) -> dict[str, str]:
    """Phantoms of two seeds and both kinds; the calibrated ones stay in `folder` for the other parts."""
    from glioma_phantom import draw_random_phantom

    helpers("phantom", "--out", folder, "--count", 3, "--spacing", 1, "--seed", 7)
    found = {f"phantom/{path.name}": of_nifti(path) for path in sorted(folder.rglob("*.nii.gz"))}
    for seed in (3, 11):
        phantom = draw_random_phantom(seed, 0, spacing=2.0)
        found[f"random phantom/{seed}"] = digest(phantom.image, phantom.classes, phantom.affine)
    return found


def freeze_prepared(cohort: Path, folder: Path) -> dict[str, str]:
    """Tensors of prepared files, without and with the bias field's correction."""
    found = {}
    for name, options in {"plain": ["--spacing", 2], "bias": ["--spacing", 1.5, "--correct-bias"]}.items():
        helpers("preprocess", cohort, "--out", folder / name, *options)
        for path in sorted((folder / name).rglob("*.safetensors")):
            case = path.stem.split("-")[0]
            found |= {f"prepared/{name}/{case}/{key}": digest(array) for key, array in sorted(load_file(path).items())}
    return found


def freeze_predictions(cohort: Path, folder: Path, name: str) -> dict[str, object]:
    """Label maps of the released model, and their scores against the cohort's references."""
    helpers("predict", cohort, "--out", folder, "--device", "cpu")
    found = {f"{name}/{path.name}": of_nifti(path) for path in sorted(folder.glob("*.nii.gz"))}
    helpers("evaluate", folder, cohort, "--csv", folder / "scores.csv")
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores = [f"{float(row[column]):.6f}" for column in ("dice", "hd95")]
            found[f"{name}/{row['case']}/{row['region']}"] = scores
    return found


def freeze_endpoint(cohort: Path, folder: Path) -> dict[str, str]:
    """The label map that the serving process answers about the first case, sent as a compressed tar."""
    folder.mkdir()
    for name in SEGMENTER:
        for suffix in (".safetensors", ".json"):
            shutil.copy(RELEASED / (name + suffix), folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "helpers", "serve", "--model-dir", str(folder), "--port", str(port)]
    case = min(path for path in cohort.iterdir() if path.is_dir())
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz") as archive:
        for modality in MODALITIES:
            archive.add(case / f"{case.name}_{modality}.nii.gz", arcname=f"{case.name}_{modality}.nii.gz")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            for _ in range(1200):
                try:
                    if client.get("/ping").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            headers = {"Content-Type": "application/gzip"}
            answer = client.post("/invocations", content=body.getvalue(), headers=headers)
    finally:
        process.terminate()
        process.wait(40)
    answer.raise_for_status()
    path = folder / ("answer.nii.gz" if answer.content.startswith(b"\x1f\x8b") else "answer.nii")
    path.write_bytes(answer.content)
    return {f"endpoint/{case.name}": of_nifti(path)}


def main() -> int:
    """Compare with the reference, or write it; the exit status says whether all is as it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.frozen", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="set the reference anew")
    parser.add_argument("--real", type=Path, help="folder of real cases in BraTS 2021 names")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        found: dict[str, object] = freeze_phantoms(work / "cohort")
        found |= freeze_prepared(work / "cohort", work / "prepared")
        found |= freeze_predictions(work / "cohort", work / "predicted", "prediction")
        found |= freeze_endpoint(work / "cohort", work / "model")
        if chosen.real:
            found |= freeze_predictions(chosen.real, work / "real", "real")
    known = json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.exists() else {}
    if chosen.write:
        REFERENCE.write_text(json.dumps(known | found, indent=1) + "\n", encoding="utf-8")
        return 0
    expected = {key: value for key, value in known.items() if chosen.real or not key.startswith("real/")}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            print(f"{key}: was {expected.get(key, 'not there')}, is {found.get(key, 'not there')}")
    changed = sum(expected.get(key) != found.get(key) for key in expected.keys() | found.keys())
    print(f"{len(expected)} frozen values, {changed} changed")
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
