"""Label conventions and regions: nothing is lost between a file's numbers, classes and regions, in NumPy and in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from brats_cohort.regions import (
    BRATS2021,
    BRATS2023,
    CONVENTIONS,
    ED,
    ET,
    MSD,
    NCR,
    REGION_CLASSES,
    REGIONS,
    classes_to_regions,
    convention_by_name,
    from_classes,
    regions_to_classes,
    to_classes,
)

each_convention = pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=lambda convention: convention.name)
each_kind = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)
CLASSES = hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 3))


def test_published_numbers_of_each_source():
    """BraTS: 1 NCR, 2 ED, 4 (from 2023: 3) ET. MSD's dataset.json: 1 edema, 2 non-enhancing tumor, 3 enhancing tumour."""
    assert to_classes(np.array([0, 1, 2, 4]), BRATS2021).tolist() == [0, NCR, ED, ET]
    assert to_classes(np.array([0, 1, 2, 3]), BRATS2023).tolist() == [0, NCR, ED, ET]
    assert to_classes(np.array([0, 1, 2, 3]), MSD).tolist() == [0, ED, NCR, ET]


def test_numbers_beyond_the_three_classes_are_read_as_their_data_set_means_them():
    """The resection cavity belongs to no region; the cyst of paediatric gliomas belongs to the core."""
    assert to_classes(np.arange(5), CONVENTIONS["brats2024"]).tolist() == [0, NCR, ED, ET, 0]
    assert to_classes(np.arange(5), CONVENTIONS["brats-peds"]).tolist() == [0, ET, NCR, NCR, ED]
    assert "4 resection cavity (read as background)" in str(CONVENTIONS["brats2024"])


@pytest.mark.parametrize(
    ("name", "convention"),
    [
        ("BraTS2021_00001", "brats2021"),
        ("BraTS20_Training_001", "brats2021"),
        ("BraTS-GLI-00005-001", "brats2023"),
        ("BraTS-GLI-02060-100", "brats2024"),
        ("BraTS-PED-00001-000", "brats-peds"),
        ("BraTS-SSA-00001-000", "brats-africa"),
        ("BraTS-MET-00001-000", "brats-met"),
        ("BraTS-MEN-00001-000", "brats-men"),
        ("UCSF-PDGM-0004", "ucsf-pdgm"),
        ("UPENN-GBM-00001_11", "upenn-gbm"),
        ("my-case", "msd"),
    ],
)
def test_a_name_says_whose_numbers_its_reference_has(name, convention):
    assert convention_by_name(name, "msd") == convention


def test_hundreds_of_unknown_labels_are_one_short_line():
    with pytest.raises(ValueError, match=r"labels \[3, 5, 6, 7, 8\] and 291 more") as caught:
        to_classes(np.arange(300), BRATS2021)
    assert len(str(caught.value)) < 300


@each_convention
@given(classes=CLASSES, dtype=st.sampled_from(["uint8", "int16", "int32", "int64"]))
def test_classes_survive_the_way_through_a_file(convention, classes, dtype):
    back = to_classes(from_classes(classes, convention).astype(dtype), convention)
    assert np.array_equal(back, classes)
    assert back.dtype == np.uint8


@each_convention
@given(values=hnp.arrays(np.int16, SHAPES, elements=st.integers(-2, 9)))
def test_every_other_number_is_refused_by_name(convention, values):
    unknown = sorted(set(values.ravel().tolist()) - set(convention.numbers))
    if not unknown:
        assert to_classes(values, convention).shape == values.shape
        return
    with pytest.raises(ValueError, match="do not exist in") as caught:
        to_classes(values, convention)
    assert f"which has {sorted(convention.numbers)}" in str(caught.value)


@pytest.mark.parametrize(
    ("convention", "value", "hint"),
    [
        (BRATS2021, 3, "3 is enhancing tumour in brats2023"),
        (BRATS2023, 4, "4 is enhancing tumour in brats2021"),
        (BRATS2023, 4, "4 is resection cavity in brats2024"),
    ],
)
def test_numbers_of_another_source_come_with_a_hint(convention, value, hint):
    with pytest.raises(ValueError, match=hint):
        to_classes(np.array([0, value]), convention)


def test_classes_that_do_not_exist_are_not_written():
    with pytest.raises(ValueError, match=r"holds 0, 1, 2, 3 only, this one also holds \[4\]"):
        from_classes(np.array([0, 4]), BRATS2021)


def test_label_maps_of_fractions_are_refused():
    with pytest.raises(ValueError, match="must hold integers"):
        to_classes(np.array([0.0, 1.0], np.float32), MSD)


@each_kind
@given(classes=CLASSES)
def test_regions_hold_their_classes_and_lead_back(kind, classes):
    regions = classes_to_regions(kind(classes))
    assert type(regions) is type(kind(classes))
    for region, channel in zip(REGIONS, np.asarray(regions), strict=True):
        assert channel.dtype == bool
        assert np.array_equal(channel, np.isin(classes, REGION_CLASSES[region]))
    back = regions_to_classes(regions)
    assert type(back) is type(regions)
    assert np.array_equal(np.asarray(back), classes)


@each_kind
@given(regions=hnp.arrays(np.bool_, SHAPES.map(lambda shape: (3, *shape))))
def test_regions_that_are_not_nested_give_each_voxel_its_innermost(kind, regions):
    core, whole, enhancing = regions
    expected = np.select([enhancing, core, whole], [ET, NCR, ED], 0)
    assert np.array_equal(np.asarray(regions_to_classes(kind(regions))), expected)
