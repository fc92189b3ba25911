"""The local AWS: real processes behind real API calls. Budget: 45 s on 2 calm cores."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from functools import partial
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError, WaiterError

from sagemaker_rehearsal import start_rehearsal
from sagemaker_rehearsal.session import without_aws

ROLE = "arn:aws:iam::123456789012:role/Execution"
ENDED = {"Completed", "Failed", "Stopped"}
PROGRAMS = tempfile.TemporaryDirectory()
COUNTER = """
import json, os, pathlib, signal, sys, time
state = pathlib.Path("/opt/ml/checkpoints/state")
count = int(state.read_text()) if state.exists() else 0
print("begins at", count, flush=True)
def leave(*_):
    os.write(1, b"told to go\\n")  # print is not to be called within print, where the signal may come
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
while count < 12:
    count += 1
    part = state.with_suffix(".part")
    part.write_text(str(count))
    part.replace(state)
    print(f"count={count}", flush=True)
    time.sleep(0.15)
pathlib.Path("/opt/ml/model/count").write_text(str(count))
"""


@pytest.fixture(scope="session")
def sagemaker(rehearsal):
    return boto3.client("sagemaker")


@pytest.fixture(scope="session")
def s3(rehearsal):
    return boto3.client("s3")


def wait(describe, seconds: float = 60.0) -> dict:
    """What `describe` says once the job has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        described = describe()
        status = next(value for key, value in described.items() if key.endswith(("JobStatus", "EndpointStatus")))
        if status in ENDED | {"InService"}:
            return described
        time.sleep(0.1)
    raise AssertionError(f"it did not end: {described}")


def program(code: str) -> list[str]:
    """The entry point that runs Python code from a file, since its words hold 256 characters and no line break."""
    path = Path(PROGRAMS.name) / f"{len(list(Path(PROGRAMS.name).iterdir()))}.py"
    path.write_text(textwrap.dedent(code))
    return ["python3", str(path)]


def start(client, bucket: str, name: str, code: str, **more: object) -> None:
    """A training job that runs Python code."""
    specification = {
        "TrainingImage": "image",
        "TrainingInputMode": "File",
        "ContainerEntrypoint": program(code),
        "MetricDefinitions": more.pop("MetricDefinitions", []),
    }
    client.create_training_job(
        TrainingJobName=name,
        RoleArn=ROLE,
        AlgorithmSpecification=specification,
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/results"},
        ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": more.pop("count", 1), "VolumeSizeInGB": 10},
        **{"StoppingCondition": {"MaxRuntimeInSeconds": 60}, **more},
    )


def train(client, bucket: str, name: str, code: str, **more: object) -> dict:
    start(client, bucket, name, code, **more)
    return wait(lambda: client.describe_training_job(TrainingJobName=name))


def channel(name: str, uri: str, distribution: str = "FullyReplicated", kind: str = "S3Prefix") -> dict:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": distribution}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def archive_of(s3, uri: str) -> dict[str, bytes]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}


def pack(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def lines_of(rehearsal, group: str, job: str) -> list[str]:
    logs = boto3.client("logs")
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}/")["logStreams"]
    names = [stream["logStreamName"] for stream in streams]
    events = [logs.get_log_events(logGroupName=group, logStreamName=name, startFromHead=True)["events"] for name in names]
    return [event["message"] for stream in events for event in stream]


def test_two_machines_share_a_job_and_find_each_other(rehearsal, sagemaker, s3, bucket):
    for key in ("data/a", "data/b", "data/sub/c", "data-old/d", "list/one"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    manifest = json.dumps([{"prefix": f"s3://{bucket}/"}, "data/b", "list/one"])
    s3.put_object(Bucket=bucket, Key="manifest", Body=manifest)
    code = """
    import json, os, pathlib, socket, time
    root = pathlib.Path("/opt/ml")
    me = json.loads((root / "input/config/resourceconfig.json").read_text())
    values = json.loads((root / "input/config/hyperparameters.json").read_text())
    files = lambda folder: sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    found = {folder.name: files(folder) for folder in (root / "input/data").iterdir()}
    port = 23456
    if me["current_host"] == "algo-1":
        peer, _ = socket.create_server((socket.gethostbyname("algo-1"), port)).accept()
        heard = peer.recv(100).decode()
    else:
        for _ in range(100):
            try:
                socket.create_connection(("algo-1", port)).sendall(b"from algo-2")
                break
            except OSError:
                time.sleep(0.1)
        heard = ""
    answer = {"found": found, "values": values, "heard": heard, "hosts": me["hosts"], "more": os.environ["MORE"]}
    (root / "model" / f"{me['current_host']}.json").write_text(json.dumps(answer))
    print("validation Dice 0.25\\nvalidation Dice 0.75 done")
    """
    job = train(
        sagemaker,
        bucket,
        "two-machines",
        code,
        count=2,
        InputDataConfig=[
            channel("all", f"s3://{bucket}/data/"),
            channel("shard", f"s3://{bucket}/data/", "ShardedByS3Key"),
            channel("listed", f"s3://{bucket}/manifest", kind="ManifestFile"),
        ],
        HyperParameters={"steps": "4"},
        Environment={"MORE": "yes"},
        MetricDefinitions=[{"Name": "dice", "Regex": r"Dice ([0-9.]+)"}],
    )
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert [metric["Value"] for metric in job["FinalMetricDataList"]] == [0.75]
    answers = {name: json.loads(text) for name, text in archive_of(s3, job["ModelArtifacts"]["S3ModelArtifacts"]).items()}
    one, two = answers["algo-1.json"], answers["algo-2.json"]
    assert one["found"]["all"] == two["found"]["all"] == ["a", "b", "sub/c"], "data-old is another folder"
    assert sorted(one["found"]["shard"] + two["found"]["shard"]) == ["a", "b", "sub/c"]
    assert one["found"]["listed"] == ["data/b", "list/one"]
    assert (one["heard"], one["values"], one["more"]) == ("from algo-2", {"steps": "4"}, "yes")
    assert one["hosts"] == ["algo-1", "algo-2"]
    assert lines_of(rehearsal, "/aws/sagemaker/TrainingJobs", "two-machines").count("validation Dice 0.25") == 2


def test_a_job_that_names_a_host_of_aws_stays_in_the_rehearsal(sagemaker, s3, bucket):
    """As the SDK does to find the account; the endpoint of the variable is ignored then."""
    code = """
    import boto3, pathlib
    account = boto3.client("sts", endpoint_url="https://sts.us-east-1.amazonaws.com").get_caller_identity()["Account"]
    pathlib.Path("/opt/ml/model/account").write_text(account)
    """
    job = train(sagemaker, bucket, "asks-sts", code)
    assert job["TrainingJobStatus"] == "Completed", job["FailureReason"]
    assert archive_of(s3, job["ModelArtifacts"]["S3ModelArtifacts"]) == {"account": b"123456789012"}


def test_jobs_that_fail_say_why_and_jobs_that_take_too_long_end(sagemaker, s3, bucket):
    failing = "import pathlib, sys\npathlib.Path('/opt/ml/output/failure').write_text('no such case')\nsys.exit(7)"
    start(sagemaker, bucket, "fails", failing)
    start(sagemaker, bucket, "raises", "raise ValueError('no dice')")
    start(sagemaker, bucket, "empty", "", InputDataConfig=[channel("all", f"s3://{bucket}/nothing-there")])
    for key in ("fold-1/last", "fold-10/last", "pair", "pair/last"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    start(sagemaker, bucket, "neighbours", "", InputDataConfig=[channel("all", f"s3://{bucket}/fold-1")])
    start(sagemaker, bucket, "namesake", "", InputDataConfig=[channel("all", f"s3://{bucket}/pair")])
    start(sagemaker, bucket, "strangers", "", CheckpointConfig={"S3Uri": f"s3://{bucket}/fold-1"})
    forever = "import time, pathlib\npathlib.Path('/opt/ml/model/part').write_text('x')\ntime.sleep(100)"
    start(sagemaker, bucket, "overtime", forever, StoppingCondition={"MaxRuntimeInSeconds": 1})
    start(sagemaker, bucket, "stopped", "import time\ntime.sleep(100)")
    time.sleep(0.5)
    sagemaker.stop_training_job(TrainingJobName="stopped")
    names = ("fails", "raises", "empty", "neighbours", "namesake", "strangers", "overtime", "stopped")
    ended = {name: wait(lambda name=name: sagemaker.describe_training_job(TrainingJobName=name)) for name in names}
    assert "no such case" in ended["fails"]["FailureReason"] and "exit code: 7" in ended["fails"]["FailureReason"]
    assert "ValueError: no dice" in ended["raises"]["FailureReason"]
    assert "No S3 objects found" in ended["empty"]["FailureReason"]
    assert "pair/last begins with it too" in ended["namesake"]["FailureReason"]
    for name in ("neighbours", "strangers"):
        assert "fold-10/last begins with it too" in ended[name]["FailureReason"], "to AWS fold-1 is a prefix"
    assert (ended["overtime"]["TrainingJobStatus"], ended["overtime"]["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert "ModelArtifacts" in ended["overtime"]
    assert ended["stopped"]["TrainingJobStatus"] == "Stopped"
    pages = sagemaker.get_paginator("list_training_jobs").paginate()
    listed = lambda: [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]  # noqa: E731
    assert [name for name in listed() if name in names] == list(names), "jobs are listed with the oldest first"
    for name in names:
        sagemaker.delete_training_job(TrainingJobName=name)
    assert not set(names) & set(listed())


@pytest.mark.parametrize("notice", [True, False])
def test_a_spot_job_goes_on_where_its_checkpoint_was(rehearsal, sagemaker, s3, bucket, notice):
    name = f"spot-{'notice' if notice else 'sudden'}"
    rehearsal.interrupt(name, after="count=6", notice=notice)
    job = train(
        sagemaker,
        bucket,
        name,
        COUNTER,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60},
        CheckpointConfig={"S3Uri": f"s3://{bucket}/checkpoints/{name}"},
    )
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert archive_of(s3, job["ModelArtifacts"]["S3ModelArtifacts"])["count"] == b"12"
    passed = [one["Status"] for one in job["SecondaryStatusTransitions"]]
    assert passed.count("Interrupted") == 1 and passed.count("Training") == 2
    said = lines_of(rehearsal, "/aws/sagemaker/TrainingJobs", name)
    begun = [int(line.rpartition(" ")[2]) for line in said if line.startswith("begins at")]
    assert begun[0] == 0 and (6 <= begun[1] < 12 if notice else 0 < begun[1] < 12)
    assert ("told to go" in said) == notice
    assert all("rehearsal" not in line for line in said)


def test_a_lost_shard_fails_alone_and_brings_nothing(sagemaker, s3, bucket):
    for number in range(4):
        s3.put_object(Bucket=bucket, Key=f"cases/{number}", Body=b"x")
    code = (
        "import pathlib, sys; out = pathlib.Path('/opt/ml/processing/output');"
        "[(out / p.name).write_text('done') for p in pathlib.Path('/opt/ml/processing/input').iterdir()];"
        "sys.exit(int(sys.argv[1]))"
    )

    def process(name: str, status: str, count: int, folder: str = "cases") -> dict:
        place = {"S3InputMode": "File", "S3DataType": "S3Prefix", "S3DataDistributionType": "ShardedByS3Key"}
        output = {"S3Uri": f"s3://{bucket}/{name}", "LocalPath": "/opt/ml/processing/output", "S3UploadMode": "EndOfJob"}
        sagemaker.create_processing_job(
            ProcessingJobName=name,
            RoleArn=ROLE,
            AppSpecification={
                "ImageUri": "image",
                "ContainerEntrypoint": program(code),
                "ContainerArguments": [status],
            },
            ProcessingResources={
                "ClusterConfig": {"InstanceCount": count, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 10}
            },
            ProcessingInputs=[
                {
                    "InputName": "cases",
                    "S3Input": {"S3Uri": f"s3://{bucket}/{folder}", "LocalPath": "/opt/ml/processing/input", **place},
                }
            ],
            ProcessingOutputConfig={"Outputs": [{"OutputName": "out", "S3Output": output}]},
        )
        return wait(lambda: sagemaker.describe_processing_job(ProcessingJobName=name))

    assert process("both", "0", 2)["ProcessingJobStatus"] == "Completed"
    assert s3.list_objects_v2(Bucket=bucket, Prefix="both/")["KeyCount"] == 4
    lost = process("lost", "1", 2)
    assert lost["ProcessingJobStatus"] == "Failed" and "exit code: 1" in lost["FailureReason"]
    assert s3.list_objects_v2(Bucket=bucket, Prefix="lost/")["KeyCount"] == 0
    nothing = process("nothing", "0", 1, folder="nothing-there")
    assert nothing["ProcessingJobStatus"] == "Failed" and "No S3 objects found" in nothing["FailureReason"]


WRITES = """
import pathlib, subprocess
pathlib.Path("/opt/ml/processing/out/part").touch()
subprocess.run(["sleep", "86397"])
"""


def left_of(rehearsal, word: str) -> tuple[list[str], list[str]]:
    """What a rehearsal still has: folders of jobs, and processes whose command ends with a word."""
    commands = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    return [path.name for path in (rehearsal._folder / "work").iterdir()], [line for line in commands if line.endswith(word)]


def test_a_job_that_the_rehearsal_cannot_finish_leaves_nothing_and_can_be_made_again(rehearsal, sagemaker, bucket):
    output = {"S3Uri": "s3://no-such-bucket/out", "LocalPath": "/opt/ml/processing/out", "S3UploadMode": "Continuous"}
    sagemaker.create_processing_job(
        ProcessingJobName="nowhere-to-write",
        RoleArn=ROLE,
        AppSpecification={"ImageUri": "image", "ContainerEntrypoint": program(WRITES)},
        ProcessingResources={"ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.xlarge", "VolumeSizeInGB": 10}},
        ProcessingOutputConfig={"Outputs": [{"OutputName": "out", "S3Output": output}]},
    )
    job = wait(lambda: sagemaker.describe_processing_job(ProcessingJobName="nowhere-to-write"))
    assert job["ProcessingJobStatus"] == "Failed" and "NoSuchBucket" in job["FailureReason"]
    nothing = [channel("all", f"s3://{bucket}/nothing-there")]
    for _ in range(2):
        assert "No S3 objects" in train(sagemaker, bucket, "again", "", InputDataConfig=nothing)["FailureReason"]
        sagemaker.delete_training_job(TrainingJobName="again")
    assert left_of(rehearsal, "sleep 86397") == ([], [])


def test_requests_that_cannot_be_are_refused_as_aws_refuses_them(rehearsal, sagemaker, bucket):
    with pytest.raises(ClientError, match="MaxWaitTimeInSeconds is required"):
        train(sagemaker, bucket, "no-wait", "", EnableManagedSpotTraining=True)
    with pytest.raises(ClientError, match=r"\(ValidationException\).*Requested resource not found"):
        sagemaker.describe_training_job(TrainingJobName="nowhere")
    with pytest.raises(sagemaker.exceptions.ResourceNotFound):
        sagemaker.describe_processing_job(ProcessingJobName="nowhere")
    with pytest.raises(ClientError, match="does not know ListMonitoringSchedules"):  # moto would answer with HTML
        sagemaker.list_monitoring_schedules()
    with pytest.raises(ClientError, match="does not know Search"):  # moto would find none of the jobs
        sagemaker.search(Resource="TrainingJob")
    with pytest.raises(ClientError, match="Could not find endpoint-config"):
        sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="nowhere")
    with pytest.raises(ClientError, match="does not know CreateTransformJob"):  # moto would say that it is completed
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/x"}}
        sagemaker.create_transform_job(
            TransformJobName="t",
            ModelName="m",
            TransformInput={"DataSource": source},
            TransformOutput={"S3OutputPath": f"s3://{bucket}/y"},
            TransformResources={"InstanceType": "ml.m5.large", "InstanceCount": 1},
        )
    with pytest.raises(ClientError, match="not found"):
        boto3.client("sagemaker-runtime").invoke_endpoint(EndpointName="nowhere", Body=b"")
    with pytest.raises(re.error, match="missing"):
        rehearsal.interrupt("job", after="step (")


def test_listings_have_the_order_and_the_pages_of_aws(sagemaker):
    names = [f"listed-{number}" for number in range(12)]
    for name in names:
        sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "image"})
    first = sagemaker.list_models(NameContains="listed")
    assert [one["ModelName"] for one in first["Models"]] == names[:1:-1], "ten, and the newest first"
    rest = sagemaker.list_models(NameContains="listed", NextToken=first["NextToken"])
    assert [one["ModelName"] for one in rest["Models"]] == names[1::-1] and "NextToken" not in rest
    pages = sagemaker.get_paginator("list_models").paginate(NameContains="listed", PaginationConfig={"PageSize": 5})
    assert [len(page["Models"]) for page in pages] == [5, 5, 2]
    assert sagemaker.list_models(NameContains="listed", CreationTimeBefore=1e9)["Models"] == []
    assert len(sagemaker.list_models(NameContains="listed", CreationTimeAfter=1e9)["Models"]) == 10
    ended = sagemaker.list_training_jobs(LastModifiedTimeBefore=1e9)["TrainingJobSummaries"]
    assert ended == sagemaker.list_training_jobs(LastModifiedTimeAfter=4e9)["TrainingJobSummaries"] == []
    jobs = sagemaker.list_training_jobs(SortBy="Status", SortOrder="Descending", MaxResults=100)["TrainingJobSummaries"]
    statuses = [job["TrainingJobStatus"] for job in jobs]
    assert statuses == sorted(statuses, reverse=True)


def test_tags_come_and_go(sagemaker):
    tags = [{"Key": key, "Value": "x"} for key in "ab"]
    made = {"ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": "image"}, "Tags": tags}
    arn = sagemaker.create_model(ModelName="tagged", **made)["ModelArn"]
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "b", "Value": "y"}, {"Key": "c", "Value": "z"}])
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=["a", "c"])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "b", "Value": "y"}]


def test_a_search_lists_its_trials_as_asked(sagemaker, s3, bucket):
    code = b"import sys; print('loss', sys.argv[sys.argv.index('--loss') + 1])"
    s3.put_object(Bucket=bucket, Key="search.tar.gz", Body=pack({"search.py": code, "requirements.txt": b"pytest"}))
    fixed = {"sagemaker_program": "search.py", "sagemaker_submit_directory": f"s3://{bucket}/search.tar.gz"}
    metrics = [{"Name": "loss", "Regex": "loss ([0-9.]+)"}]

    def search(*grid):
        sagemaker.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName="search",
            HyperParameterTuningJobConfig={
                "Strategy": "Grid",
                "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
                "ResourceLimits": {"MaxParallelTrainingJobs": 3},
                "ParameterRanges": {"CategoricalParameterRanges": [{"Name": "loss", "Values": [*grid]}]},
            },
            TrainingJobDefinition={
                "StaticHyperParameters": fixed,
                "RoleArn": ROLE,
                "AlgorithmSpecification": {
                    "TrainingImage": "image",
                    "TrainingInputMode": "File",
                    "MetricDefinitions": metrics,
                },
                "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/search"},
                "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
                "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            },
        )
        begun = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="search")
        assert begun["TrainingJobStatusCounters"]["Completed"] == begun["ObjectiveStatusCounters"]["Succeeded"] == 0
        return wait(lambda: sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="search"))

    ended = search("0.5", "none", "0.2")
    assert ended["HyperParameterTuningJobStatus"] == "Completed"
    assert ended["BestTrainingJob"]["TunedHyperParameters"] == {"loss": "0.2"}

    def values(**asked):
        found = sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(HyperParameterTuningJobName="search", **asked)
        return [one["TunedHyperParameters"]["loss"] for one in found["TrainingJobSummaries"]]

    assert values() == ["0.5", "none", "0.2"]
    assert values(SortBy="FinalObjectiveMetricValue") == ["0.2", "0.5"]
    assert values(SortBy="FinalObjectiveMetricValue", SortOrder="Descending", MaxResults=1) == ["0.5"]
    assert values(StatusEquals="Failed") == []
    sagemaker.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName="search")
    again = search("0.9")
    assert again["TrainingJobStatusCounters"]["Completed"] == 1 and values() == ["0.9"], "nothing of the deleted one"
    assert again["BestTrainingJob"]["TunedHyperParameters"] == {"loss": "0.9"}


def test_a_trial_whose_package_is_missing_fails(sagemaker, s3, bucket):
    """AWS's toolkit installs the requirements of the source before it starts the program."""
    files = {"search.py": b"print('started')", "requirements.txt": b"no-such-package"}
    s3.put_object(Bucket=bucket, Key="lacking.tar.gz", Body=pack(files))
    sagemaker.create_training_job(
        TrainingJobName="lacking",
        RoleArn=ROLE,
        HyperParameters={"sagemaker_program": "search.py", "sagemaker_submit_directory": f"s3://{bucket}/lacking.tar.gz"},
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/lacking"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    job = wait(lambda: sagemaker.describe_training_job(TrainingJobName="lacking"))
    assert job["TrainingJobStatus"] == "Failed" and "not installed here: no-such-package" in job["FailureReason"]


def test_the_log_of_one_job_holds_no_lines_of_another(sagemaker, bucket):
    logs = boto3.client("logs")

    def lines(group, prefix):
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group, logStreamNamePrefix=prefix)
        return [event["message"] for page in pages for event in page["events"]]

    group = "/aws/sagemaker/TrainingJobs"
    for name in ("spoken-1", "spoken-2"):
        train(sagemaker, bucket, name, f"print('this is {name}')")
    assert lines(group, "spoken-2") == ["this is spoken-2"] and lines(group, "unspoken") == []
    assert sorted(lines(group, "spoken-")) == ["this is spoken-1", "this is spoken-2"]
    with pytest.raises(logs.exceptions.ResourceNotFoundException):
        lines("/aws/sagemaker/Nothing", "spoken")


def test_a_trial_finds_the_variables_and_options_of_awss_toolkit(rehearsal, sagemaker, s3, bucket):
    code = b"import os, sys; print(sys.argv[1:], *(os.environ[f'SM_{name}'] for name in ('HPS', 'HP_W', 'HOSTS', 'NUM_GPUS')))"
    s3.put_object(Bucket=bucket, Key="told.tar.gz", Body=pack({"told.py": code}))
    sagemaker.create_training_job(
        TrainingJobName="told",
        RoleArn=ROLE,
        HyperParameters={"sagemaker_program": "told.py", "sagemaker_submit_directory": f"s3://{bucket}/told.tar.gz", "w": "4"},
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": f"s3://{bucket}/told"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    job = wait(lambda: sagemaker.describe_training_job(TrainingJobName="told"))
    assert job["TrainingJobStatus"] == "Completed", job["FailureReason"]
    (line,) = lines_of(rehearsal, "/aws/sagemaker/TrainingJobs", "told")
    assert line.startswith("""['-w', '4'] {"w": 4} 4 ["algo-1"] """), "a name of one letter has one dash"


LIFE = """
import sys, time, boto3
from sagemaker_rehearsal import start_rehearsal
rehearsal = start_rehearsal(private=sys.argv[1] == "private").apply()
boto3.client("sagemaker").create_training_job(
    TrainingJobName="job", RoleArn="arn:aws:iam::123456789012:role/Execution",
    AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File",
        "ContainerEntrypoint": ["sh", "-c", "setsid sleep 86399 & exec sleep 86399"]},
    OutputDataConfig={"S3OutputPath": "s3://bucket/results"}, StoppingCondition={"MaxRuntimeInSeconds": 60},
    ResourceConfig={"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10},
)
print(rehearsal._folder, rehearsal._janitor.pid, flush=True)
time.sleep(100)
"""


def lives(process: psutil.Process) -> bool:
    """Whether it runs; one that waits for its parent to take note of its end does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("isolation", ["private", "public"])
@pytest.mark.parametrize("victim", ["caller", "server"])
def test_nothing_is_left_when_it_is_killed(rehearsal, isolation, victim):
    """SIGKILL to the program that started it, or to its server: no process, no mount and no file stays."""
    hidden = without_aws(os.environ)
    command = [sys.executable, "-c", LIFE, isolation]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=hidden) as caller:
        folder, janitor = caller.stdout.readline().split()
        deadline = time.monotonic() + 20
        sleeping = lambda: [one for one in below(int(janitor)) if one.name() == "sleep"]  # noqa: E731
        while len(sleeping()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        family = [psutil.Process(int(janitor)), *below(int(janitor))]
        assert len(sleeping()) == 2
        server = next(one for one in family if one.cmdline()[1:3] == ["-m", "sagemaker_rehearsal.server"])
        os.kill(caller.pid if victim == "caller" else server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(lives(one) for one in family) and time.monotonic() < deadline:
            time.sleep(0.05)
        caller.kill()
    assert [one for one in family if lives(one)] == []
    assert not Path(folder).exists()
    assert folder not in Path("/proc/self/mountinfo").read_text() if sys.platform == "linux" else True


def test_nothing_is_left_when_its_start_is_interrupted(rehearsal, monkeypatch, tmp_path):
    def stopped(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sagemaker_rehearsal.session.time.sleep", stopped)
    before = set(below(os.getpid()))
    with pytest.raises(KeyboardInterrupt):
        start_rehearsal()
    assert [one for one in below(os.getpid()) if one not in before and lives(one)] == [] == list(tmp_path.iterdir())


SECRET = "not-to-be-seen-anywhere"
ACCOUNT = """
import boto3, os, pathlib, sys
from sagemaker_rehearsal import start_rehearsal
before = dict(os.environ)
with start_rehearsal("eu-west-1") as rehearsal:
    rehearsal.apply()
    boto3.client("s3").create_bucket(Bucket="inside", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert boto3.client("sagemaker").meta.region_name == "eu-west-1"
    assert boto3.Session().available_profiles == []
    janitor = str(rehearsal._janitor.pid)
    family = [janitor, *pathlib.Path(f"/proc/{janitor}/task/{janitor}/children").read_text().split()]
    for process in family:
        assert sys.argv[1].encode() not in pathlib.Path(f"/proc/{process}/environ").read_bytes(), process
    assert len(family) > 1 and sys.argv[1] not in str(dict(os.environ))
assert dict(os.environ) == before
"""


@pytest.mark.parametrize(
    "shell", [{}, {"AWS_PROFILE": "clinic", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL_S3": "http://x"}]
)
def test_an_account_of_the_machine_is_hidden_and_comes_back(rehearsal, shell, tmp_path):
    """A region in ~/.aws/config is enough to make boto3 look there; a profile that does not exist makes it fail."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[default]\nregion = eu-central-1\n[profile clinic]\nregion = eu-north-1\n")
    (tmp_path / ".aws/credentials").write_text(f"[default]\naws_access_key_id = x\naws_secret_access_key = {SECRET}\n")
    environment = {**without_aws(os.environ), "HOME": str(tmp_path), **shell}
    done = subprocess.run([sys.executable, "-c", ACCOUNT, SECRET], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_runs_a_program_inside(rehearsal):
    code = "import boto3, sys; boto3.client('s3').create_bucket(Bucket='inside'); sys.exit(5)"
    command = [sys.executable, "-m", "sagemaker_rehearsal", "--", sys.executable, "-c", code]
    environment = {**without_aws(os.environ), "AWS_PROFILE": "clinic"}
    assert subprocess.run(command, env=environment, check=False).returncode == 5


def test_a_program_that_is_interrupted_cleans_up_in_the_rehearsal():
    """Ctrl-C reaches the command and its program at once."""
    code = """if True:
        import boto3, time
        try:
            print("runs", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(1)
            print(boto3.client("s3").list_buckets()["Buckets"], flush=True)
            raise SystemExit(3) from None
    """
    command = [sys.executable, "-m", "sagemaker_rehearsal", "--", sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job ignores it
    with subprocess.Popen(command, env=without_aws(os.environ), start_new_session=True, **pipes) as done:
        assert done.stdout.readline() == "runs\n"
        os.killpg(done.pid, signal.SIGINT)
        assert done.communicate() == ("[]\n", "") and done.returncode == 3


SERVE = """
import http.server, os, pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as the first process of a container does by itself
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(400 if body == b"bad" else 200), self.end_headers()
        self.wfile.write(pathlib.Path(os.environ["SM_MODEL_DIR"], "greeting").read_bytes() + body)
http.server.HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


def test_endpoints_serve_a_model_with_the_program_of_the_image(tmp_path):
    (tmp_path / "serve.py").write_text(SERVE)
    with start_rehearsal(serve=f"{sys.executable} {tmp_path / 'serve.py'}", grace=2.0) as own:
        make = lambda service: boto3.Session("rehearsal", "rehearsal", region_name="us-east-1").client(  # noqa: E731
            service, endpoint_url=own.address
        )
        s3, sagemaker, runtime = make("s3"), make("sagemaker"), make("sagemaker-runtime")
        s3.create_bucket(Bucket="own-bucket")
        s3.put_object(Bucket="own-bucket", Key="model.tar.gz", Body=pack({"greeting": b"hello "}))
        s3.put_object(Bucket="own-bucket", Key="bad", Body=b"bad")
        container = {"Image": "image", "ModelDataUrl": "s3://own-bucket/model.tar.gz"}
        sagemaker.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer=container)
        variant = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        later = {"OutputConfig": {"S3OutputPath": "s3://own-bucket/out", "S3FailurePath": "s3://own-bucket/failed"}}
        silent = {"OutputConfig": {"S3OutputPath": "s3://own-bucket/out"}}
        kinds = {"now": {}, "later": {"AsyncInferenceConfig": later}, "silent": {"AsyncInferenceConfig": silent}}
        for name, more in kinds.items():
            sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant], **more)
            sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            sagemaker.delete_endpoint(EndpointName="later")
        for name in kinds:
            described = wait(lambda name=name: sagemaker.describe_endpoint(EndpointName=name))
            assert described["EndpointStatus"] == "InService", described
        broken = {"Image": "image", "ModelDataUrl": "s3://own-bucket/bad"}
        sagemaker.create_model(ModelName="broken", ExecutionRoleArn=ROLE, PrimaryContainer=broken)
        variants = [variant, {**variant, "VariantName": "w", "ModelName": "broken"}]
        before = left_of(own, "serve.py")
        sagemaker.create_endpoint_config(EndpointConfigName="half", ProductionVariants=variants)
        sagemaker.create_endpoint(EndpointName="half", EndpointConfigName="half")
        with pytest.raises(WaiterError, match="Failed"):
            sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="half", WaiterConfig={"Delay": 1})
        assert left_of(own, "serve.py") == before, "the first variant does not stay when the second fails"
        plain = {"S3Uri": "s3://own-bucket/nothing-there/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        container = {"Image": "image", "ModelDataSource": {"S3DataSource": plain}}
        sagemaker.create_model(ModelName="absent", ExecutionRoleArn=ROLE, PrimaryContainer=container)
        sagemaker.create_endpoint_config(EndpointConfigName="absent", ProductionVariants=[variant | {"ModelName": "absent"}])
        sagemaker.create_endpoint(EndpointName="absent", EndpointConfigName="absent")
        absent = wait(lambda: sagemaker.describe_endpoint(EndpointName="absent"))
        assert "Could not find model data at s3://own-bucket/nothing-there/" in absent["FailureReason"]
        with pytest.raises(ClientError, match="does not know invocations-response-stream"):
            runtime.invoke_endpoint_with_response_stream(EndpointName="now", Body=b"world")
        assert runtime.invoke_endpoint(EndpointName="now", Body=b"world")["Body"].read() == b"hello world"
        with pytest.raises(ClientError, match=r"client error \(400\)"):
            runtime.invoke_endpoint(EndpointName="now", Body=b"bad")
        with pytest.raises(ClientError, match="exceeds the limit"):
            runtime.invoke_endpoint(EndpointName="now", Body=bytes(26 * 2**20))
        answer = runtime.invoke_endpoint_async(EndpointName="later", InputLocation="s3://own-bucket/bad")
        key = answer["FailureLocation"].removeprefix("s3://own-bucket/")
        s3.get_waiter("object_exists").wait(Bucket="own-bucket", Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
        assert b"client error (400)" in s3.get_object(Bucket="own-bucket", Key=key)["Body"].read()
        named = {"S3OutputPathExtension": "ward", "Filename": "one.txt"}
        answer = runtime.invoke_endpoint_async(EndpointName="later", Body=b"inline", **named)
        assert answer["OutputLocation"] == "s3://own-bucket/out/ward/one.txt"
        s3.get_waiter("object_exists").wait(Bucket="own-bucket", Key="out/ward/one.txt", WaiterConfig={"Delay": 1})
        assert s3.get_object(Bucket="own-bucket", Key="out/ward/one.txt")["Body"].read() == b"hello inline"
        for given in ({}, {"Body": b"inline", "InputLocation": "s3://own-bucket/bad"}):
            with pytest.raises(ClientError, match="exactly one of them"):
                runtime.invoke_endpoint_async(EndpointName="later", **given)
        with pytest.raises(ClientError, match="exceeds the limit of 128000"):
            runtime.invoke_endpoint_async(EndpointName="later", Body=bytes(128_001))
        answer = runtime.invoke_endpoint_async(EndpointName="silent", InputLocation="s3://own-bucket/bad")
        assert "OutputLocation" in answer and "FailureLocation" not in answer
        began = time.monotonic()
        for name in kinds:
            sagemaker.delete_endpoint(EndpointName=name)
        assert time.monotonic() - began < 1.5, "AWS does not wait for the programs to end, each of which takes 2 s here"
        assert sagemaker.describe_endpoint(EndpointName="later")["EndpointStatus"] == "Deleting"
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            sagemaker.delete_endpoint(EndpointName="later")
        for name in kinds:
            sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})
        assert left_of(own, "serve.py") == ([], [])
