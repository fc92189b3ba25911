"""What a rehearsal decides without being started: whether it may, what AWS would refuse, which hyperparameters come."""

import math
import socket
import ssl

import pytest

from helpers.cloud.rehearsal import find_account, limits, start_rehearsal
from helpers.cloud.rehearsal.containers import PRIVATE, Container, Machine, namespaces_work
from helpers.cloud.rehearsal.guard import CREDENTIALS, refuse_real_account
from helpers.cloud.rehearsal.limits import AwsError
from helpers.cloud.rehearsal.proxy import Authority, is_aws, serve_proxy
from helpers.cloud.rehearsal.records import Records
from helpers.cloud.rehearsal.tuning import draw_hyperparameters
from helpers.data.files import DataError

TRAINING = {
    "TrainingJobName": "job",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


@pytest.mark.parametrize("name", [*CREDENTIALS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_variable_of_a_real_account_is_named_without_its_value(name, tmp_path):
    with pytest.raises(DataError, match=rf"\({name}\)") as refusal:
        refuse_real_account({name: "a-secret-value", "PATH": "/bin"}, home=tmp_path)
    assert "a-secret-value" not in str(refusal.value)
    assert find_account({name: "", "AWS_REGION": "eu-west-1"}, home=tmp_path) == ()


def test_files_of_a_real_account_are_named(tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[default]\naws_access_key_id = x\n")
    assert find_account({}, home=tmp_path) == ("~/.aws/credentials",)
    (tmp_path / "mine").write_text("[default]\n")
    found = find_account({"AWS_CONFIG_FILE": str(tmp_path / "mine")}, home=tmp_path)
    assert found == ("~/.aws/credentials", "AWS_CONFIG_FILE (mine)")


def test_nothing_starts_where_an_account_is_set_up(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "clinic")
    with pytest.raises(DataError, match="AWS_PROFILE"):
        start_rehearsal()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HyperParameters": {f"h{number}": "1" for number in range(101)}}, "100 hyperparameters"),
        ({"HyperParameters": {"long": "x" * 2501}}, "2500 characters"),
        ({"Environment": {"LONG": "x" * 513}}, "512 characters"),
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
    ],
)
def test_training_jobs_that_aws_would_refuse(change, words):
    limits.check_training(TRAINING)
    with pytest.raises(AwsError, match=words):
        limits.check_training({**TRAINING, **change})


def test_other_requests_that_aws_would_refuse():
    transform = {"TransformInput": {"DataSource": {}}, "MaxPayloadInMB": 50, "MaxConcurrentTransforms": 2}
    limits.check_transform(transform)
    with pytest.raises(AwsError, match="100 MB"):
        limits.check_transform({**transform, "MaxPayloadInMB": 51})
    serverless = {"VariantName": "v", "ModelName": "m", "ServerlessConfig": {"MemorySizeInMB": 6144, "MaxConcurrency": 1}}
    limits.check_variants({"ProductionVariants": [serverless]})
    with pytest.raises(AwsError, match="MemorySizeInMB"):
        limits.check_variants({"ProductionVariants": [{**serverless, "ServerlessConfig": {"MemorySizeInMB": 8192}}]})
    with pytest.raises(AwsError, match="neither an instance type"):
        limits.check_variants({"ProductionVariants": [{**serverless, "InstanceType": "ml.g5.xlarge"}]})
    place = {"ProcessingInputs": [{"InputName": "i", "S3Input": {"S3Uri": "s3://b/k", "LocalPath": "/data"}}]}
    with pytest.raises(AwsError, match="/opt/ml/processing"):
        limits.check_processing(place)


def test_records_answer_as_aws_does():
    records = Records("eu-west-1")
    request = {**TRAINING, "VpcConfig": {}, "Tags": [{"Key": "a", "Value": "b"}]}
    record = records.create("TrainingJob", request, TrainingJobStatus="InProgress")
    described = record.describe()
    assert "VpcConfig" not in described and "Tags" not in described
    assert described["TrainingJobArn"].startswith("arn:aws:sagemaker:eu-west-1:")
    for work, code in (
        (lambda: records.create("TrainingJob", request), "ResourceInUse"),
        (lambda: records.get("TrainingJob", "other"), "ResourceNotFound"),
        (lambda: records.get("Endpoint", "other"), "ValidationException"),
        (lambda: records.delete("TrainingJob", "job"), "ValidationException"),
        (lambda: records.create("Model", {"ModelName": "no_underscores"}), "ValidationException"),
    ):
        with pytest.raises(AwsError) as refusal:
            work()
        assert refusal.value.code == code
    record.update(TrainingJobStatus="Completed")
    assert record.summary()["TrainingJobStatus"] == "Completed"
    records.delete("TrainingJob", "job")
    assert records.list("TrainingJob") == []


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
