"""``python -m helpers ct``: train Swin UNETR on abdominal CT, or say what the same would be and cost as a job in the cloud.

Under ``torchrun`` it trains in several processes. Started again after an interruption, it goes on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from helpers.cli.before import boolean
from helpers.cli.train import SAGEMAKER_CHECKPOINTS
from helpers.extras.ct.checks import check_ct_cohort
from helpers.extras.ct.cohort import (
    DATASET_JSON,
    CtCohort,
    find_ct_cohort,
    write_dataset_json,
)
from helpers.extras.ct.pipeline import load_pipeline, plan
from helpers.extras.ct.preparation import CtPreparation
from helpers.extras.ct.prepared import prepare_ct_cohort
from helpers.extras.ct.training import (
    FEATURE_SIZES,
    GENERAL,
    CtSettings,
    swin_settings,
    train_ct,
)
from helpers.training.before.processes import join_processes
from helpers.training.before.settings import TrainSettings
from helpers.training.before.trainer import on_gpu
from helpers.workspace import DataError

OWN = ("roi", "randcrop", "randcrop_samples", "positive", "negative", "overlap", "flips")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    data, out = (os.environ.get(name) for name in ("SM_CHANNEL_TRAINING", "SM_MODEL_DIR"))
    parser.add_argument("--pipeline", type=Path, help="YAML file of a job; only says what it would do and cost")
    parser.add_argument("--data", type=Path, default=data, help="folder with imagesTr and labelsTr, or a dataset JSON")
    parser.add_argument("--out", type=Path, default=out, help="folder for prepared scans and, below model, the model")
    parser.add_argument("--fold", type=int, default=0, help="which fold validates")
    parser.add_argument("--resume", default="auto", help="auto goes on where there is a state; never starts afresh")
    own, preparation, general = CtSettings(), CtPreparation(), TrainSettings(learning_rate=1e-4, batch=4)
    parser.add_argument("--spacing", type=float, nargs=3, default=preparation.spacing, help="voxel edges in mm")
    parser.add_argument(
        "--window", type=float, nargs=2, default=preparation.window, help="Hounsfield units that become 0 and 1"
    )
    parser.add_argument("--roi", type=int, nargs=3, default=own.roi, help="sliding window of validation and prediction")
    parser.add_argument("--randcrop", type=int, nargs=3, default=own.randcrop, help="training crop in voxels")
    parser.add_argument("--randcrop-samples", type=int, default=own.randcrop_samples, help="crops a scan and turn")
    parser.add_argument("--positive", type=float, default=own.positive, help="crops around an organ, as a ratio to --negative")
    parser.add_argument("--negative", type=float, default=own.negative, help="crops around something else")
    parser.add_argument(
        "--overlap", type=float, default=own.overlap, help="of the windows: 0.5, or 0.7 for the last half point"
    )
    parser.add_argument("--tta", type=float, default=own.flips, help="probability of mirroring along each axis")
    parser.add_argument("--feature-size", type=int, choices=FEATURE_SIZES, default=48, help="width of the network")
    parser.add_argument("--window-size", type=int, default=7, help="edge of the attention windows in tokens")
    parser.add_argument("--amp", type=boolean, default=True, help="mixed precision where there is bf16: true or false")
    parser.add_argument("--checkpointing", type=boolean, default=False, help="gradient checkpointing: true or false")
    for name, text in GENERAL.items():
        default = getattr(general, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Train and say how good the network is, or print the plan of a pipeline."""
    if arguments.pipeline:
        return _print_plan(arguments.pipeline)
    if not arguments.data or not arguments.out:
        raise DataError("--data and --out are needed to train", "or give --pipeline for the plan of a job")
    preparation = CtPreparation(spacing=arguments.spacing, window=arguments.window)
    own = CtSettings(**{name: getattr(arguments, name) for name in OWN}, preparation=preparation)
    work, model, checkpoints = _folders(arguments.out)
    with join_processes(gpu=on_gpu(TrainSettings())) as processes:
        cohort, paths = processes.from_first(lambda: _prepare(arguments, preparation, work), on_each_machine=True)
        settings = swin_settings(
            own,
            feature_size=arguments.feature_size,
            organs=cohort.organs,
            checkpointing=arguments.checkpointing,
            amp=arguments.amp,
            window_size=arguments.window_size,
            **{name: getattr(arguments, name) for name in GENERAL},
        )
        parts = [
            [paths[case.identifier] for case in cohort.part(part, fold=arguments.fold) if case.identifier in paths]
            for part in ("train", "val")
        ]
        result = train_ct(
            settings,
            own,
            training=parts[0],
            validation=parts[1],
            out=model,
            checkpoints=checkpoints,
            organs=cohort.organs,
            resume=arguments.resume,
            report=print,
        )
        if processes.first:
            print(f"best mean validation Dice {result.best_dice:.4f} at step {result.best_step}\n{result.checkpoint}")
    return 0


def _folders(out: Path) -> tuple[Path, Path, Path]:
    """Folders of the prepared scans, the model and the state; SM_MODEL_DIR, all uploaded, gets the model alone."""
    if os.environ.get("SM_MODEL_DIR") != str(out):
        return out, out / "model", out / "model" / "checkpoints"
    work = Path(tempfile.gettempdir()) / "abdominal-ct"
    return work, out, SAGEMAKER_CHECKPOINTS if SAGEMAKER_CHECKPOINTS.is_dir() else work / "checkpoints"


def _prepare(arguments: argparse.Namespace, preparation: CtPreparation, work: Path) -> tuple[CtCohort, dict[str, Path]]:
    """The cohort with folds, written to `work`, and the prepared files of its usable scans."""
    cohort = find_ct_cohort(arguments.data)
    checks = check_ct_cohort(cohort)
    for fault in (fault for check in checks for fault in check.faults):
        print(f"{fault.severity}: {fault}")
    write_dataset_json(work / DATASET_JSON, cohort)
    usable = [check.case for check in checks if check.usable and check.case.label]
    paths, faults = prepare_ct_cohort(usable, work / "prepared", preparation)
    for sentence in faults.values():
        print(f"not prepared: {sentence}")
    return cohort, paths


def _print_plan(path: Path) -> int:
    """Print what every step of a pipeline would do and cost."""
    pipeline = load_pipeline(path)
    made = plan(pipeline)
    print(f"{pipeline.name} in {pipeline.region}: a dry run, nothing is started")
    for number, step in enumerate(made.steps, start=1):
        print(f"\n{number}. {step.step}")
        for action in step.actions:
            print(f"   - {action}")
        print(f"   $ {step.command}")
    print(f"\n{made.costs.round(2).to_string()}")
    return 0
