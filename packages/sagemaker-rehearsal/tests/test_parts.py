"""What a rehearsal decides without being started: what it hides, what AWS would refuse, which hyperparameters come."""

import io
import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from unittest.mock import MagicMock

import pytest

from sagemaker_rehearsal import limits, training
from sagemaker_rehearsal.command import main
from sagemaker_rehearsal.containers import PRIVATE, Container, Machine, namespaces_work, write_programs
from sagemaker_rehearsal.hosting import reserve_port
from sagemaker_rehearsal.limits import AwsError
from sagemaker_rehearsal.logs import Tail
from sagemaker_rehearsal.objects import extract
from sagemaker_rehearsal.pip_stand_in import main as pip
from sagemaker_rehearsal.proxy import Authority, is_aws, serve_proxy
from sagemaker_rehearsal.records import Records
from sagemaker_rehearsal.session import without_aws
from sagemaker_rehearsal.training import Course
from sagemaker_rehearsal.tuning import draw_hyperparameters

IMAGE = {"TrainingImage": "image", "TrainingInputMode": "File"}
MACHINE = {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 10}
TRAINING = {
    "TrainingJobName": "job",
    "AlgorithmSpecification": IMAGE,
    "ResourceConfig": MACHINE,
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


def channel(kind):
    """A channel of a data type."""
    return {"ChannelName": "c", "DataSource": {"S3DataSource": {"S3DataType": kind, "S3Uri": "s3://b/k"}}}


def test_nothing_of_an_account_gets_through():
    account = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "BOTO_CONFIG", "https_proxy")
    assert without_aws({**dict.fromkeys(account, "x"), "PATH": "/bin"}) == {"PATH": "/bin"}


def packed(*members, content=b"x"):
    """A tar.gz of members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            archive.addfile(member, io.BytesIO(content) if member.isfile() else None)
    return stream.getvalue()


def test_archives_are_unpacked_without_the_filter_of_newer_pythons(tmp_path, monkeypatch):
    """tarfile got its filters in 3.11.4; the package promises 3.11."""
    monkeypatch.delattr(tarfile, "data_filter")
    program = tarfile.TarInfo("./code/run.sh")
    program.mode = 0o755
    extract(packed(tarfile.TarInfo("model.bin"), program), tmp_path / "out")
    assert (tmp_path / "out/model.bin").read_bytes() == b"x" and (tmp_path / "out/code/run.sh").stat().st_mode & 0o100
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for wrong in (tarfile.TarInfo("../escaped"), tarfile.TarInfo("/escaped"), link):
        with pytest.raises(AwsError):
            extract(packed(wrong), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["code", "model.bin", "out", "run.sh"]


def test_a_reserved_port_goes_to_the_server_and_to_nobody_else():
    with reserve_port() as port:
        with socket.socket() as stranger, pytest.raises(OSError):
            stranger.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"TrainingJobName": "no_underscores"}, "'trainingJobName' failed .* regular expression pattern"),
        ({"HyperParameters": {f"h{number}": "1" for number in range(101)}}, "'hyperParameters' .* less than or equal to 100"),
        ({"HyperParameters": {"long": "x" * 2501}}, "'hyperParameters.long.member' .* less than or equal to 2500"),
        ({"Environment": {"LONG": "x" * 513}}, "less than or equal to 512"),
        ({"ResourceConfig": {**MACHINE, "InstanceType": "ml.g5.xlrage"}}, "'resourceConfig.instanceType' .* enum value set"),
        ({"AlgorithmSpecification": {**IMAGE, "ContainerEntrypoint": ["sh", "-c", "x" * 257]}}, "equal to 256"),
        ({"ResourceConfig": {**MACHINE, "VolumeKmsKeyId": "alias/key"}}, "ml.g5.xlarge, which has local storage"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "value greater than or equal to 1"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 29 * limits.DAY}}, "MaxRuntimeInSeconds"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds is required"),
        (
            {
                "EnableManagedSpotTraining": True,
                "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 59},
            },
            "greater than or equal",
        ),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}}, "must not be specified"),
        ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "training image"),
        ({"AlgorithmSpecification": {**IMAGE, "MetricDefinitions": [{"Name": "d", "Regex": "Dice ("}]}}, "not valid"),
        ({"AlgorithmSpecification": {**IMAGE, "MetricDefinitions": [{"Name": "d", "Regex": "Dice .*"}]}}, "needs a group"),
        ({"InputDataConfig": [{"ChannelName": "c", "DataSource": {"FileSystemDataSource": {}}}]}, "does not come from S3"),
        ({"InputDataConfig": [channel("AugmentedManifestFile")]}, "not AugmentedManifestFile"),
        ({"CheckpointConfig": {"S3Uri": "s3://b/k", "LocalPath": "/home/me"}}, "below /opt/ml/ only, not in '/home/me'"),
        ({"CheckpointConfig": {"S3Uri": "s3://b/k", "LocalPath": "/opt/ml/../me"}}, "below /opt/ml/ only"),
    ],
)
def test_training_jobs_that_aws_or_the_rehearsal_refuses(change, words):
    limits.check("TrainingJob", {**TRAINING, "InputDataConfig": [channel("S3Prefix")]})
    with pytest.raises(AwsError, match=words):
        limits.check("TrainingJob", {**TRAINING, **change})


def test_every_limit_that_is_broken_is_named():
    with pytest.raises(AwsError, match=r"2 validation errors detected: .*trainingJobName.*; .*roleArn"):
        limits.check("TrainingJob", {**TRAINING, "TrainingJobName": "x" * 64, "RoleArn": "arn:aws:iam::1:role/short"})


def test_other_requests_that_are_refused():
    serverless = {"VariantName": "v", "ModelName": "m", "ServerlessConfig": {"MemorySizeInMB": 6144, "MaxConcurrency": 1}}
    with pytest.raises(AwsError, match="InstanceType"):
        limits.check("EndpointConfig", {"ProductionVariants": [serverless]})
    machine = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.g5.xlarge"}
    limits.check("EndpointConfig", {"ProductionVariants": [machine, machine]})
    with pytest.raises(AwsError, match="one production variant"):
        limits.check("EndpointConfig", {"ProductionVariants": [machine, machine], "AsyncInferenceConfig": {"OutputConfig": {}}})
    for wrong, words in (({}, "needs a PrimaryContainer"), ({"Containers": [{"Image": "a"}] * 2}, "not inference pipelines")):
        with pytest.raises(AwsError, match=words):
            limits.check("Model", {"ModelName": "m", **wrong})
    with pytest.raises(AwsError, match=r"'primaryContainer\.environment\.LONG\.member' .* less than or equal to 1024"):
        limits.check("Model", {"ModelName": "m", "PrimaryContainer": {"Environment": {"LONG": "x" * 1025}}})


def test_processing_jobs_that_are_refused():
    source, target = {"S3Uri": "s3://b/k", "S3DataType": "S3Prefix"}, {"S3Uri": "s3://b/k", "S3UploadMode": "EndOfJob"}
    inside = {"LocalPath": "/opt/ml/processing/x"}

    def check(inputs, outputs=()):
        inputs = [{"InputName": "i", **one} for one in inputs]
        outputs = [{"OutputName": "o", **one} for one in outputs]
        limits.check("ProcessingJob", {"ProcessingInputs": inputs, "ProcessingOutputConfig": {"Outputs": outputs}})

    check([{"S3Input": source | inside}], [{"S3Output": target | inside}])
    cluster = {"InstanceType": "ml.g4dn.xlarge", "VolumeKmsKeyId": "alias/key"}
    with pytest.raises(AwsError, match=r"ml\.g4dn\.xlarge, which has local storage"):
        limits.check("ProcessingJob", {"ProcessingResources": {"ClusterConfig": cluster}})
    limits.check("ProcessingJob", {"ProcessingResources": {"ClusterConfig": cluster | {"InstanceType": "ml.m5.xlarge"}}})
    for wrong, words in (
        (([{"S3Input": source | {"LocalPath": "/data"}}],), "/opt/ml/processing"),
        (([{"S3Input": source | {"LocalPath": "/opt/ml/processing-x"}}],), "must begin with /opt/ml/processing/"),
        (([{"S3Input": source}],), "/opt/ml/processing"),
        (([{"S3Input": source | {"LocalPath": "/opt/ml/processing/../../../etc"}}],), "and stay there"),
        (([{"S3Input": source | inside}] * 2,), "the same LocalPath"),
        (([{"DatasetDefinition": {}}],), "does not come from S3"),
        (([{"S3Input": source | inside | {"S3InputMode": "Pipe"}}],), "not Pipe"),
        (([], [{"FeatureStoreOutput": {}}]), "does not go to S3"),
        (([{"S3Input": source | inside}] * 11,), "less than or equal to 10"),
    ):
        with pytest.raises(AwsError, match=words):
            check(*wrong)


def tuning_job(ranges, *, strategy="Random", **definition):
    """A tuning job for the metric "dice"."""
    algorithm = {**IMAGE, "MetricDefinitions": [{"Name": "dice", "Regex": "Dice ([0-9.]+)"}]}
    return {
        "HyperParameterTuningJobName": "search",
        "HyperParameterTuningJobConfig": {
            "Strategy": strategy,
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "dice"},
            "ResourceLimits": {"MaxParallelTrainingJobs": 1},
            "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "rate", **ranges}]},
        },
        "TrainingJobDefinition": {"AlgorithmSpecification": algorithm, **definition},
    }


def unranged(ranges):
    """A tuning job with other ranges, or none."""
    good = tuning_job({"MinValue": "0", "MaxValue": "1"})
    return good | {"HyperParameterTuningJobConfig": good["HyperParameterTuningJobConfig"] | {"ParameterRanges": ranges}}


def test_tuning_jobs_are_refused_before_their_first_training():
    good = {"MinValue": "1e-4", "MaxValue": "1e-2", "ScalingType": "Logarithmic"}
    limits.check("HyperParameterTuningJob", tuning_job(good))
    for wrong, words in (
        (tuning_job({**good, "MinValue": "0"}), "greater than 0 for Logarithmic"),
        (tuning_job({**good, "MaxValue": "1", "ScalingType": "ReverseLogarithmic"}), "0 <= x < 1"),
        (tuning_job({**good, "MaxValue": "1e-5"}), "begins at 0.0001 and ends at 1e-05"),
        (tuning_job(good, strategy="Grid"), "categorical ranges only"),
        (tuning_job(good, EnableManagedSpotTraining=True), "MaxWaitTimeInSeconds is required"),
        (tuning_job(good, AlgorithmSpecification=IMAGE), "A metric is required"),
        (tuning_job(good, HyperParameterTuningResourceConfig=MACHINE), "not HyperParameterTuningResourceConfig"),
        (unranged({"AutoParameters": [{"Name": "rate", "ValueHint": "0.1"}]}), "does not know AutoParameters"),
        (unranged({}), "at least one range"),
        ({**tuning_job(good), "HyperParameterTuningJobName": "x" * 33}, "less than or equal to 32"),
    ):
        with pytest.raises(AwsError, match=words):
            limits.check("HyperParameterTuningJob", wrong)


def test_records_answer_as_aws_does():
    records = Records("eu-west-1")
    request = {**TRAINING, "VpcConfig": {}, "Tags": [{"Key": "a", "Value": "b"}]}
    record = records.create("TrainingJob", request, TrainingJobStatus="InProgress")
    records.create("Model", {"ModelName": "taken"})
    described = record.describe()
    assert "VpcConfig" not in described and "Tags" not in described
    assert described["TrainingJobArn"].startswith("arn:aws:sagemaker:eu-west-1:")
    for work, code in (
        (lambda: records.create("TrainingJob", request), "ResourceInUse"),
        (lambda: records.create("Model", {"ModelName": "taken"}), "ValidationException"),
        (lambda: records.get("TrainingJob", "other"), "ValidationException"),
        (lambda: records.get("ProcessingJob", "other"), "ResourceNotFound"),
        (lambda: records.get("Endpoint", "other"), "ValidationException"),
        (lambda: records.delete("TrainingJob", "job"), "ValidationException"),
    ):
        with pytest.raises(AwsError) as refusal:
            work()
        assert refusal.value.code == code
    record.update(TrainingJobStatus="Completed")
    assert record.summary()["TrainingJobStatus"] == "Completed"
    records.delete("TrainingJob", "job")
    assert records.list("TrainingJob") == []


def test_facts_that_come_at_the_same_time_are_all_kept():
    record = Records("eu-west-1").create("TrainingJob", TRAINING, TrainingJobStatus="InProgress")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def note(number):
        for fact in range(200):
            record.update(**{f"Fact{number}-{fact}": fact})

    try:
        threads = [threading.Thread(target=note, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len([name for name in record.facts if name.startswith("Fact")]) == 800


def test_a_line_that_matches_without_a_number_is_no_value():
    metrics = [{"Name": "loss", "Regex": "loss: ([0-9.]+|nan|inf)"}, {"Name": "dice", "Regex": "Dice( none)?"}]
    request = {**TRAINING, "AlgorithmSpecification": {**IMAGE, "MetricDefinitions": metrics}}
    course = Course(Records("eu-west-1").create("TrainingJob", request, TrainingJobStatus="InProgress"))
    for line in ("loss: 0.5", "final loss: 0.31.", "Dice", "loss: nan", "loss: inf"):
        course.hear(line)
    assert {name: metric["Value"] for name, metric in course.metrics.items()} == {"loss": 0.5}


def test_hyperparameters_keep_to_their_ranges_and_repeat_with_their_seed():
    config = {
        "Strategy": "Random",
        "RandomSeed": 3,
        "ParameterRanges": {
            "ContinuousParameterRanges": [
                {"Name": "rate", "MinValue": "1e-5", "MaxValue": "1e-1", "ScalingType": "Logarithmic"},
                {"Name": "momentum", "MinValue": "0.5", "MaxValue": "0.999", "ScalingType": "ReverseLogarithmic"},
            ],
            "IntegerParameterRanges": [{"Name": "width", "MinValue": "8", "MaxValue": "32"}],
            "CategoricalParameterRanges": [{"Name": "loss", "Values": ["dice", "bce"]}],
        },
    }
    drawn = list(draw_hyperparameters(config, 400))
    assert drawn == list(draw_hyperparameters(config, 400))
    rates = [float(one["rate"]) for one in drawn]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)
    assert sum(rate < 1e-3 for rate in rates) == pytest.approx(200, abs=40), "half of a logarithmic range"
    assert sum(1 - float(one["momentum"]) < math.sqrt(0.5 * 0.001) for one in drawn) == pytest.approx(200, abs=40)
    assert {int(one["width"]) for one in drawn} <= set(range(8, 33)) and {one["loss"] for one in drawn} == {"dice", "bce"}
    grid = {
        "Strategy": "Grid",
        "ParameterRanges": {"CategoricalParameterRanges": [{"Name": n, "Values": ["1", "2"]} for n in "ab"]},
    }
    assert len({tuple(one.items()) for one in draw_hyperparameters(grid, 10)}) == 4


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["pytest", "packaging>=20"], 0, ""),
        (["packaging<1"], 0, "packaging<1 is asked for"),
        (["no-such-package"], 1, "not installed here: no-such-package"),
        (['no-such-package; python_version < "3"'], 0, ""),
        (["--extra-index-url", "https://example.com/simple", "-c", "constraints.txt", "pytest"], 0, ""),
        (["git+https://example.com/project"], 1, "can't tell what this installs: git+https://example.com/project"),
        (["packaging @ https://example.com/packaging.zip"], 1, "can't tell what this installs: packaging @ https://example"),
        (["-r", "FOLDER/edit.txt"], 1, "can't tell what this installs: ./mine"),
        (["-rFOLDER/nested.txt"], 1, "not installed here: no-such-package"),
        (["--requirement=FOLDER/outer.txt"], 1, "not installed here: no-such-package"),
        (["--timeout", "100", "pytest"], 0, ""),
        (["--root-user-action", "ignore", "--no-binary", ":all:", "pytest"], 0, ""),
        (["-r", "FOLDER/powershell.txt"], 0, ""),
        (["-r", "FOLDER/hashed.txt"], 0, ""),
    ],
)
def test_pip_compares_what_it_is_asked_for(tmp_path, words, status, said):
    programs = write_programs(tmp_path / "bin", "")
    (tmp_path / "requirements.txt").write_text("# a comment\npytest \\\n    --hash=sha256:00\n\n--pre\npluggy  # another\n")
    files = {"outer": "-r nested.txt", "nested": "no-such-package", "hashed": "pytest --hash=sha256:00", "edit": "-e ./mine"}
    for name, text in files.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "powershell.txt").write_text("pytest\n", encoding="utf-16")
    words = [word.replace("FOLDER", str(tmp_path)) for word in words]
    asked = [str(programs / "pip"), "install", "-q", "-r", str(tmp_path / "requirements.txt"), *words]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == status and said in done.stdout and not done.stderr, done


@pytest.mark.parametrize("first", ["-q", "--no-cache-dir", "--proxy=http://localhost"])
def test_options_of_pip_itself_hide_no_missing_package(first, capsys):
    assert pip([first, "install", "no-such-package"]) == 1
    assert "not installed here: no-such-package" in capsys.readouterr().out
    assert pip([first, "list"]) == 0


def test_the_proxy_plays_aws_and_refuses_every_other_host(tmp_path):
    assert is_aws("sts.us-east-1.amazonaws.com") and not is_aws("example.com") and not is_aws("amazonaws.com.example.com")
    upstream = socket.create_server(("127.0.0.1", 0))
    authority = Authority(tmp_path)
    proxy = serve_proxy(authority, upstream.getsockname()[1])

    def connect(host: str) -> tuple[socket.socket, bytes]:
        client = socket.create_connection(("127.0.0.1", proxy), timeout=10)
        client.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return client, client.recv(1000)

    client, answer = connect("example.com")
    client.close()
    assert answer.startswith(b"HTTP/1.1 403")
    client, answer = connect("sts.us-east-1.amazonaws.com")
    assert answer.startswith(b"HTTP/1.1 200")
    trusting = ssl.create_default_context(cafile=authority.path)
    with trusting.wrap_socket(client, server_hostname="sts.us-east-1.amazonaws.com") as secure:
        secure.sendall(b"question")
        server, _ = upstream.accept()
        with server:
            assert server.recv(100) == b"question"
            server.sendall(b"answer" * 20_000)
            received = b""
            while len(received) < 120_000:
                received += secure.recv(1 << 16)
    assert received == b"answer" * 20_000
    upstream.close()
    assert not [path for path in tmp_path.iterdir() if path.name != "authority.pem" and path.stat().st_mode & 0o077]


def test_a_container_can_be_asked_to_end_while_it_ends(tmp_path):
    (tmp_path / "groups").mkdir()
    machine = Machine(tmp_path, tmp_path / "programs", {}, private=namespaces_work(PRIVATE))
    for number in range(20):
        container = Container(machine, tmp_path / f"job-{number}" / "ml", ["sh", "-c", "exit 3"], environment={})
        while container.running:
            container.terminate()
        container.kill()
        assert container.status is not None


def test_what_a_container_left_behind_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr("sagemaker_rehearsal.logs.PATIENCE", 0.5)
    (tmp_path / "groups").mkdir()
    machine, client = Machine(tmp_path, tmp_path / "programs", {}, private=False), MagicMock()
    client.exceptions.ResourceAlreadyExistsException = KeyError
    command = ["sh", "-c", "setsid sleep 30 & sleep 0.5; echo $!"]
    container = Container(machine, tmp_path / "job/ml", command, environment={})
    tail = Tail(client, "group", "stream", container=container)
    begun = time.monotonic()
    while container.running:
        time.sleep(0.05)
    container.kill()
    tail.join()
    os.kill(int(tail.last), signal.SIGKILL)
    assert time.monotonic() - begun < 15
    assert client.put_log_events.call_args.kwargs["logEvents"][0]["message"] == tail.last


@pytest.mark.parametrize("folder", ["input/data/sagemaker_remote_function_bootstrap", "processing/input/entrypoint"])
def test_scripts_of_the_sdk_find_their_folders_without_namespaces(tmp_path, folder):
    (tmp_path / "groups").mkdir()
    root = tmp_path / "ml"
    (root / folder).mkdir(parents=True)
    (root / folder / "run.sh").write_text(f"ls -d /opt/ml/{folder}")
    machine = Machine(tmp_path, tmp_path / "programs", {}, private=False)
    container = Container(machine, root, ["sh", f"/opt/ml/{folder}/run.sh"], environment={})
    assert container.process.stdout.read().decode() == f"{root / folder}\n"
    container.kill()


def test_a_job_is_billed_from_its_download_to_its_upload(monkeypatch, tmp_path):
    now = [1000.0]

    def lasts(seconds, answer=None):
        now[0] += seconds
        return answer

    def begin(world, course, folder, ending):
        course.enter("Downloading")
        lasts(100)
        course.enter("Training")
        return lasts(5, [])  # until the container runs

    outcomes = iter(["Interrupted", "Ended"])
    monkeypatch.setattr(training, "time", MagicMock(time=lambda: now[0]))
    monkeypatch.setattr(training, "_begin", begin)
    monkeypatch.setattr(training, "_follow", lambda *given: lasts(20, next(outcomes)))
    monkeypatch.setattr(training, "_save_results", lambda *given: lasts(30))
    world = MagicMock()
    world.folder.return_value.__enter__.return_value = tmp_path, None
    record = Records("eu-west-1").create("TrainingJob", {"TrainingJobName": "job"})
    training.run_training(world, record)
    assert record.facts["TrainingTimeInSeconds"] == record.facts["BillableTimeInSeconds"] == 2 * (100 + 5 + 20) + 30
    assert record.facts["TrainingStartTime"] == 1000.0


def test_a_program_that_does_not_exist_is_one_sentence(capsys):
    assert main(["--", "no-such-program"]) == 1
    assert capsys.readouterr().err.startswith("there is no program no-such-program that can be run; check its name")
