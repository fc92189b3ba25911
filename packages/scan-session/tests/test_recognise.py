"""Which series is which: words of nine languages, timing, several candidates, and what the images themselves say."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from scan_session import Series, SessionError
from scan_session.recognise import assign_by_contrast, choose, recognise, which_enhances

FILE = (Path("IM1"),)


def named(name: str) -> Series:
    return Series("1", name, (Path(f"{name}.nii.gz"),), (200, 200, 150), (1.0, 1.0, 1.0), {"Name": name})


def header(number="1", spacing=(1.0, 1.0, 1.0), **facts) -> Series:
    return Series(str(number), f"series {number}", FILE, (200, 200, 150), spacing, facts)


@pytest.mark.parametrize(
    ("description", "modality"),
    [
        ("t1_mprage_sag_p2_iso", "t1"),
        ("AX T1 POST GD", "t1ce"),
        ("T1 SE tra +KM", "t1ce"),
        ("t1_tse_tra nach KM", "t1ce"),
        ("T1 nativ", "t1"),
        ("T1 ohne Kontrastmittel", "t1"),
        ("3D T1 après injection", "t1ce"),
        ("T1 sans injection", "t1"),
        ("T1 AX dopo mdc", "t1ce"),
        ("T1 sin contraste", "t1"),
        ("T1 con contraste", "t1ce"),
        ("T1 с контрастом", "t1ce"),
        ("T1 без контраста", "t1"),
        ("T1 增强", "t1ce"),
        ("T1 平扫", "t1"),
        ("T1 조영증강", "t1ce"),
        ("AX T1+C", "t1ce"),
        ("T1 pre contrast", "t1"),
        ("T1 non FS post Gd", "t1ce"),
        ("AX BRAVO +C", "t1ce"),
        ("t2_tse_tra", "t2"),
        ("T2 SPACE", "t2"),
        ("t2_tirm_tra_dark-fluid", "flair"),
        ("Sag CUBE FLAIR", "flair"),
        ("AX T2 FLAIR FS", "flair"),
        ("AX T1 FLAIR", "t1"),
        ("T1 C-", "t1"),
        ("T1 sem contraste", "t1"),
        ("T1 o. KM", "t1"),
        ("T1 v KM", "t1"),
        ("T1 zonder contrast", "t1"),
        ("T1 bez kontrastu", "t1"),
        ("T1 до контраста", "t1"),
        ("T1 增强前", "t1"),
        ("T1 未增强", "t1"),
        ("T1 조영 전", "t1"),
        ("T1 before contrast", "t1"),
        ("3D T1 +C PRE-OP NAVI", "t1ce"),
        ("T1 STEALTH PRE SURGERY POST GD", "t1ce"),
        ("T1 KM vor OP", "t1ce"),
        ("AX T1 POST OP", "t1"),
        ("t1_mprage_sag_postop", "t1"),
        ("T1 nach OP", "t1"),
        ("T1 post RT", "t1"),
        ("T1 POST-OP POST GD", "t1ce"),
        ("3D T1 post perfusion", "t1ce"),
        ("T1 KM nach DSC", "t1ce"),
        ("AX T1 +C ASSET", "t1ce"),
        ("T1 vibe GD sub mm", "t1ce"),
        ("AXT2FLAIR", "flair"),
        ("t2_spc_da-fl_irprep_sag_p2_iso", "flair"),
    ],
)
def test_words_say_what_the_timing_does_not(description, modality):
    assert recognise([header(Description=description)])[0].modality == modality


@pytest.mark.parametrize(
    ("repetition", "echo", "inversion", "modality"),
    [(2000, 3, 900, "t1"), (550, 12, None, "t1"), (3200, 400, None, "t2"), (5000, 390, 1800, "flair"), (2500, 10, 860, "t1")],
)
def test_timing_says_what_it_is_whatever_it_is_called(repetition, echo, inversion, modality):
    facts = {"RepetitionTime": repetition, "EchoTime": echo, "InversionTime": inversion}
    (series,) = recognise([header(Description="head routine", **{key: value for key, value in facts.items() if value})])
    assert series.modality == modality


@pytest.mark.parametrize(
    "changes",
    [
        {"DiffusionBValue": 0.0},
        *({"BodyPartExamined": part} for part in ("CERVEAU", "TESTA", "CABEÇA", "ГОЛОВА", "頭部", "HIPPOCAMPUS", "UNKNOWN")),
    ],
)
def test_a_value_that_names_nothing_else_leaves_a_series_in(changes):
    assert recognise([header(Description="T1", **changes)])[0].modality == "t1"


@pytest.mark.parametrize("part", ["LSPINE", "C-SPINE", "HALS", "ARM", "頚椎"])
def test_another_part_of_the_body_is_left_out(part):
    assert "not the head" in recognise([header(Description="T1", BodyPartExamined=part)])[0].fault


@pytest.mark.parametrize(
    ("agent", "modality"),
    [
        *((agent, "t1") for agent in ("0 ml", "NA", "nil", "not given", "UNKNOWN", "false", "nicht")),
        ("Gadovist 0.1 mmol/kg", "t1ce"),
    ],
)
def test_an_agent_that_was_not_given_is_none(agent, modality):
    assert recognise([header(Description="T1", ContrastBolusAgent=agent)])[0].modality == modality


@pytest.mark.parametrize(
    ("description", "facts", "modality"),
    [
        ("t2_flair", {"RepetitionTime": 9000, "EchoTime": 120}, "flair"),
        ("t1_mprage", {"RepetitionTime": 2300, "EchoTime": 3, "ScanningSequence": ("GR", "IR")}, "t1"),
        ("t1_mprage", {"RepetitionTime": 2300, "EchoTime": 3}, "t1"),
    ],
)
def test_a_header_without_its_inversion_time_leaves_it_to_the_words(description, facts, modality):
    (series,) = recognise([header(Description=description, **facts)])
    assert series.modality == modality and not series.warnings


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("5_Ax_T1_FLAIR", "t1"),
        ("Ax T1 FLAIR +C", "t1ce"),
        ("7_Ax_T2_FLAIR", "flair"),
        ("flair_in_t1_space", "flair"),
        ("t2_in_dwi_space", "t2"),
        ("sub-01_ses-1_ce-gadolinium_T1w", "t1ce"),
        ("T1w_sub-01", "t1"),
        ("3DT1", "t1"),
        ("sT1W_3D_TFE", "t1"),
        ("AXT1POST", "t1ce"),
        ("T1_C-_ax", "t1"),
        ("sub-T2", "t2"),
        ("t2_christof", "t2"),
        ("t1ce_native", "t1ce"),
        ("POST_SAG_T1_MPRAGE_9", "t1ce"),
        ("12_+C_AX_T1", "t1ce"),
        ("Post_T1", "t1"),
        ("T1post_in_native_space", "t1ce"),
        ("T1_to_T1ce", "t1"),
        ("T2_in_FLAIR_space", "t2"),
        ("T1ce_reg_to_FLAIR", "t1ce"),
        ("reg_T1", "t1"),
        ("sub-01_space-T1w_FLAIR", "flair"),
        ("T1_native", "t1"),
        ("t1_tirm_tra_dark-fluid_320_4", "t1"),
        ("t2_tirm_tra_dark-fluid_320_6", "flair"),
    ],
)
def test_a_file_is_what_its_name_says(name, modality):
    assert recognise([named(name)])[0].modality == modality


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("T2star_GRE", "susceptibility"),
        ("T2_FFE", "susceptibility"),
        ("T2_swi_mag", "susceptibility"),
        ("sub-01_T2starw", "susceptibility"),
        ("T2_ADC", "diffusion"),
        ("SUB_T1", "a subtraction"),
        ("T1_SUB", "a subtraction"),
        ("T1_map", "a parameter map"),
        ("t1_mp2rage_sag_p3_iso_T1_Images", "a parameter map"),
        ("t1_mp2rage_sag_p3_iso_INV1", "an inversion image of an MP2RAGE"),
        ("sub-01_T2map", "a parameter map"),
        ("DIR", "double inversion recovery"),
    ],
)
def test_a_file_that_is_none_of_the_four_says_so_in_its_name(name, kind):
    assert recognise([named(name)])[0].fault == f"is {kind} by its name"


def test_an_enhanced_gradient_echo_is_told_from_a_t1():
    (series,) = recognise([header(EchoPulseSequence="GRADIENT", RepetitionTime=700, EchoTime=16)])
    assert series.modality is None and "T2*" in series.fault


def test_timing_counts_more_than_a_wrong_description():
    (series,) = recognise([header(Description="T2 FLAIR", RepetitionTime=500, EchoTime=10)])
    assert series.modality == "t1" and "the timing counts" in series.warnings[0]


def test_the_finest_of_several_is_taken_and_said():
    thick = header(2, (0.7, 0.7, 6), Description="T2")
    fine, again = header(3, (0.9, 0.9, 1), Description="T2 SPACE"), header(9, (0.9, 0.9, 1), Description="T2 SPACE")
    derived = header(4, (0.5, 0.5, 0.5), Description="T2", ImageType=("DERIVED", "SECONDARY"))
    taken, left, notes = choose(recognise([thick, derived, again, fine]), {})
    assert taken["t2"].number == "3" and {one.number for one in left} == {"2", "4", "9"}
    assert notes == ["4 series are T2; took series 3, the finest that was not computed from another"]
    assert {one.number: one.reason.split("series 3 ")[1] for one in left} == {
        "2": "is finer or first", "4": "was not computed from another", "9": "is finer or first"
    }  # fmt: skip
    assert choose(recognise([thick, fine]), {})[2] == ["2 series are T2; took series 3, the finest"]
    taken, _, _ = choose(recognise([thick, fine]), {"t2": "2"})
    assert taken["t2"].number == "2" and taken["t2"].reason == "T2: as you said"
    with pytest.raises(SessionError, match="there is no series 8 for --t2"):
        choose(recognise([thick, fine]), {"t2": "8"})


def test_a_coarser_series_of_the_whole_head_is_taken_before_a_finer_one_of_the_orbits():
    whole = header(2, (0.9, 0.9, 5.5), Description="T1 KM")
    orbits = Series("3", "series 3", FILE, (384, 384, 32), (0.5, 0.5, 3.0), {"Description": "T1 FS cor KM"})
    taken, left, notes = choose(recognise([orbits, whole]), {})
    assert taken["t1ce"].number == "2" and left[0].reason.endswith("series 2 shows more of the head")
    assert notes == ["2 series are T1 with contrast agent; took series 2, the finest of those that show the whole head"]


@pytest.fixture(scope="module")
def contrasts():
    """Aligned voxels in T1, T1ce, T2 and FLAIR of one brain with a tumour."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(32, 36, 30)), 2.5)
    tissue = np.digitize(noise, np.quantile(noise, [0.45, 0.9]))
    x, y, z = np.indices(noise.shape)
    tumour = (x - 20) ** 2 + (y - 22) ** 2 + (z - 15) ** 2 < 14
    mask = ((x - 15.5) / 14) ** 2 + ((y - 17.5) / 16) ** 2 + ((z - 14.5) / 13) ** 2 < 1
    values = {"t1": (110, 80, 30), "t1ce": (112, 84, 32), "t2": (70, 95, 220), "flair": (85, 105, 20)}
    images = {name: np.array(levels, float)[tissue] for name, levels in values.items()}
    for name, level in (("t1", 60), ("t1ce", 230), ("t2", 150), ("flair", 170)):
        images[name][tumour] = level
    return {name: one[mask] for name, one in images.items()}


def test_the_images_say_which_is_which(contrasts):
    order = ["flair", "t1ce", "t2", "t1"]
    assert assign_by_contrast([contrasts[name] for name in order]) == order
    assert which_enhances(contrasts["t1"], contrasts["t1ce"]) == 1
    assert which_enhances(contrasts["t1ce"], contrasts["t1"]) == 0
    with pytest.raises(SessionError, match="does not tell which is which"):
        assign_by_contrast([contrasts["t1"]] * 4)
