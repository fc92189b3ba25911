"""The IAM policies: well formed, of least privilege, and what `allowed` says of them is what IAM would say."""

import ast
import json
import re
import subprocess

import boto3
import botocore.session
import nbformat
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from helpers.workspace import REPOSITORY
from tests.policies import (
    FOLDER,
    PLACEHOLDER,
    S3_ACTIONS,
    Call,
    Place,
    allowed,
    load_policy,
    needs,
    place_of,
    read_calls,
    record_calls,
    refused,
)

ROLE = "arn:aws:iam::111122223333:role/brain-tumour"
PLACE = Place("111122223333", "eu-central-1", "my-bucket", ROLE, "brain-tumour")
FILES = sorted(path.stem for path in FOLDER.glob("*.json"))
SAGEMAKER = "arn:aws:sagemaker:eu-central-1:111122223333"


def actions(policy):
    for statement in policy["Statement"]:
        yield from [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


@pytest.mark.parametrize("name", FILES)
def test_a_policy_is_valid_and_names_every_action(name):
    policy = load_policy(name, PLACE)
    assert policy["Version"] == "2012-10-17"
    assert len({statement["Sid"] for statement in policy["Statement"]}) == len(policy["Statement"])
    for statement in policy["Statement"]:
        assert re.fullmatch("[A-Za-z0-9]+", statement["Sid"]) and statement["Effect"] in ("Allow", "Deny")
        assert not {"NotAction", "NotResource", "NotPrincipal"} & set(statement)
    assert all(re.fullmatch(r"[a-z0-9-]+:[A-Z][A-Za-z0-9]+", action) for action in actions(policy))
    assert len(json.dumps(policy, separators=(",", ":"))) < 6144, "IAM takes no longer policy"


@pytest.mark.parametrize("name", FILES)
def test_a_policy_holds_no_account_but_placeholders(name):
    text = (FOLDER / f"{name}.json").read_text()
    assert not re.search(r"\d{12}", text)
    assert set(PLACEHOLDER.findall(text)) <= {"ACCOUNT", "REGION", "BUCKET", "ROLE", "PREFIX"}


@pytest.mark.parametrize("name", FILES)
def test_the_command_of_the_manual_fills_in_every_placeholder(name):
    fill = re.search(r"fill\(\) \{.+\}", (REPOSITORY / "docs" / "aws.md").read_text())[0]
    command = ["bash", "-c", f"{fill}; fill {name}"]
    filled = subprocess.run(
        command, cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin", **vars(PLACE)}, capture_output=True, check=True
    )
    assert json.loads(filled.stdout) == load_policy(name, PLACE)


def test_a_resource_is_open_only_where_aws_has_none_smaller():
    without = {
        "ecr:GetAuthorizationToken",
        "cloudwatch:PutMetricData",
        "sts:GetCallerIdentity",
        "s3:ListAllMyBuckets",
    }
    for name in FILES:
        for statement in load_policy(name, PLACE)["Statement"]:
            if statement.get("Resource") == "*":
                listing = ("sagemaker:List", "cloudwatch:Describe", "logs:DescribeLogGroups", "application-autoscaling:")
                named = actions({"Statement": [statement]})
                assert all(action in without or action.startswith(listing) for action in named)


def test_what_the_caller_may_and_may_not():
    caller = load_policy("caller", PLACE)
    assert allowed(caller, "s3:PutObject", "arn:aws:s3:::my-bucket/brain-tumour-1/a.npz")
    assert not allowed(caller, "s3:PutObject", "arn:aws:s3:::my-bucket/somebody-elses/a.npz")
    assert not allowed(caller, "s3:PutObject", "arn:aws:s3:::other/brain-tumour-1/a.npz")
    assert not allowed(caller, "s3:DeleteBucket", "arn:aws:s3:::my-bucket")
    assert allowed(caller, "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/brain-tumour-x")
    assert not allowed(caller, "sagemaker:DeleteEndpoint", f"{SAGEMAKER}:endpoint/somebody-elses")
    assert not allowed(caller, "sagemaker:DescribeTrainingJob", f"{SAGEMAKER}:training-job/somebody-elses")
    assert not allowed(caller, "iam:CreateRole", ROLE)
    logs = "arn:aws:logs:eu-central-1:111122223333:log-group:/aws/sagemaker"
    for stream in (f"{logs}/TrainingJobs:log-stream:", f"{logs}/ProcessingJobs:log-stream:"):
        assert allowed(caller, "logs:DeleteLogStream", f"{stream}brain-tumour-x/algo-1")
        assert not allowed(caller, "logs:DeleteLogStream", f"{stream}somebody-elses/algo-1")
    assert allowed(caller, "logs:DeleteLogGroup", f"{logs}/Endpoints/brain-tumour-x")
    for group in ("TrainingJobs", "Endpoints/somebody-elses"):
        assert not allowed(caller, "logs:DeleteLogGroup", f"{logs}/{group}")
    passed = {"iam:PassedToService": "sagemaker.amazonaws.com"}
    assert allowed(caller, "iam:PassRole", ROLE, context=passed)
    assert not allowed(caller, "iam:PassRole", ROLE)
    assert not allowed(caller, "iam:PassRole", ROLE, context={"iam:PassedToService": "ec2.amazonaws.com"})
    assert not allowed(caller, "iam:PassRole", ROLE + "-admin", context=passed)


def test_what_the_jobs_may_and_may_not():
    role = load_policy("execution-role", PLACE)
    assert allowed(role, "s3:GetObject", "arn:aws:s3:::my-bucket/brain-tumour-1/x")
    assert not allowed(role, "s3:GetObject", "arn:aws:s3:::my-bucket/somebody-elses/x")
    assert not allowed(role, "s3:DeleteObject", "arn:aws:s3:::my-bucket/brain-tumour-1/x")
    assert allowed(
        role, "logs:PutLogEvents", "arn:aws:logs:eu-central-1:111122223333:log-group:/aws/sagemaker/TrainingJobs:log-stream:a"
    )
    for action in ("sagemaker:CreateTrainingJob", "iam:PassRole", "s3:PutBucketPolicy"):
        assert not allowed(role, action, "*")


def test_a_denial_wins_and_an_unknown_condition_is_not_guessed():
    statement = {"Sid": "A", "Effect": "Allow", "Action": "s3:Get*", "Resource": "*"}
    denial = {**statement, "Effect": "Deny", "Resource": "arn:aws:s3:::secret/*"}
    policy = {"Statement": [statement, denial]}
    assert allowed(policy, "S3:getobject", "arn:aws:s3:::open/a") and not allowed(
        policy, "s3:GetObject", "arn:aws:s3:::secret/a"
    )
    with pytest.raises(ValueError, match="IpAddress"):
        allowed({"Statement": [{**statement, "Condition": {"IpAddress": {"aws:SourceIp": "::1"}}}]}, "s3:GetObject", "*")


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (Call("s3", "HeadBucket", {"Bucket": "b"}), [("s3:ListBucket", "arn:aws:s3:::b")]),
        (Call("s3", "UploadPart", {"Bucket": "b", "Key": "k/x"}), [("s3:PutObject", "arn:aws:s3:::b/k/x")]),
        (
            Call("s3", "DeleteObjects", {"Bucket": "b", "Delete": {"Objects": [{"Key": "k"}]}}),
            [("s3:DeleteObject", "arn:aws:s3:::b/k")],
        ),
        (
            Call("s3", "DeleteObjects", {"Bucket": "b", "Delete": {"Objects": [{"Key": "k", "VersionId": "1"}]}}),
            [("s3:DeleteObjectVersion", "arn:aws:s3:::b/k")],
        ),
        (Call("s3", "ListBuckets", {}), [("s3:ListAllMyBuckets", "*")]),
        (Call("iam", "SimulatePrincipalPolicy", {"PolicySourceArn": ROLE}), [("iam:SimulatePrincipalPolicy", ROLE)]),
        (Call("sagemaker", "ListEndpoints", {}), [("sagemaker:ListEndpoints", "*")]),
        (
            Call("sagemaker-runtime", "InvokeEndpoint", {"EndpointName": "E"}),
            [("sagemaker:InvokeEndpoint", f"{SAGEMAKER}:endpoint/e")],
        ),
        (
            Call("sagemaker", "CreateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c"}),
            [("sagemaker:CreateEndpoint", f"{SAGEMAKER}:{kind}") for kind in ("endpoint/e", "endpoint-config/c")],
        ),
        (
            Call("sagemaker", "CreateHyperParameterTuningJob", {"HyperParameterTuningJobName": "t", "Def": {"RoleArn": ROLE}}),
            [("sagemaker:CreateHyperParameterTuningJob", f"{SAGEMAKER}:hyper-parameter-tuning-job/t"), ("iam:PassRole", ROLE)],
        ),
    ],
    ids=lambda value: value.operation if isinstance(value, Call) else "",
)
def test_what_a_call_needs(call, wanted):
    assert [(action, resource) for action, resource, _ in needs(call, PLACE)] == wanted


KEYS = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}


def answer(**_):
    raise ClientError({"Error": {"Code": "Stopped"}}, "before anything is sent")


def test_calls_are_recorded_and_checked(tmp_path):
    outside = boto3.client("s3", **KEYS)

    with record_calls(into=tmp_path / "calls") as calls:
        for service, operation, parameters in (
            ("s3", "head_bucket", {"Bucket": "my-bucket"}),
            ("sagemaker", "delete_model", {"ModelName": "brain-tumour-1"}),
            ("sagemaker", "delete_model", {"ModelName": "theirs"}),
        ):
            client = boto3.client(service, **KEYS)
            client.meta.events.register("before-send", answer)
            with pytest.raises(ClientError):
                getattr(client, operation)(**parameters)
    outside.meta.events.register("before-send", answer)
    with pytest.raises(ClientError):
        outside.list_buckets()
    assert [(call.service, call.operation) for call in calls] == [("s3", "HeadBucket"), *[("sagemaker", "DeleteModel")] * 2]
    assert read_calls(tmp_path / "calls") == calls
    assert refused(calls, load_policy("caller", PLACE), PLACE) == [f"sagemaker:DeleteModel {SAGEMAKER}:model/theirs"]


def test_a_call_that_sends_a_file_is_recorded(tmp_path):
    (tmp_path / "file").write_text("content")
    with record_calls(into=tmp_path / "calls"), (tmp_path / "file").open("rb") as body:
        client = boto3.client("s3", **KEYS)
        client.meta.events.register("before-send", answer)
        with pytest.raises(ClientError):
            client.put_object(Bucket="my-bucket", Key="file", Body=body)
    (call,) = read_calls(tmp_path / "calls")
    assert (call.operation, call.parameters["Key"]) == ("PutObject", "file")


def test_the_place_of_a_run_is_read_off_its_calls():
    calls = [
        Call("s3", "CreateBucket", {"Bucket": "my-bucket"}),
        Call("sagemaker", "CreateModel", {"ModelName": "Brain-tumour-a", "ExecutionRoleArn": ROLE}),
        Call("sagemaker", "CreateEndpointConfig", {"EndpointConfigName": "brain-tumour-b"}),
        Call("sagemaker", "DescribeEndpoint", {"EndpointName": "somebody-elses"}),
    ]
    assert place_of(calls, account=PLACE.account, region=PLACE.region) == Place(**{**vars(PLACE), "prefix": "brain-tumour"})


SERVICES = ("s3", "sagemaker", "sagemaker-runtime", "logs", "application-autoscaling", "cloudwatch", "iam", "sts")
TRANSFERS = {"upload_file": "s3:PutObject", "download_file": "s3:GetObject"}
ONLY_REHEARSED = {"iam:CreateRole", "iam:GetRole", "iam:PutRolePolicy"}


def operations():
    """Actions by the name of the method with which boto3 calls them."""
    loader = botocore.session.get_session().get_component("data_loader")
    found = {name: {action} for name, action in TRANSFERS.items()}
    for service in SERVICES:
        prefix = {"sagemaker-runtime": "sagemaker"}.get(service, service)
        for operation in loader.load_service_model(service, "service-2")["operations"]:
            name = S3_ACTIONS.get(operation, operation) if service == "s3" else operation
            found.setdefault(xform_name(operation), set()).add(f"{prefix}:{name}")
    return found


def code_of(notebook):
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    python = "\n".join(source for source in cells if not source.startswith("%%"))
    return "\n".join(line for line in python.splitlines() if not line.lstrip().startswith("!"))


def test_whatever_package_and_notebook_call_is_allowed():
    """Every method of a client that is named, as code or as the word for a paginator or a waiter."""
    known = operations()
    granted = {action for name in ("caller", "execution-role") for action in actions(load_policy(name, PLACE))} | ONLY_REHEARSED
    sources = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "helpers" / "cloud").glob("*.py")}
    sources["notebook 05"] = code_of(REPOSITORY / "notebooks" / "05_deploy_sagemaker.ipynb")
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            word = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(word, str) and "_" in word and word in known:
                assert known[word] & granted, f"{name} calls {word}: {known[word]} is in no policy"
