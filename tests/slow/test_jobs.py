"""Training on SageMaker with the whole package, through the SDK. Budget: 45 s on 2 calm cores."""

from __future__ import annotations

import io
import logging
import tarfile
import time

import boto3
import pytest
from safetensors.numpy import load
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.training import configs
from sagemaker.train import ModelTrainer

from brats_cohort.testing import write_case
from helpers.cloud import aws
from helpers.cloud.jobs import stage_source

BUCKET = "jobs-of-tests"
GROUP = "/aws/sagemaker/TrainingJobs"
ROLE = "arn:aws:iam::123456789012:role/Execution"
OPTIONS = {"spacing": 1, "patch": 16, "steps": 8, "validate-every": 4, "save-every": 2, "device": "cpu"}
SMALL = {"arguments": {"channels": [8, 16, 32], "num_res_units": 1}}
WAIT = {"Delay": 1, "MaxAttempts": 600}


@pytest.fixture(scope="module")
def session(rehearsal):
    logging.getLogger("sagemaker").setLevel(logging.ERROR)
    made = boto3.Session(region_name="us-east-1")
    made.client("s3").create_bucket(Bucket=BUCKET)
    made.client("logs").create_log_group(logGroupName=GROUP)
    return made


def train(session, run, source, cohort):
    """A managed spot job of the staged package; what AWS says of it at the end."""
    name = f"{run}-train"
    trainer = ModelTrainer(
        training_image="image",
        role=ROLE,
        sagemaker_session=Session(boto_session=session, default_bucket=BUCKET),
        base_job_name=name,
        source_code=configs.SourceCode(source_dir=str(source), entry_script="train.py", requirements="requirements.txt"),
        compute=configs.Compute(instance_type="ml.g5.xlarge", instance_count=1, enable_managed_spot_training=True),
        stopping_condition=configs.StoppingCondition(max_runtime_in_seconds=600, max_wait_time_in_seconds=600),
        output_data_config=configs.OutputDataConfig(s3_output_path=f"s3://{BUCKET}/{run}/models"),
        checkpoint_config=configs.CheckpointConfig(s3_uri=f"s3://{BUCKET}/{run}/checkpoints"),
        hyperparameters=OPTIONS | SMALL,
    )
    data = configs.InputData(channel_name="training", data_source=cohort)
    trainer.train(input_data_config=[data], wait=False, logs=False)
    sagemaker = session.client("sagemaker")
    name = sagemaker.list_training_jobs(NameContains=name)["TrainingJobSummaries"][0]["TrainingJobName"]
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName=name, WaiterConfig=WAIT)
    return sagemaker.describe_training_job(TrainingJobName=name)


def test_an_interrupted_training_goes_on_and_leaves_a_model_and_nothing_is_left(session, rehearsal, tmp_path):
    """That it ends with the weights of one that nobody interrupted, test_resume.py shows."""
    cases = [write_case(tmp_path / "cohort", f"Case_{number:03}", seed=number) for number in range(5)]
    files = {path.relative_to(tmp_path / "cohort").as_posix(): path for case in cases for path in case.files}
    for name, path in files.items():
        session.client("s3").upload_file(str(path), BUCKET, f"parted/cohort/{name}")
    rehearsal.interrupt("parted", after="step +4 of")
    job = train(session, "parted", stage_source(tmp_path / "source"), f"s3://{BUCKET}/parted/cohort")
    assert [stage["Status"] for stage in job["SecondaryStatusTransitions"]].count("Training") == 2
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    content = session.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert load(archive.extractfile("best.safetensors").read())
        rows = archive.extractfile("history.csv").read().decode().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == [str(step) for step in range(1, 9)]
    seconds = [float(row.split(",")[1]) for row in rows]
    assert seconds == sorted(seconds), "the history of the first attempt goes on"
    assert len(aws.delete_run(session, "parted", BUCKET)) > 0
    assert aws.list_run(session, "parted", BUCKET) == []


LINGERS = """
import pathlib, signal, sys, time
def leave(*_):
    time.sleep(1)
    pathlib.Path("/opt/ml/model/late").write_text("x")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(100)
"""


def test_what_a_stopped_job_uploads_at_its_end_is_deleted_too(session, tmp_path):
    (tmp_path / "lingers.py").write_text(LINGERS)
    sagemaker = session.client("sagemaker")
    for name in ("mine-job", "mine2-job", "not-mine-job"):
        sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn=ROLE,
            AlgorithmSpecification={
                "TrainingImage": "image",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python3", str(tmp_path / "lingers.py")],
            },
            OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/{name.removesuffix('-job')}/models"},
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
        )
    while sagemaker.describe_training_job(TrainingJobName="mine-job")["SecondaryStatus"] != "Training":
        time.sleep(0.1)
    logs = session.client("logs").get_paginator("filter_log_events").paginate(logGroupName=GROUP)
    while "mine-job" not in {e["logStreamName"].partition("/")[0] for page in logs for e in page["events"]}:
        time.sleep(0.1)
    aws.delete_run(session, "mine", BUCKET)
    assert sagemaker.describe_training_job(TrainingJobName="mine-job")["TrainingJobStatus"] == "Stopped"
    assert aws.list_run(session, "mine", BUCKET) == []
    for name in ("mine2-job", "not-mine-job"):
        assert sagemaker.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] == "InProgress"
        sagemaker.stop_training_job(TrainingJobName=name)
