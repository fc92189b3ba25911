"""Prices and bills: plain arithmetic checked by hand."""

from datetime import UTC, date, datetime, timedelta

import pytest

from brats_cohort.files import DataError
from helpers.cloud import costs
from helpers.cloud.costs import Prices, load_prices

PRICES = Prices("us-east-1", "2026-01-01", "made up", {"ml.a": 2.0, "ml.b": 10.0})
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
