"""Training on SageMaker: managed spot machines, checkpoints that outlive them, metrics, and a short tail of what is said."""

from __future__ import annotations

import re
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers.cloud.account import Account, mask, training_image
from helpers.cloud.source import ENTRY
from helpers.cloud.storage import split_uri
from helpers.workspace import DataError

METRICS = {
    "train:loss": r"train loss ([0-9.]+)",
    "validation:dice": r"validation Dice .*?mean ([0-9.]+)",
}
"""Regular expressions by metric, over the lines that ``train`` prints at every validation."""
ENDED = {"Completed", "Failed", "Stopped"}
GROUP = "/aws/sagemaker/TrainingJobs"


@dataclass(frozen=True)
class TrainingSettings:
    """Machines of a training job.

    Attributes
    ----------
    instance_type : str
    instances : int
    processes : int
        A machine; more than 1 goes through torchrun.
    spot : bool
        Managed spot: up to 70 % cheaper, and the machine may be taken away at two minutes' notice.
    hours : float
        Longest training, all attempts together.
    wait_hours : float
        Longest wait for spot machines on top of it.
    volume_gb : int
    """

    instance_type: str = "ml.g5.xlarge"
    instances: int = 1
    processes: int = 1
    spot: bool = True
    hours: float = 4.0
    wait_hours: float = 8.0
    volume_gb: int = 50
    environment: Mapping[str, str] = field(default_factory=dict)


def make_trainer(
    account: Account, run: str, source: Path, *, settings: TrainingSettings, hyperparameters: Mapping[str, object]
):
    """The SDK's ModelTrainer for a run.

    Parameters
    ----------
    account : Account
    run : str
        Start of every name that the run makes, and its folder in the bucket.
    source : Path
        What `helpers.cloud.source.stage_source` made.
    settings : TrainingSettings
    hyperparameters : mapping
        Options of ``python -m helpers train``, and ``width`` and ``dropout`` of the U-Net.

    Returns
    -------
    sagemaker.train.ModelTrainer
        Its ``train`` starts a job whose model goes to ``s3://bucket/<run>/models``, and whose checkpoints are kept in
        ``s3://bucket/<run>/checkpoints`` and brought back to /opt/ml/checkpoints when a spot machine is replaced.
    """
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.training import configs
    from sagemaker.train import ModelTrainer
    from sagemaker.train.distributed import Torchrun

    seconds = int(settings.hours * 3600)
    wait = {"max_wait_time_in_seconds": seconds + int(settings.wait_hours * 3600)} if settings.spot else {}
    trainer = ModelTrainer(
        training_image=training_image(account, settings.instance_type),
        role=account.role,
        sagemaker_session=Session(default_bucket=account.bucket),
        base_job_name=run,
        source_code=configs.SourceCode(source_dir=str(source), entry_script=ENTRY, requirements="requirements.txt"),
        distributed=Torchrun(process_count_per_node=settings.processes) if settings.processes > 1 else None,
        compute=configs.Compute(
            instance_type=settings.instance_type,
            instance_count=settings.instances,
            volume_size_in_gb=settings.volume_gb,
            enable_managed_spot_training=settings.spot,
        ),
        stopping_condition=configs.StoppingCondition(max_runtime_in_seconds=seconds, **wait),
        output_data_config=configs.OutputDataConfig(s3_output_path=account.uri(run, "models")),
        checkpoint_config=configs.CheckpointConfig(s3_uri=account.uri(run, "checkpoints")) if settings.spot else None,
        hyperparameters=dict(hyperparameters),
        environment=dict(settings.environment),
    )
    definitions = [configs.MetricDefinition(name=name, regex=regex) for name, regex in METRICS.items()]
    return trainer.with_metric_definitions(definitions)


def start_training(trainer, cohort: str) -> str:
    """Start a training job on a cohort in S3 without waiting for it; returns its name."""
    from sagemaker.core.training.configs import InputData

    trainer.train(input_data_config=[InputData(channel_name="training", data_source=cohort)], wait=False, logs=False)
    return trainer._latest_training_job.training_job_name


def wait_for_training(
    account: Account, name: str, *, report: Callable[[str], None] = lambda line: None, pause: float = 0.5
) -> Mapping:
    """Wait for a training job and pass on what matters of what it says: its stages and its validations.

    Returns
    -------
    mapping
        What ``DescribeTrainingJob`` says at the end.

    Raises
    ------
    DataError
        If the job failed: with its reason.
    """
    sagemaker, logs = account.client("sagemaker"), account.client("logs")
    stages, told = 0, 0
    while True:
        job = sagemaker.describe_training_job(TrainingJobName=name)
        for stage in job.get("SecondaryStatusTransitions", [])[stages:]:
            report(mask(f"[{stage['Status']}] {stage.get('StatusMessage', '')}"))
            stages += 1
        lines = [line for line in said(logs, GROUP, name) if re.search(METRICS["validation:dice"], line)]
        for line in lines[told:]:
            report(mask(line))
        told = max(told, len(lines))
        if job["TrainingJobStatus"] in ENDED:
            break
        time.sleep(pause if account.rehearsal else 10)
    if job["TrainingJobStatus"] == "Failed":
        raise DataError(
            f"training job {name} failed: {mask(job.get('FailureReason', 'no reason was given'))}", "look at its log"
        )
    return job


def said(logs, group: str, job: str) -> list[str]:
    """Every line of a job's output so far, machine by machine."""
    try:
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    lines = []
    for stream in sorted(streams, key=lambda one: one["logStreamName"].rpartition("-")[2]):
        token, more = None, {}
        while True:
            page = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True, **more)
            lines += [event["message"] for event in page["events"]]
            if page["nextForwardToken"] == token:
                break
            token = page["nextForwardToken"]
            more = {"nextToken": token}
    return lines


def fetch_model(account: Account, location: str, folder: Path) -> Path:
    """Unpack a ``model.tar.gz`` of a job; returns the path of the weights in it.

    Raises
    ------
    DataError
        If there are no weights in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "model.tar.gz"
    account.client("s3").download_file(*split_uri(location), str(archive))
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    weights = folder / "best.safetensors"
    if not weights.is_file():
        raise DataError(f"{mask(location)} holds no best.safetensors", "look at the log of the job")
    return weights


def pack_model(weights: Path, target: Path) -> Path:
    """A ``model.tar.gz`` as endpoints take it: ``best.safetensors`` with its card ``best.json``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for path in (weights, weights.with_suffix(".json")):
            archive.add(path, arcname=f"best{path.suffix}")
    return target
