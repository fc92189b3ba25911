"""Estimates, bills and prices: plain arithmetic checked by hand, and AWS's price list in the shape that it answers in."""

import json
from datetime import UTC, date, datetime, timedelta

import boto3
import pytest
from botocore.stub import Stubber

from helpers.cloud import costs
from helpers.cloud.prices import (
    Prices,
    load_prices,
    refresh_prices,
    save_prices,
)
from helpers.workspace import DataError

PRICES = Prices("us-east-1", "2026-01-01", "made up", {"ml.a": 2.0, "ml.b": 10.0}, 0.03)
START = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_table_says_when_and_where_from(tmp_path):
    prices = load_prices()
    assert date.fromisoformat(prices.date) and prices.region == "us-east-1" and prices.source
    assert all(0 < price < 100 for price in prices.usd_per_hour.values())
    assert load_prices(save_prices(prices, tmp_path / "p.json")) == prices
    with pytest.raises(DataError, match="has no ml"):
        prices.hourly("ml.z9")


def test_an_estimate_is_hours_times_prices():
    items = [
        costs.training("ml.b", 0.5, most=2, count=2, spot_saving=0.6),
        costs.tuning("ml.a", 0.25, most=0.5, jobs=4),
        costs.processing("ml.a", 1, most=1, count=3),
        costs.endpoint("ml.a", 0.5, most=1),
        costs.asynchronous("ml.b", volumes=360, seconds=10, idle_minutes=30, most=4),
        costs.storage(100, 30.4),
    ]
    table = costs.estimate(items, PRICES)
    assert table["USD expected"].tolist() == pytest.approx([4, 2, 6, 1, 15, 3, 31])
    assert table["USD at most"].tolist() == pytest.approx([40, 4, 6, 2, 40, 3, 95])
    assert "spot assumed to save 60%" in table.index[0]


def test_a_bill_is_what_the_jobs_say():
    spot = {
        "TrainingJobName": "train",
        "ResourceConfig": {"InstanceType": "ml.b", "InstanceCount": 2},
        "TrainingTimeInSeconds": 3600,
        "BillableTimeInSeconds": 900,
    }
    plain = {**spot, "TrainingJobName": "plain", "BillableTimeInSeconds": 3600}
    processing = {
        "ProcessingJobName": "prepare",
        "ProcessingResources": {"ClusterConfig": {"InstanceType": "ml.a", "InstanceCount": 3}},
        "ProcessingStartTime": START,
        "ProcessingEndTime": START + timedelta(minutes=30),
    }
    batch = {
        "TransformJobName": "batch",
        "TransformResources": {"InstanceType": "ml.a", "InstanceCount": 1},
        "TransformStartTime": START,
        "TransformEndTime": START + timedelta(minutes=15),
    }
    endpoint = costs.endpoint_record(
        {"EndpointName": "real-time", "CreationTime": START},
        {"ProductionVariants": [{"InstanceType": "ml.b", "InitialInstanceCount": 1}]},
        until=START + timedelta(hours=2),
    )
    table = costs.actual([spot, plain, processing, batch, endpoint], PRICES)
    assert table["USD"].tolist() == pytest.approx([5, 20, 3, 0.5, 20, 48.5])
    assert table["USD saved by spot"].tolist() == pytest.approx([15, 0, 0, 0, 0, 15])
    assert costs.actual([], PRICES)["USD"].tolist() == [0]


def test_a_thousand_volumes_by_instance():
    table = costs.per_thousand({"ml.b": 3.6, "ml.a": 36}, PRICES, basis={"ml.a": "measured", "ml.b": "assumed"})
    assert table["USD per 1,000 volumes"].to_dict() == pytest.approx({"ml.b": 10, "ml.a": 20})
    assert table.loc["ml.b", "basis"] == "assumed"


def product(instance, component, usd, unit="Hrs"):
    """An entry of the price list, shortened to the fields around those that are read."""
    dimension = {"unit": unit, "endRange": "Inf", "pricePerUnit": {"USD": f"{usd:.10f}"}, "appliesTo": []}
    attributes = {"instanceName": instance, "component": component, "regionCode": "us-east-1", "servicecode": "AmazonSageMaker"}
    terms = {"OnDemand": {"SKU.T": {"priceDimensions": {"SKU.T.D": dimension}, "sku": "SKU", "termAttributes": {}}}}
    return json.dumps({"product": {"productFamily": "ML Instance", "attributes": attributes, "sku": "SKU"}, "terms": terms})


def test_prices_are_refreshed_where_aws_answers(monkeypatch):
    client = boto3.client("pricing", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    pages = {
        "ml.a": [product("ml.a", "Training", 2.5), product("ml.a", "Hosting", 3.0), product("ml.a", "Notebook", 9.0)],
        "ml.b": [product("ml.b", "Training", 7.0, unit="GB-Mo")],
    }
    with Stubber(client) as stubber:
        for instance, listed in pages.items():
            wanted = [
                {"Type": "TERM_MATCH", "Field": f, "Value": v}
                for f, v in (("regionCode", "us-east-1"), ("instanceName", instance))
            ]
            expected = {"ServiceCode": "AmazonSageMaker", "Filters": wanted}
            stubber.add_response("get_products", {"FormatVersion": "aws_v1", "PriceList": listed}, expected)
        fresh = refresh_prices(PRICES, client=client)
    assert fresh.usd_per_hour == {"ml.a": 3.0, "ml.b": 10.0}
    assert fresh.date == date.today().isoformat() and "1 of 2" in fresh.source
    with Stubber(client) as stubber:
        stubber.add_client_error("get_products", "AccessDeniedException")
        assert refresh_prices(PRICES, client=client) == PRICES


def test_what_still_runs_is_found():
    client = boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    arn = "arn:aws:sagemaker:us-east-1:123456789012:x/y"
    times = {"CreationTime": START, "LastModifiedTime": START}
    notebook = {
        "NotebookInstanceName": "n",
        "NotebookInstanceArn": arn,
        "NotebookInstanceStatus": "InService",
        "InstanceType": "ml.x",
    }
    endpoint = {"EndpointName": "e", "EndpointArn": arn, "EndpointStatus": "InService", **times}
    variants = [{"VariantName": "v", "ModelName": "m", "InitialInstanceCount": 2, "InstanceType": "ml.a"}]
    config = {"EndpointConfigName": "c", "EndpointConfigArn": arn, "ProductionVariants": variants, "CreationTime": START}
    with Stubber(client) as stubber:
        stubber.add_response("list_endpoints", {"Endpoints": [endpoint]})
        stubber.add_response("describe_endpoint", {**endpoint, "EndpointConfigName": "c"})
        stubber.add_response("describe_endpoint_config", config)
        stubber.add_response("list_notebook_instances", {"NotebookInstances": [notebook]})
        stubber.add_response("list_training_jobs", {"TrainingJobSummaries": []})
        table = costs.still_running(client, PRICES)
    assert table[["what", "name", "instance", "count"]].to_numpy().tolist() == [
        ["endpoint", "e", "ml.a", 2],
        ["notebook instance", "n", "ml.x", 1],
    ]
    assert table["USD per hour"][0] == 4.0 and table["USD per hour"].isna()[1]
