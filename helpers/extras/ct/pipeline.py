"""A training on CT as a job of two steps in the cloud, download and train, described in one YAML file.

Every field of the file is checked before anything starts: one that is misspelt or cannot be is named with its step. A dry run
(`plan`) says what each step would do, on which machine and at what price, and contacts nobody.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from helpers.cloud.costs import Item, estimate
from helpers.cloud.prices import Prices, load_prices
from helpers.extras.ct.preparation import CtPreparation
from helpers.extras.ct.training import GENERAL, CtSettings, swin_settings
from helpers.training.before.settings import TrainSettings
from helpers.workspace import DataError

SPOT_SAVING = 0.6
"""Share of the price that spot capacity is assumed to save; AWS says up to 0.9."""


@dataclass(frozen=True)
class Machine:
    """Where a step runs.

    Attributes
    ----------
    instance : str
        Type, such as ml.g5.12xlarge; it must be in the price table.
    processes : int
        One for each GPU; more than one go through torchrun.
    hours, most_hours : float
        Expected, and after which the step is stopped.
    spot : bool
        On capacity that may be taken away; the training goes on from its state.
    volume_gb : int
        Disk.
    """

    instance: str
    hours: float
    most_hours: float
    processes: int = 1
    spot: bool = False
    volume_gb: int = 50

    def __post_init__(self) -> None:
        """Refuse hours and counts that cannot be."""
        if not 0 < self.hours <= self.most_hours:
            raise DataError(
                f"hours {self.hours:g} and most_hours {self.most_hours:g}: the first must be positive and not above",
                "change them",
            )
        if self.processes < 1 or self.volume_gb < 1:
            raise DataError(f"processes {self.processes} and volume_gb {self.volume_gb} are too small", "give 1 or more")


@dataclass(frozen=True)
class DownloadStep:
    """The cohort from an archive to S3.

    Attributes
    ----------
    machine : Machine
    source : str
        Address of the archive: ``https://`` or ``s3://``. For BTCV, whose terms are accepted at synapse.org, the archive that
        you have put into your own bucket.
    target : str
        Folder in S3, ``s3://bucket/prefix``.
    size_gb : float
        Of the archive, for the cost of storage.
    """

    machine: Machine
    source: str
    target: str
    size_gb: float

    def __post_init__(self) -> None:
        """Refuse addresses of other kinds."""
        if not self.source.startswith(("https://", "s3://")):
            raise DataError(f"source is {self.source}", "give an address that begins with https:// or s3://")
        if not self.target.startswith("s3://") or len(self.target) < 8:
            raise DataError(f"target is {self.target}", "give a folder s3://bucket/prefix")


@dataclass(frozen=True)
class TrainStep:
    """The training on what the first step left.

    Attributes
    ----------
    machine : Machine
    output : str
        Folder in S3 for the model and its state.
    feature_size, amp, checkpointing, window_size
        As in `helpers.extras.ct.training.swin_settings`.
    ct : CtSettings
    settings : mapping
        Fields of `TrainSettings`, such as ``steps`` and ``learning_rate``.
    """

    machine: Machine
    output: str
    feature_size: int = 48
    amp: bool = True
    checkpointing: bool = True
    window_size: int = 7
    ct: CtSettings = field(default_factory=CtSettings)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Build what the training would build, so that a wrong setting is found before a machine is paid."""
        if not self.output.startswith("s3://"):
            raise DataError(f"output is {self.output}", "give a folder s3://bucket/prefix")
        for name in ("amp", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise DataError(f"{name} is {getattr(self, name)!r}", "write true or false, without quotes")
        made = self.training
        if made.batch % (made.accumulate * self.machine.processes):
            raise DataError(
                f"a batch of {made.batch} cannot be shared by {self.machine.processes} processes", "give a multiple"
            )

    @property
    def training(self) -> TrainSettings:
        """Settings of the training."""
        own = {"feature_size": self.feature_size, "amp": self.amp, "checkpointing": self.checkpointing}
        foreign = sorted(set(self.settings) - set(GENERAL))
        if foreign:
            raise DataError(f"settings has no field {foreign[0]}", f"it takes {', '.join(GENERAL)}")
        try:
            return swin_settings(self.ct, **own, window_size=self.window_size, **self.settings)
        except TypeError as error:
            raise DataError(
                f"settings are not fields of TrainSettings ({error})", "see python -m helpers train --help"
            ) from error

    @property
    def words(self) -> list[str]:
        """The command that the machine runs; where the scans lie and the model goes, SageMaker's environment says."""
        named = {"feature-size": self.feature_size, "amp": str(self.amp).lower(), "window-size": self.window_size}
        named |= {"checkpointing": str(self.checkpointing).lower(), "roi": self.ct.roi, "randcrop": self.ct.randcrop}
        named |= {"randcrop-samples": self.ct.randcrop_samples, "overlap": self.ct.overlap, "flips": self.ct.flips}
        named |= {"positive": self.ct.positive, "negative": self.ct.negative}
        named |= {"spacing": self.ct.preparation.spacing, "window": self.ct.preparation.window}
        named |= {name.replace("_", "-"): value for name, value in self.settings.items()}
        words = ["ct"]
        for name, value in named.items():
            words += [f"--{name}", *(str(part) for part in (value if isinstance(value, tuple | list) else [value]))]
        starter = ["torchrun", "--nproc-per-node", str(self.machine.processes)] if self.machine.processes > 1 else ["python"]
        return [*starter, "-m", "helpers", *words]


@dataclass(frozen=True)
class Pipeline:
    """Both steps, and the days for which data and model are kept."""

    name: str
    region: str
    download: DownloadStep
    train: TrainStep
    keep_days: float = 30.0


@dataclass(frozen=True)
class Planned:
    """One step of a dry run: its name, what would happen in one sentence each, and the command."""

    step: str
    actions: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Plan:
    """What a dry run says: the steps in order, and a table of costs in US dollars with their total."""

    steps: tuple[Planned, ...]
    costs: pd.DataFrame


def load_pipeline(path: Path) -> Pipeline:
    """Read and check a pipeline; raises `DataError` naming the field that is missing, misspelt or cannot be."""
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML ({' '.join(str(error).split())})", "mend it") from error
    try:
        steps = {**_mapping(content, Pipeline, path.name)}
        for name, kind in (("download", DownloadStep), ("train", TrainStep)):
            given = dict(_mapping(steps.get(name), kind, name))
            given["machine"] = Machine(**_mapping(given.get("machine"), Machine, f"{name}.machine"))
            if "ct" in given:
                given["ct"] = _ct(given["ct"])
            steps[name] = kind(**given)
        return Pipeline(**steps)
    except (DataError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}", "correct the file") from error


def plan(pipeline: Pipeline, *, prices: Prices | None = None) -> Plan:
    """What would happen and what it would cost; nothing is started and nobody is asked."""
    down, train = pipeline.download, pipeline.train
    prices = prices or load_prices()
    items = [_item("download", down.machine), _item("train", train.machine)]
    storage = Item(f"{down.size_gb:g} GB in S3", gb_months=down.size_gb * pipeline.keep_days / 30.4)
    made = train.training
    copy = "curl --fail --location" if down.source.startswith("https://") else "aws s3 cp"
    target = " --output cohort.archive" if down.source.startswith("https://") else " cohort.archive"
    where = f"{train.machine.instance} with {train.machine.processes} process(es)"
    steps = (
        Planned(
            "download",
            (
                f"start a processing job on {down.machine.instance} with {down.machine.volume_gb} GB",
                f"fetch {down.source} ({down.size_gb:g} GB) and unpack it",
                "check every scan: a fault that makes one unusable is named, none usable ends the pipeline here",
                f"write imagesTr, labelsTr and dataset.json with folds to {down.target}",
            ),
            f"{copy} {shlex.quote(down.source)}{target}",
        ),
        Planned(
            "train",
            (
                f"start a {'spot ' if train.machine.spot else ''}training job on {where}",
                f"bring {down.target} to the machine",
                f"train {made.network} f{train.feature_size} for {made.steps} steps of {made.batch} crops of "
                f"{'x'.join(map(str, train.ct.randcrop))} voxels, validated in windows of {'x'.join(map(str, train.ct.roi))}",
                f"write the best weights with their card to {train.output}, and a state to go on from",
            ),
            shlex.join(train.words),
        ),
    )
    return Plan(steps, estimate([*items, storage], prices))


def _item(what: str, machine: Machine) -> Item:
    share = 1 - SPOT_SAVING if machine.spot else 1.0
    return Item(what, machine.instance, 1, machine.hours, machine.most_hours, share)


def _mapping(content: Any, kind: type, where: str) -> Mapping[str, Any]:
    """The content if it is a mapping whose keys are fields of a dataclass; else a `DataError`."""
    if not isinstance(content, Mapping):
        raise DataError(f"{where} is not a list of fields", f"it takes {', '.join(item.name for item in fields(kind))}")
    unknown = sorted(set(map(str, content)) - {item.name for item in fields(kind)})
    if unknown:
        raise DataError(f"{where} has no field {unknown[0]}", f"it takes {', '.join(item.name for item in fields(kind))}")
    return content


def _ct(content: Any) -> CtSettings:
    given = dict(_mapping(content, CtSettings, "train.ct"))
    if "preparation" in given:
        given["preparation"] = CtPreparation(**_mapping(given["preparation"], CtPreparation, "train.ct.preparation"))
    return replace(CtSettings(), **given)
