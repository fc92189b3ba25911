"""Prepared cases and their file: one safetensors file a case, of which a patch is read without reading the rest.

The file holds ``image`` float16 (4, X, Y, Z), ``classes`` uint8 (X, Y, Z) if the case has a reference, and ``voxels_<name>``
int32 (n, 3): up to `TABLE` voxels of each region and the brain, so that a patch is placed without a look at the volume.
Everything else is JSON in the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from brats_cohort.case import Case
from brats_cohort.files import DataError, write_atomically
from brats_cohort.regions import CLASSES, MODALITIES, REGION_CLASSES

VERSION = 3
"""Part of every file's hash: raise it when a change to preprocessing changes what is written."""

TABLE = 4096


@dataclass(frozen=True)
class PreprocessSettings:
    """How cases are prepared.

    Attributes
    ----------
    spacing : tuple of 3 float
        Voxel edges in millimetres; one number stands for all three.
    normalise : str
        "zscore": mean 0 and standard deviation 1 over the non-zero voxels of each modality, 0 outside the brain.
        "minmax": the two percentiles of the non-zero voxels become 0 and 1, and what lies beyond is clipped.
    margin : int
        Native voxels kept around the brain when cropping.
    percentiles : tuple of 2 float
        For "minmax".
    correct_bias : bool
        Divide each modality by its bias field before that (`helpers.data.preprocess`).
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    normalise: str = "zscore"
    margin: int = 1
    percentiles: tuple[float, float] = (0.5, 99.5)
    correct_bias: bool = False

    def __post_init__(self) -> None:
        spacing = (self.spacing,) * 3 if isinstance(self.spacing, int | float) else self.spacing
        object.__setattr__(self, "spacing", tuple(float(edge) for edge in spacing))
        object.__setattr__(self, "percentiles", tuple(float(share) for share in self.percentiles))
        if len(self.spacing) != 3 or not all(0 < edge < np.inf for edge in self.spacing):
            raise DataError(f"spacing is {self.spacing}", "give one or three positive numbers of millimetres")
        if self.normalise not in ("zscore", "minmax"):
            raise DataError(f"normalise is {self.normalise!r}", "choose 'zscore' or 'minmax'")
        if self.margin < 0:
            raise DataError(f"margin is {self.margin}", "give 0 or more voxels")
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise DataError(f"percentiles are {self.percentiles}", "give two between 0 and 100, the lower one first")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case ready for a network, in memory.

    Attributes
    ----------
    image : array (4, X, Y, Z)
        float16 in the order of `brats_cohort.regions.MODALITIES`, orientation RAS, 0 outside the brain.
    classes : uint8 array (X, Y, Z) or None
        Reference label map.
    affine, native_affine : float64 array (4, 4)
        From voxel indices to millimetres in RAS+; the native grid is that of the files that the case came from.
    """

    identifier: str
    image: np.ndarray
    classes: np.ndarray | None
    affine: np.ndarray
    native_shape: tuple[int, int, int]
    native_affine: np.ndarray
    settings: PreprocessSettings

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y and Z."""
        return self.image.shape[1:]

    @cached_property
    def voxels(self) -> dict[str, np.ndarray]:
        """Draw up to `TABLE` voxels from the brain and, if the case has a reference, from each region: int32 (n, 3)."""
        generator = np.random.default_rng(0)
        flat = {"brain": _draw_brain(self.image, generator)}
        if self.classes is not None:
            labels = np.ascontiguousarray(self.classes).ravel()
            tumour = np.flatnonzero(labels != 0)
            kinds = labels[tumour]
            for region, members in REGION_CLASSES.items():
                found = tumour[np.isin(CLASSES, members)[kinds]]
                flat[region] = found if len(found) <= TABLE else generator.choice(found, TABLE, replace=False, shuffle=False)
        return {name: np.stack(np.unravel_index(each, self.shape), axis=1).astype(np.int32) for name, each in flat.items()}

    def image_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Return part of the image, as `PreparedFile.image_patch`."""
        return self.image[(slice(None), *slices)]

    def classes_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Return part of the label map, as `PreparedFile.classes_patch`."""
        return self.classes[tuple(slices)]

    def voxels_of(self, region: str) -> np.ndarray:
        """Return the voxels listed for a region, as `PreparedFile.voxels_of`."""
        return self.voxels[region]


class PreparedFile:
    """A prepared case on disk, of which only the header is read until a patch is asked for.

    It has the attributes of `Prepared` except the arrays, and is pickled as its path, so it travels to DataLoader workers.
    Raises `DataError` if the file is not a prepared case, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._handle = _open(self.path)
        facts = {key: json.loads(value) for key, value in self._handle.metadata().items()}
        self.identifier: str = facts["identifier"]
        self.shape: tuple[int, int, int] = tuple(self._handle.get_slice("image").get_shape()[1:])
        self.affine = np.array(facts["affine"])
        self.native_shape: tuple[int, int, int] = tuple(facts["native_shape"])
        self.native_affine = np.array(facts["native_affine"])
        self.settings = PreprocessSettings(**facts["settings"])
        self.has_classes = "classes" in self._handle.keys()  # noqa: SIM118 (a handle is no mapping)

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedFile, (self.path,)

    def image_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Read part of the image, float16 (4, x, y, z), given one slice with step 1 for each of X, Y and Z."""
        return self._handle.get_slice("image")[(slice(None), *slices)].numpy().copy()  # else a view of the file

    def classes_patch(self, slices: Sequence[slice]) -> np.ndarray:
        """Read part of the label map, uint8 (x, y, z); `DataError` where the case has no reference."""
        self.need_classes()
        return self._handle.get_slice("classes")[tuple(slices)].numpy().copy()

    def voxels_of(self, region: str) -> np.ndarray:
        """Read the voxels listed for TC, WT, ET or "brain", int32 (n, 3): none if the region is empty, at most `TABLE`."""
        return self._handle.get_tensor(f"voxels_{region}").numpy()

    def load(self) -> Prepared:
        """Read everything."""
        classes = self._handle.get_tensor("classes").numpy().copy() if self.has_classes else None
        image = self._handle.get_tensor("image").numpy().copy()
        return Prepared(self.identifier, image, classes, self.affine, self.native_shape, self.native_affine, self.settings)

    def need_classes(self) -> None:
        """Raise `DataError` if the case has no reference."""
        if not self.has_classes:
            raise DataError(f"{self.path} has no reference label map", "training needs cases with one")


def save_prepared(path: Path, prepared: Prepared) -> Path:
    """Write a prepared case so that the file is either complete or absent."""
    path = Path(path)
    tensors = {"image": torch.from_numpy(np.ascontiguousarray(prepared.image, dtype=np.float16))}
    if prepared.classes is not None:
        tensors["classes"] = torch.from_numpy(np.ascontiguousarray(prepared.classes, dtype=np.uint8))
    tensors |= {f"voxels_{name}": torch.from_numpy(table) for name, table in prepared.voxels.items()}
    facts = {
        "version": VERSION,
        "identifier": prepared.identifier,
        "affine": np.asarray(prepared.affine).tolist(),
        "native_shape": list(prepared.native_shape),
        "native_affine": np.asarray(prepared.native_affine).tolist(),
        "settings": asdict(prepared.settings),
        "checksum": _checksum(tensors),
    }
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={key: json.dumps(value) for key, value in facts.items()}))
    return path


def is_intact(path: Path) -> bool:
    """Check that a prepared file is there and holds what was written: an empty or damaged one is prepared again."""
    try:
        handle = _open(path)
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (a handle is no mapping)
        return json.loads(handle.metadata()["checksum"]) == _checksum(tensors)
    except (DataError, SafetensorError):
        return False


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        digest.update(tensors[name].numpy())
    return digest.hexdigest()


def _open(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "prepare the cohort first")
    try:
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error})", "remove it and prepare the cohort again") from error
    if (handle.metadata() or {}).get("version") != json.dumps(VERSION):
        raise DataError(f"{path} is not a prepared case of this version", "remove it and prepare the cohort again")
    return handle


def _draw_brain(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Up to `TABLE` voxels in which any modality is not 0, found by drawing from the whole box: no pass over the volume."""
    channels = image.reshape(len(image), -1)
    drawn = generator.integers(channels.shape[1], size=4 * TABLE)
    brain = np.unique(drawn[(channels[:, drawn] != 0).any(0)])
    if len(brain) == 0:
        brain = np.flatnonzero((channels != 0).any(0))
    return generator.permutation(brain)[:TABLE]


def prepared_path(case: Case, folder: Path, settings: PreprocessSettings) -> Path:
    """Name the prepared file of a case, there or not; reads the files of the case to hash them, raises `DataError`."""
    digest = hashlib.blake2b(digest_size=6)
    sources = [(modality, case.images[modality].channel) for modality in MODALITIES if modality in case.images]
    recipe = [VERSION, case.labels, case.identifier, sources, case.label is not None, asdict(settings)]
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    for path in case.files:
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise DataError(f"case {case.identifier}: {path} cannot be read ({error})", "check the folder") from error
        digest.update(hashlib.blake2b(contents).digest())
    return Path(folder) / f"{case.identifier}-{digest.hexdigest()}.safetensors"
