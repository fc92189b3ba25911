"""Train one network a fold of the split, and take up where an interrupted cross-validation stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from helpers.data.files import DataError
from helpers.data.splits import SplitManifest
from helpers.models.checkpoints import load_card
from helpers.training.settings import TrainSettings
from helpers.training.train import train

RECORD = "finished.json"
"""Written into the folder of a fold when its training is over, with all that would make another training of it."""


def train_folds(
    settings: TrainSettings,
    manifest: SplitManifest,
    prepared: Mapping[str, Path],
    *,
    out: Path,
    folds: Sequence[int] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Train on all folds but one, for each fold in turn; a fold that was finished with the same settings and files is skipped.

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
            raise DataError(f"there is no fold {fold}; this split has folds 0 to {len(manifest.folds) - 1}")
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
    checkpoint, record = folder / "best.safetensors", folder / RECORD
    if _is_finished(record, wanted, checkpoint):
        if report:
            report(f"fold {fold}: finished before, {checkpoint}")
        return checkpoint
    if report:
        report(f"fold {fold}: training on {len(parts[0])} cases, validating on {len(parts[1])}")
    record.unlink(missing_ok=True)
    result = train(settings, parts[0], validation=parts[1], out=folder, split_hash=manifest.sha256, report=report)
    finished = {**wanted, "checkpoint": load_card(result.checkpoint).weights_sha256}
    temporary = record.with_suffix(".part")
    temporary.write_text(json.dumps(finished, indent=1) + "\n", encoding="utf-8")
    temporary.replace(record)
    return result.checkpoint


def _is_finished(record: Path, wanted: Mapping, checkpoint: Path) -> bool:
    try:
        finished = json.loads(record.read_text(encoding="utf-8"))
        return finished == {**wanted, "checkpoint": load_card(checkpoint).weights_sha256}
    except (OSError, json.JSONDecodeError, DataError):
        return False
