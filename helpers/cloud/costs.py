"""What a run on SageMaker will cost, what it did cost, and what is still running, as tables.

Estimates are made before anything starts: the expected price, and the most that it can be, with the limits that the job is
given. Afterwards the descriptions of the jobs say what was billed. Both are products of hours and the prices of
`helpers.cloud.prices`; taxes, data transfer and free tiers are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from helpers.cloud.prices import Prices

HOUR = 3600.0
DAYS = 30.4
"""In a month of storage."""


@dataclass(frozen=True)
class Item:
    """One thing that costs money.

    Attributes
    ----------
    what : str
        For the reader.
    instance : str
        Instance type; empty for storage.
    count : int
        Instances at a time.
    hours : float
        Expected, of each instance.
    most : float
        Hours after which it is stopped; equal to `hours` where that is certain.
    share : float
        Of the on-demand price that is expected to be paid: less than 1 on spot capacity.
    gb_months : float
        Storage.
    """

    what: str
    instance: str = ""
    count: int = 1
    hours: float = 0.0
    most: float = 0.0
    share: float = 1.0
    gb_months: float = 0.0


def training(instance: str, hours: float, *, most: float, count: int = 1, spot_saving: float = 0.0, what: str = "") -> Item:
    """A training job: expected hours, the `most` that MaxRuntime allows, and the share that spot is assumed to save."""
    text = what or f"training{f', spot assumed to save {spot_saving:.0%}' if spot_saving else ''}"
    return Item(text, instance, count, hours, max(most, hours), 1 - spot_saving)


def tuning(instance: str, hours: float, *, most: float, jobs: int, spot_saving: float = 0.0) -> Item:
    """A tuning job: `jobs` trainings of these hours each, whether at the same time or not."""
    return Item(f"tuning, {jobs} jobs", instance, jobs, hours, max(most, hours), 1 - spot_saving)


def processing(instance: str, hours: float, *, most: float, count: int = 1) -> Item:
    """A processing job on `count` instances."""
    return Item("preprocessing", instance, count, hours, max(most, hours))


def endpoint(instance: str, hours: float, *, most: float, count: int = 1) -> Item:
    """A real-time endpoint, which costs from its creation to its deletion, asked or not."""
    return Item("real-time endpoint", instance, count, hours, max(most, hours))


def asynchronous(instance: str, *, volumes: int, seconds: float, idle_minutes: float, most: float) -> Item:
    """An asynchronous endpoint that scales to zero: the time of the volumes, and the idle minutes until it does."""
    hours = volumes * seconds / HOUR + idle_minutes / 60
    return Item(f"asynchronous endpoint, {volumes} volumes", instance, 1, hours, max(most, hours))


def storage(gb: float, days: float) -> Item:
    """Objects in S3."""
    return Item(f"{gb:g} GB in S3 for {days:g} days", gb_months=gb * days / DAYS)


def estimate(items: Iterable[Item], prices: Prices) -> pd.DataFrame:
    """What these things cost, in US dollars: one row each, and the total.

    Raises
    ------
    DataError
        If the price of an instance is not known.
    """
    rows = []
    for item in items:
        hourly = prices.hourly(item.instance) if item.instance else 0.0
        kept = item.gb_months * prices.usd_per_gb_month
        row = {"what": item.what, "instance": item.instance, "count": item.count, "hours": item.hours, "USD per hour": hourly}
        expected = item.count * item.hours * hourly * item.share + kept
        rows.append({**row, "USD expected": expected, "USD at most": item.count * item.most * hourly + kept})
    return _with_total(pd.DataFrame(rows).set_index("what"), ("USD expected", "USD at most"))


def actual(descriptions: Iterable[Mapping[str, Any]], prices: Prices) -> pd.DataFrame:
    """What jobs did cost, from what AWS's ``describe_...`` calls say of them.

    Parameters
    ----------
    descriptions : iterable of mapping
        Of training, processing and transform jobs, and what `endpoint_record` makes of an endpoint.
    prices : Prices

    Returns
    -------
    DataFrame
        One row each, and the total: seconds that it ran and that are billed, by instance, the price, and what spot capacity
        saved.
    """
    rows = []
    for job in descriptions:
        name, instance, count, ran, billed = _record(job)
        hourly = prices.hourly(instance)
        cost, full = (count * seconds / HOUR * hourly for seconds in (billed, ran))
        row = {"name": name, "instance": instance, "count": count, "seconds": ran, "billed seconds": billed}
        rows.append({**row, "USD": cost, "USD saved by spot": full - cost})
    columns = ["name", "instance", "count", "seconds", "billed seconds", "USD", "USD saved by spot"]
    return _with_total(pd.DataFrame(rows, columns=columns).set_index("name"), ("USD", "USD saved by spot"))


def endpoint_record(endpoint: Mapping[str, Any], config: Mapping[str, Any], *, until: datetime | None = None) -> dict[str, Any]:
    """For `actual`: an endpoint and its configuration, as described before it was deleted at `until`."""
    variant = config["ProductionVariants"][0]
    return {
        "EndpointName": endpoint["EndpointName"],
        "InstanceType": variant["InstanceType"],
        "InstanceCount": variant.get("InitialInstanceCount", 1),
        "Seconds": ((until or datetime.now(UTC)) - endpoint["CreationTime"]).total_seconds(),
    }


def per_thousand(seconds: Mapping[str, float], prices: Prices, *, basis: Mapping[str, str]) -> pd.DataFrame:
    """Cost of 1,000 volumes by instance type.

    Parameters
    ----------
    seconds : mapping from str to float
        Seconds that an instance takes for a volume, one after the other.
    prices : Prices
    basis : mapping from str to str
        For each instance where its seconds come from: measured on what, or assumed why. It is shown beside the number.
    """
    rows = [
        {
            "instance": instance,
            "seconds a volume": each,
            "basis": basis[instance],
            "USD per hour": prices.hourly(instance),
            "USD per 1,000 volumes": 1000 * each / HOUR * prices.hourly(instance),
        }
        for instance, each in seconds.items()
    ]
    return pd.DataFrame(rows).set_index("instance").sort_values("USD per 1,000 volumes")


def still_running(client: Any, prices: Prices) -> pd.DataFrame:
    """What costs money now: endpoints and notebook instances that are forgotten easily, and jobs, with USD per hour.

    Parameters
    ----------
    client : boto3 client of "sagemaker"
    prices : Prices
        An instance that it does not have is shown without a price.
    """
    rows = []
    for page in client.get_paginator("list_endpoints").paginate():
        for found in page["Endpoints"]:
            described = client.describe_endpoint(EndpointName=found["EndpointName"])
            config = client.describe_endpoint_config(EndpointConfigName=described["EndpointConfigName"])
            counts = {v["VariantName"]: v.get("CurrentInstanceCount") for v in described.get("ProductionVariants", [])}
            for variant in config["ProductionVariants"]:
                count = counts.get(variant["VariantName"])
                count = variant.get("InitialInstanceCount", 0) if count is None else count
                rows.append(("endpoint", found["EndpointName"], variant.get("InstanceType", "serverless"), count))
    for page in client.get_paginator("list_notebook_instances").paginate(StatusEquals="InService"):
        rows += [("notebook instance", n["NotebookInstanceName"], n["InstanceType"], 1) for n in page["NotebookInstances"]]
    for page in client.get_paginator("list_training_jobs").paginate(StatusEquals="InProgress"):
        for found in page["TrainingJobSummaries"]:
            resources = client.describe_training_job(TrainingJobName=found["TrainingJobName"])["ResourceConfig"]
            rows.append(("training job", found["TrainingJobName"], resources["InstanceType"], resources["InstanceCount"]))
    table = pd.DataFrame(rows, columns=["what", "name", "instance", "count"])
    table["USD per hour"] = [prices.usd_per_hour.get(row.instance, float("nan")) * row.count for row in table.itertuples()]
    return table


def _with_total(table: pd.DataFrame, sums: tuple[str, str]) -> pd.DataFrame:
    """The table with a last row that adds up two columns and is empty in the others."""
    table = table.astype({column: object for column in table.columns if column not in sums})
    table.loc["total"] = [table[column].sum() if column in sums else "" for column in table.columns]
    return table.astype(dict.fromkeys(sums, float))


def _record(job: Mapping[str, Any]) -> tuple[str, str, int, float, float]:
    """Name, instance type, instances, seconds that each ran and seconds of each that are billed."""
    if "TrainingJobName" in job:
        resources, ran = job["ResourceConfig"], float(job.get("TrainingTimeInSeconds", 0))
        billed = float(job.get("BillableTimeInSeconds", ran))
        return job["TrainingJobName"], resources["InstanceType"], resources["InstanceCount"], ran, billed
    if "EndpointName" in job:
        return job["EndpointName"], job["InstanceType"], job["InstanceCount"], job["Seconds"], job["Seconds"]
    kind = "Processing" if "ProcessingJobName" in job else "Transform"
    resources = job["ProcessingResources"]["ClusterConfig"] if kind == "Processing" else job["TransformResources"]
    start, end = job.get(f"{kind}StartTime"), job.get(f"{kind}EndTime")
    ran = (end - start).total_seconds() if start and end else 0.0
    return job[f"{kind}JobName"], resources["InstanceType"], resources["InstanceCount"], ran, ran
