"""Training on SageMaker as the notebook does it, through the SDK. Budget: 45 s on 2 calm cores."""

from __future__ import annotations

import logging

import pytest
from safetensors.numpy import load_file

from helpers.cloud import cleanup, jobs, shards
from helpers.cloud.account import Account
from helpers.cloud.source import stage_source
from helpers.cloud.storage import (
    delete_objects,
    download,
    files_of,
    list_objects,
    open_bucket,
    upload_changed,
)
from helpers.workspace import DataError
from tests.cases import write_case

OPTIONS = {"spacing": 1, "patch": 16, "steps": 8, "validate-every": 4, "save-every": 2, "device": "cpu"}
SMALL = {"arguments": {"channels": [8, 16, 32], "num_res_units": 1}, "clean-tumour-ml": 0.0, "clean-enhancing-ml": 0.0}


@pytest.fixture(scope="module")
def account(rehearsal):
    import boto3

    logging.getLogger("sagemaker").setLevel(logging.ERROR)
    open_bucket(boto3.client("s3"), "jobs-of-tests", region="us-east-1")
    return Account("us-east-1", "jobs-of-tests", "arn:aws:iam::123456789012:role/Execution", rehearsal)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cloud")


@pytest.fixture(scope="module")
def cases(folder):
    return [write_case(folder / "cohort", f"Case_{number:03}", seed=number) for number in range(5)]


def test_only_what_has_changed_travels(account, tmp_path):
    s3, uri = account.client("s3"), account.uri("travels")
    for name in ("a", "sub/b", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert upload_changed(s3, files_of(tmp_path), uri).sent == ("a", "sub/b")
    (tmp_path / "a").write_text("b")  # as long as before
    again = upload_changed(s3, files_of(tmp_path), uri)
    assert (again.sent, again.kept, again.size) == (("a",), ("sub/b",), 1)
    assert {path.read_text() for path in download(s3, uri, tmp_path / "back")} == {"b", "sub/b"}
    assert delete_objects(s3, uri) == 2 and not list(list_objects(s3, uri))
    assert s3.get_public_access_block(Bucket=account.bucket)["PublicAccessBlockConfiguration"]["BlockPublicPolicy"]
    assert s3.get_bucket_encryption(Bucket=account.bucket)


def test_an_interrupted_training_ends_with_the_same_weights_and_nothing_is_left(account, cases, folder):
    source = stage_source(folder / "source")
    runs = {"whole": None, "parted": "step +4 of"}
    weights, said = {}, {}
    for run, after in runs.items():
        cohort, _ = shards.upload_cohort(account, run, cases, folder=folder / "cohort")
        trainer = jobs.make_trainer(account, run, source, settings=jobs.TrainingSettings(), hyperparameters=OPTIONS | SMALL)
        if after:
            account.rehearsal.interrupt(run, after=after)
        job = jobs.wait_for_training(account, jobs.start_training(trainer, cohort))
        said[run] = [stage["Status"] for stage in job["SecondaryStatusTransitions"]].count("Training")
        weights[run] = load_file(jobs.fetch_model(account, job["ModelArtifacts"]["S3ModelArtifacts"], folder / run))
    assert said == {"whole": 1, "parted": 2}
    assert weights["whole"].keys() == weights["parted"].keys()
    assert all((weights["whole"][name] == weights["parted"][name]).all() for name in weights["whole"])
    for run in runs:
        assert len(cleanup.delete_run(account, run)) > 0
        assert cleanup.list_run(account, run) == []


def test_a_lost_shard_is_redone_alone(account, cases, folder):
    """The first attempt of shard 1 dies as a machine does; shard 0 is prepared once."""
    sagemaker, run = account.client("sagemaker"), "dealt"
    shards.upload_cohort(account, run, cases, folder=folder / "cohort")
    code = shards.upload_source(account, run, stage_source(folder / "source"))
    started = []

    def start(shard, attempt):
        started.append((shard.number, attempt))
        name = shards.start_shard(account, run, shard, code=code, attempt=attempt)
        if (shard.number, attempt) == (1, 0):
            sagemaker.stop_processing_job(ProcessingJobName=name)
        return name

    dealt = shards.make_shards(account, run, cases, folder=folder / "cohort", count=2)
    assert sorted(case for shard in dealt for case in shard.cases) == [case.identifier for case in cases]
    done = shards.wait_for_shards(account, dealt, start)
    assert sorted(started) == [(0, 0), (1, 0), (1, 1)] and done == {0: "dealt-shard-000-0", 1: "dealt-shard-001-1"}
    prepared = download(account.client("s3"), account.uri(run, "prepared"), folder / "prepared")
    assert len([path for path in prepared if path.suffix == ".safetensors"]) == len(cases)
    with pytest.raises(DataError, match="dealt out"):
        shards.make_shards(account, run, cases, folder=folder / "cohort", count=6)
    cleanup.delete_run(account, run)
