"""Look up what instances cost an hour, and work out what a run has cost.

The table beside this file is dated; look the price of your region up before you spend much. Taxes, data transfer and free tiers
are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from brats_cohort.files import DataError

TABLE = Path(__file__).with_name("prices.json")
HOUR = 3600.0


@dataclass(frozen=True)
class Prices:
    """On-demand prices in one region, by instance type, on a day (ISO 8601); `source` is a sentence on where they come from."""

    region: str
    date: str
    source: str
    usd_per_hour: Mapping[str, float]

    def hourly(self, instance: str) -> float:
        """Look up the price of an hour; raises `DataError` for an instance that the table does not have."""
        if instance not in self.usd_per_hour:
            remedy = f"add it to {TABLE} or take one of {list(self.usd_per_hour)}"
            raise DataError(f"the price table of {self.date} has no {instance}", remedy)
        return self.usd_per_hour[instance]


def load_prices() -> Prices:
    """Read the price table that comes with the package."""
    return Prices(**json.loads(TABLE.read_text(encoding="utf-8")))


def bill(descriptions: Iterable[Mapping[str, Any]], prices: Prices) -> pd.DataFrame:
    """Work out what jobs and endpoints did cost, from what AWS's ``describe_...`` calls say of them.

    An endpoint's description must be merged with that of its configuration. Returns one row each, and last the total: seconds
    that it ran and that are billed, by instance, the price, and what spot capacity saved.
    """
    rows = []
    for described in descriptions:
        name, instance, count, ran, billed = _record(described)
        cost, full = (count * seconds / HOUR * prices.hourly(instance) for seconds in (billed, ran))
        rows.append((name, instance, count, ran, billed, cost, full - cost))
    columns = ["name", "instance", "count", "seconds", "billed seconds", "USD", "USD saved by spot"]
    table = pd.DataFrame(rows, columns=columns).set_index("name").astype(dict.fromkeys(columns[1:5], object))
    table.loc["total"] = ["", "", "", "", table["USD"].sum(), table["USD saved by spot"].sum()]
    return table.astype({"USD": float, "USD saved by spot": float})


def _record(job: Mapping[str, Any]) -> tuple[str, str, int, float, float]:
    """Name, instance type, instances, seconds that each ran and seconds of each that are billed."""
    if "TrainingJobName" in job:
        resources, ran = job["ResourceConfig"], float(job.get("TrainingTimeInSeconds", 0))
        billed = float(job.get("BillableTimeInSeconds", ran))
        return job["TrainingJobName"], resources["InstanceType"], resources["InstanceCount"], ran, billed
    if "EndpointName" in job:  # costs from its creation to its deletion, asked or not
        variant = job["ProductionVariants"][0]
        ran = (datetime.now(UTC) - job["CreationTime"]).total_seconds()
        return job["EndpointName"], variant["InstanceType"], variant.get("InitialInstanceCount", 1), ran, ran
    resources = job["ProcessingResources"]["ClusterConfig"]
    start, end = job.get("ProcessingStartTime"), job.get("ProcessingEndTime")
    ran = (end - start).total_seconds() if start and end else 0.0
    return job["ProcessingJobName"], resources["InstanceType"], resources["InstanceCount"], ran, ran
