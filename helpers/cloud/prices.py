"""What an hour of each instance costs: a dated table in one file, refreshed through AWS's Pricing API where one may ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from helpers.workspace import DataError

TABLE = Path(__file__).with_name("prices.json")
COMPONENTS = ("Training", "Hosting")
"""Of SageMaker's price list; where they differ for an instance the dearer one counts."""


@dataclass(frozen=True)
class Prices:
    """On-demand prices in one region.

    Attributes
    ----------
    region : str
    date : str
        Day of the table, ISO 8601.
    source : str
        One sentence on where the numbers come from.
    usd_per_hour : mapping from str to float
        By instance type.
    usd_per_gb_month : float
        Storage in S3, standard class.
    """

    region: str
    date: str
    source: str
    usd_per_hour: Mapping[str, float]
    usd_per_gb_month: float

    def hourly(self, instance: str) -> float:
        """Price of an hour; raises `DataError` for an instance that the table does not have."""
        if instance not in self.usd_per_hour:
            raise DataError(
                f"the price table of {self.date} has no {instance}", f"refresh it or take one of {list(self.usd_per_hour)}"
            )
        return self.usd_per_hour[instance]


def load_prices(path: Path = TABLE) -> Prices:
    """Read a price table."""
    return Prices(**json.loads(Path(path).read_text(encoding="utf-8")))


def save_prices(prices: Prices, path: Path) -> Path:
    """Write a price table that `load_prices` reads."""
    path = Path(path)
    path.write_text(json.dumps(asdict(prices), indent=2) + "\n", encoding="utf-8")
    return path


def refresh_prices(prices: Prices, *, client: Any = None) -> Prices:
    """Ask AWS for the prices of the instances in a table.

    Parameters
    ----------
    prices : Prices
        Its region and instances are looked up; what AWS does not know keeps its price.
    client : boto3 client of "pricing", optional
        By default one in us-east-1, one of the few regions that answer for all.

    Returns
    -------
    Prices
        The table unchanged where there are no credentials, or AWS does not answer: an estimate is better than none.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    found = {}
    try:
        pages = (client or boto3.client("pricing", region_name="us-east-1")).get_paginator("get_products")
        for instance in prices.usd_per_hour:
            wanted = {"regionCode": prices.region, "instanceName": instance}
            filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
            listed = [
                json.loads(product)
                for page in pages.paginate(ServiceCode="AmazonSageMaker", Filters=filters)
                for product in page["PriceList"]
            ]
            if hourly := _hourly(listed):
                found[instance] = max(hourly)
    except (BotoCoreError, ClientError):
        return prices
    if not found:
        return prices
    source = f"AWS Pricing API for {len(found)} of {len(prices.usd_per_hour)} instances, on demand; the others as before"
    return replace(prices, date=date.today().isoformat(), source=source, usd_per_hour={**prices.usd_per_hour, **found})


def _hourly(products: list[dict]) -> list[float]:
    """Hourly on-demand prices in a list of products as the Pricing API gives them."""
    return [
        float(dimension["pricePerUnit"]["USD"])
        for product in products
        if product["product"]["attributes"].get("component") in COMPONENTS
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension["unit"].lower().startswith("h") and float(dimension["pricePerUnit"].get("USD", 0)) > 0
    ]
