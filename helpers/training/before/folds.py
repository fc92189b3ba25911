"""Train one network a fold of the split, and take up where an interrupted cross-validation stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from helpers.data.splits import SplitManifest
from helpers.models.checkpoints import load_card
from helpers.training.before.settings import TrainSettings
from helpers.training.before.train import train
from helpers.workspace import DataError

RECORD = "fold.json"
"""In the folder of a fold: all that would make another training of it, and when it is over the SHA-256 of its weights."""


def train_folds(
    settings: TrainSettings,
    manifest: SplitManifest,
    prepared: Mapping[str, Path],
    *,
    out: Path,
    folds: Sequence[int] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Train on all folds but one, for each fold in turn.

    A fold that was finished with the same settings and files is skipped, one that was interrupted goes on from its state.

    Parameters
    ----------
    settings : TrainSettings
    manifest : SplitManifest
        The test part of it is neither trained on nor validated on.
    prepared : mapping from identifier to Path
        Prepared files of the cases outside the test part; a case without one is left out.
    out : Path
        Gets a folder ``fold_<k>`` each.
    folds : sequence of int, optional
        All of them if left out.
    report : callable, optional
        Called with lines of text.

    Returns
    -------
    list of Path
        Checkpoints in the order of `folds`.
    """
    checkpoints = []
    for fold in range(len(manifest.folds)) if folds is None else folds:
        if not 0 <= fold < len(manifest.folds):
            raise DataError(f"there is no fold {fold}", f"this split has folds 0 to {len(manifest.folds) - 1}")
        checkpoints.append(_train_fold(settings, manifest, prepared, fold, Path(out) / f"fold_{fold}", report))
    return checkpoints


def _train_fold(
    settings: TrainSettings,
    manifest: SplitManifest,
    prepared: Mapping[str, Path],
    fold: int,
    folder: Path,
    report: Callable[[str], None] | None,
) -> Path:
    parts = [[prepared[name] for name in manifest.part(part, fold=fold) if name in prepared] for part in ("train", "val")]
    wanted = {
        "settings": json.loads(json.dumps(asdict(settings))),
        "split": manifest.sha256,
        "files": [sorted(Path(path).name for path in part) for part in parts],  # the names carry a hash of the contents
    }
    checkpoint, path = folder / "best.safetensors", folder / RECORD
    record = _read(path)
    same = {**record, "checkpoint": None} == {**wanted, "checkpoint": None}
    if same and record["checkpoint"] and record["checkpoint"] == _weights_hash(checkpoint):
        if report:
            report(f"fold {fold}: finished before, {checkpoint}")
        return checkpoint
    if report:
        report(f"fold {fold}: training on {len(parts[0])} cases, validating on {len(parts[1])}")
    _write(path, {**wanted, "checkpoint": None})
    result = train(
        settings,
        parts[0],
        validation=parts[1],
        out=folder,
        split_hash=manifest.sha256,
        report=report,
        resume="auto" if same and not record["checkpoint"] else "never",
    )
    _write(path, {**wanted, "checkpoint": _weights_hash(result.checkpoint)})
    return result.checkpoint


def _weights_hash(checkpoint: Path) -> str | None:
    try:
        return load_card(checkpoint).weights_sha256
    except DataError:
        return None


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


def _write(path: Path, record: Mapping) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
