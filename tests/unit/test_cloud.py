"""What goes to the cloud, how a job's options come to the training, and what is deleted afterwards."""

import io
import os
import subprocess
import sys
import tarfile
from functools import partial

import boto3
import nbformat
import pytest
import torch
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws
from safetensors.torch import save_file
from sagemaker.core.common_utils import resolve_value_from_config
from sagemaker.core.config.config_schema import TELEMETRY_OPT_OUT_PATH
from sagemaker.core.helper.session_helper import Session

from brats_cohort.files import DataError
from helpers.cloud import aws
from helpers.cloud.aws import belongs
from helpers.cloud.jobs import main, source_files, stage_source
from helpers.workspace import REPOSITORY


def test_only_python_and_json_of_the_package_leave_the_machine(tmp_path):
    repository = tmp_path / "repository"
    kept = ("helpers/a.py", "helpers/data/b.json")
    package = "packages/glioma-phantom/src/glioma_phantom/a.py"
    secret = (
        ".env",
        "helpers/.env",
        "helpers/.secrets/c.py",
        "helpers/case_t1.nii.gz",
        "helpers/key.pem",
        "helpers/__pycache__/a.py",
        "notebooks/01.ipynb",
        "helpers/01.ipynb",
        "data/case.json",
        "outputs/metrics.json",
        "tests/test_a.py",
        "packages/glioma-phantom/tests/test_b.py",
    )
    for name in (*kept, package, *secret):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("x")
    (repository / "cloud" / "docker").mkdir(parents=True)
    (repository / "cloud" / "docker" / "requirements.txt").write_text("# a comment\nnumpy\n")
    with pytest.raises(DataError, match="does not exist"):
        stage_source(tmp_path / "staged", repository=repository)
    (repository / "requirements.lock").write_text("numpy==2.4.6\n")
    staged = stage_source(tmp_path / "staged", repository=repository)
    found = {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}
    assert found == {*kept, "glioma_phantom/a.py", "train.py", "requirements.txt", "constraints.txt"}


def test_the_staged_package_has_what_a_job_runs():
    names = {path.as_posix() for path in source_files()}
    assert {
        "helpers/cli/__init__.py",
        "helpers/cloud/jobs.py",
        "helpers/data/preprocess.py",
        "helpers/training/train.py",
    } <= names
    assert {"glioma_phantom/generator.py", "brats_cohort/cases.py"} <= names
    assert not [name for name in names if not name.endswith((".py", ".json"))]


def test_pip_constrains_what_jobs_install_and_leaves_torch_to_the_image(tmp_path):
    staged = stage_source(tmp_path / "staged")
    pins = (staged / "constraints.txt").read_text().splitlines()
    names = {pin.partition("==")[0] for pin in pins}
    assert {"nibabel", "monai", "torchmetrics"} <= names and not {"torch", "pip"} & names
    # pip reads the constraints from beside the requirements, wherever it runs, and refuses what contradicts them.
    install = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "nibabel<1", "-r"]
    done = subprocess.run([*install, staged / "requirements.txt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    pin = next(pin for pin in pins if pin.startswith("nibabel=="))
    assert done.returncode and f"The user requested (constraint) {pin}" in done.stdout + done.stderr, done


def test_hyperparameters_become_options_of_the_training(monkeypatch):
    given = []
    monkeypatch.setattr("helpers.cli.main", lambda words: given.append(words) or 0)
    words = ["--steps", "7", "--_tuning_objective_metric", "validation:dice", "--sagemaker_program", "train.py"]
    assert main([*words, "--learning-rate", "-1e-3"]) == 0
    assert given == [["train", "--steps", "7", "--learning-rate", "-1e-3"]]


def cell_of_notebook_05(part):
    cells = nbformat.read(REPOSITORY / "notebooks" / "05_deploy_sagemaker.ipynb", as_version=4).cells
    return next(cell.source for cell in cells if part in cell.source)


def test_the_sdk_reports_none_of_the_calls_of_notebook_05(monkeypatch):
    """Without a configuration file; that of a rehearsal switches the telemetry off itself."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    code = cell_of_notebook_05("TelemetryOptOut").partition("bucket = ")[0]
    names = {"boto3": boto3, "Session": Session, "REGION": "us-east-1", "BUCKET": "my-bucket"}
    exec(code, names)
    place = {"direct_input": None, "config_path": TELEMETRY_OPT_OUT_PATH, "default_value": False}
    assert resolve_value_from_config(**place, sagemaker_session=names["sdk"]) is True


def test_the_script_of_notebook_05_gets_its_folders_as_arguments():
    """Without namespaces (in a container, or as a user of Ubuntu 24.04) a rehearsal translates arguments, not scripts."""
    cells = {cell["id"]: cell["source"] for cell in nbformat.read(REPOSITORY / "notebooks/05_deploy_sagemaker.ipynb", 4).cells}
    assert "helpers preprocess" in cells["1ac05ed4"] and "/opt/ml" not in cells["1ac05ed4"]
    assert "/opt/ml/processing/cohort" in cells["a1fc7d3b"] and "/opt/ml/processing/prepared" in cells["a1fc7d3b"]


def test_jobs_that_share_a_place_for_checkpoints_resume_only_their_own(tmp_path):
    """As the trials of a search do; the program is that of notebook 05."""
    program = cell_of_notebook_05("%%writefile {results}/code/train.py").partition("\n")[2]
    for folder in ("model", "input/data/training", "checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    case = {"image": torch.rand(4, 8, 8, 8), "classes": torch.ones(8, 8, 8, dtype=torch.uint8)}
    save_file(case, tmp_path / "input/data/training/case.safetensors")
    for job, width, start in (("first", 4, 0), ("second", 8, 0), ("first", 4, 2)):
        words = [sys.executable, "-c", program, "--steps", "2", "--patch", "4", "--width", str(width)]
        environment = {**os.environ, "SM_MODEL_DIR": str(tmp_path / "model"), "TRAINING_JOB_NAME": job}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"starting at step {start} of 2")


def test_an_archive_that_names_its_folder_is_a_request_too(tmp_path):
    """``tar cf case.tar -C CASE .``, as cloud/README.md says; the program is that of notebook 05."""
    program = {}
    exec(cell_of_notebook_05("def input_fn").partition("\n")[2], program)
    (tmp_path / "case_t1.nii.gz").write_bytes(b"scan")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(tmp_path, ".")
    assert program["input_fn"](stream.getvalue(), "application/x-tar") == {"case_t1.nii.gz": b"scan"}


def test_a_run_owns_only_names_of_its_own():
    for name in ("run-1", "run-1-spot", "run-1/models/model.tar.gz"):
        assert belongs(name, "run-1")
    for name in ("run-10", "run-10-spot", "my-run-1", "run"):
        assert not belongs(name, "run-1")


class Jobs:
    """The listings of a SageMaker in which a job takes a while to stop, and uploads its model when it ends."""

    def __init__(self):
        self.status = {"run-1-spot": "InProgress", "run-10-spot": "InProgress", "their-run-1": "InProgress"}
        self.looks, self.stopped, self.objects = 0, [], ["run-1-spot/checkpoint"]

    def client(self, service):
        return self

    def stop_training_job(self, TrainingJobName):
        self.stopped.append(TrainingJobName)
        self.status[TrainingJobName] = "Stopping"

    def get_paginator(self, operation):
        self.operation = operation
        return self

    def paginate(self, **asked):
        if self.operation != "list_training_jobs":
            key = {"list_processing_jobs": "ProcessingJob"}.get(self.operation, "HyperParameterTuningJob")
            return [{f"{key}Summaries": []}]
        if asked["StatusEquals"] == "Stopping" and "Stopping" in self.status.values():
            self.looks += 1
            if self.looks == 3:
                self.status["run-1-spot"] = "Stopped"
                self.objects.append("run-1-spot/model.tar.gz")
        found = [name for name, status in self.status.items() if status == asked["StatusEquals"]]
        return [{"TrainingJobSummaries": [{"TrainingJobName": name} for name in found]}]


def test_what_aws_refuses_to_delete_is_tried_again_and_named_at_the_end(monkeypatch):
    refusals, there = iter(["ValidationException", "ThrottlingException", "AccessDenied"]), ["run-1-a", "run-1"]

    def delete(name):
        if name == "run-1-a" and (code := next(refusals, "")):
            raise ClientError({"Error": {"Code": code, "Message": "Cannot update in-progress endpoint"}}, "DeleteEndpoint")
        there.remove(name)

    def found():
        return [aws.Found("endpoint", name, partial(delete, name)) for name in list(there)]

    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(aws, "stop_jobs", lambda session, run: None)
    monkeypatch.setattr(aws, "_running", lambda session, run: [])
    monkeypatch.setattr(aws, "list_run", lambda session, run, bucket: found())
    with pytest.raises(DataError, match="still there, and may cost money: endpoint run-1-a"):
        aws.delete_run(None, "run-1", "bucket", seconds=-1)
    assert there == ["run-1-a"], "the others are deleted all the same"
    with pytest.raises(DataError, match="still there"):  # busy, then forbidden: the second is not waited for
        aws.delete_run(None, "run-1", "bucket")
    assert list(aws.delete_run(None, "run-1", "bucket")["name"]) == ["run-1-a"] and not there


def test_an_object_that_s3_keeps_is_named_at_once_with_the_reason(monkeypatch):
    """S3 answers 200 to DeleteObjects, and lists in the answer what it did not delete."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    kept = {"Key": "run-1/a", "Code": "AccessDenied", "Message": "no s3:DeleteObject"}
    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(aws, "stop_jobs", lambda session, run: None)
    monkeypatch.setattr(aws, "_running", lambda session, run: [])
    found = aws.Found("1 objects in S3", "run-1", partial(aws._delete_objects, client, "my-bucket", [{"Key": "run-1/a"}]))
    monkeypatch.setattr(aws, "list_run", lambda session, run, bucket: [found])
    with Stubber(client) as stubber, pytest.raises(DataError, match=r"run-1 \(no s3:DeleteObject\)"):
        stubber.add_response("delete_objects", {"Errors": [kept]})
        aws.delete_run(None, "run-1", "my-bucket")


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_a_bucket_that_keeps_versions_keeps_none_of_a_run(status):
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    with mock_aws():
        session = boto3.Session(region_name="us-east-1", **keys)
        s3 = session.client("s3")
        s3.create_bucket(Bucket="my-bucket")
        s3.put_bucket_versioning(Bucket="my-bucket", VersioningConfiguration={"Status": status})
        for name in ("run-1/a", "run-1/a", "run-1/b", "run-10/a"):
            s3.put_object(Bucket="my-bucket", Key=name, Body=b"scan")
        s3.delete_object(Bucket="my-bucket", Key="run-1/b")
        for found in aws._objects(session, "run-1", "my-bucket"):
            found.delete()
        listed = s3.list_object_versions(Bucket="my-bucket")
        assert [item["Key"] for item in listed["Versions"]] == ["run-10/a"] and "DeleteMarkers" not in listed


def test_a_bucket_that_is_gone_or_mistyped_keeps_no_endpoint_running(monkeypatch):
    there = ["run-1-a"]
    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(aws, "stop_jobs", lambda session, run: None)
    monkeypatch.setattr(aws, "_running", lambda session, run: [])
    monkeypatch.setattr(aws, "_endpoints", lambda session, run: [aws.Found("endpoint", name, there.clear) for name in there])
    with mock_aws(), pytest.raises(DataError, match=r"files in bucket no-bucket \(The specified bucket does not exist\)"):
        session = boto3.Session("none", "none", region_name="us-east-1")
        aws.delete_run(session, "run-1", "no-bucket")
    assert not there, "the endpoint is deleted all the same"


def test_the_clean_up_waits_until_aws_lists_nothing_any_more(monkeypatch):
    """DeleteEndpoint only begins it: the endpoint is listed, and cannot be deleted again, until it is gone."""
    looks = iter([True, True, True, False])

    def delete_endpoint(asked=[]):  # noqa: B006
        asked.append(1)
        if len(asked) > 1:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "in-progress"}}, "DeleteEndpoint")

    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(aws, "stop_jobs", lambda session, run: None)
    monkeypatch.setattr(aws, "_running", lambda session, run: [])
    endpoint = aws.Found("endpoint", "run-1-a", delete_endpoint)
    monkeypatch.setattr(aws, "list_run", lambda session, run, bucket: [endpoint] if next(looks) else [])
    assert list(aws.delete_run(None, "run-1", "bucket")["name"]) == ["run-1-a"]
    assert next(looks, None) is None, "it looked until nothing was listed"


def test_a_job_that_ends_before_it_is_stopped_does_not_keep_the_others_running(monkeypatch):
    jobs = Jobs()
    jobs.status["run-1-last"] = "InProgress"
    stop, codes = jobs.stop_training_job, {"run-1-spot": "ValidationException"}

    def refuse(TrainingJobName):
        if code := codes.get(TrainingJobName):
            raise ClientError({"Error": {"Code": code, "Message": "in status Completed"}}, "StopTrainingJob")
        stop(TrainingJobName)

    monkeypatch.setattr(jobs, "stop_training_job", refuse)
    aws.stop_jobs(jobs, "run-1")
    assert jobs.stopped == ["run-1-last"]
    codes["run-1-spot"] = "AccessDeniedException"
    with pytest.raises(ClientError):
        aws.stop_jobs(jobs, "run-1")


def test_a_run_is_deleted_after_its_jobs_have_ended_and_no_other_runs_jobs_are_stopped(monkeypatch):
    jobs = Jobs()
    monkeypatch.setattr(aws.time, "sleep", lambda seconds: None)

    def listed(session, run, bucket):
        return [aws.Found("object", key, partial(jobs.objects.remove, key)) for key in list(jobs.objects)]

    monkeypatch.setattr(aws, "list_run", listed)
    for name in ("_scaling", "_endpoints"):
        monkeypatch.setattr(aws, name, lambda session, run: [])
    deleted = aws.delete_run(jobs, "run-1", "bucket")
    assert jobs.stopped == ["run-1-spot"]
    assert "run-1-spot/model.tar.gz" in list(deleted["name"]), "a job uploads its model when it ends"
    jobs.status["run-1-spot"], jobs.looks = "InProgress", 99
    endpoints = ["run-1-a"]
    found = aws.Found("endpoint", "run-1-a", partial(endpoints.remove, "run-1-a"))
    monkeypatch.setattr(aws, "_endpoints", lambda session, run: [found] if endpoints else [])
    with pytest.raises(DataError, match="run-1-spot did not stop within 0 s"):
        aws.delete_run(jobs, "run-1", "bucket", seconds=0)
    assert not endpoints, "an endpoint does not wait for a job: it costs money until it is deleted"
