"""Estimates, bills and prices: plain arithmetic checked by hand, and AWS's price list in the shape that it answers in."""

import json
from datetime import UTC, date, datetime, timedelta

import boto3
import pytest
from botocore.stub import Stubber

from helpers.cloud import costs
from helpers.cloud.costs import Prices, load_prices, refresh_prices
from helpers.workspace import DataError

PRICES = Prices("us-east-1", "2026-01-01", "made up", {"ml.a": 2.0, "ml.b": 10.0}, 0.03)
START = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_table_says_when_and_where_from():
    prices = load_prices()
    assert date.fromisoformat(prices.date) and prices.region == "us-east-1" and prices.source
    assert all(0 < price < 100 for price in prices.usd_per_hour.values())
    with pytest.raises(DataError, match="has no ml"):
        prices.hourly("ml.z9")


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
    endpoint = {
        "EndpointName": "real-time",
        "CreationTime": datetime.now(UTC) - timedelta(hours=2),
        "ProductionVariants": [{"InstanceType": "ml.b", "InitialInstanceCount": 1}],
    }
    table = costs.bill([spot, plain, processing, endpoint], PRICES)
    assert table["USD"].tolist() == pytest.approx([5, 20, 3, 20, 48], rel=1e-3)
    assert table["USD saved by spot"].tolist() == pytest.approx([15, 0, 0, 0, 15])
    assert costs.bill([], PRICES)["USD"].tolist() == [0]


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
        fresh = refresh_prices(PRICES, client)
    assert fresh.usd_per_hour == {"ml.a": 3.0, "ml.b": 10.0}
    assert fresh.date == date.today().isoformat() and "1 of 2" in fresh.source
    with Stubber(client) as stubber:
        stubber.add_client_error("get_products", "AccessDeniedException")
        assert refresh_prices(PRICES, client) == PRICES
