"""The randomised phantom: the same case for the same numbers, a tumour where it can be, and a wide choice of examinations."""

import functools
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from glioma_phantom import PhantomSettings, Randomisation, draw_random_phantom, make_phantom
from glioma_phantom.anatomy import MIDDLE, box_mean, draw_anatomy, draw_pose, draw_warp, load_template, sample
from glioma_phantom.artefacts import MimicRanges, ScannerRanges, draw_mimics, scan, shifted, strip_skull, thick_slices
from glioma_phantom.contrast import MODALITIES, CoreRanges, draw_core, draw_looks, label_enhancement
from glioma_phantom.draws import Box, Draws
from glioma_phantom.generator import ContrastRanges, draw_random_looks
from glioma_phantom.tumour import ED, ET, NCR, NON_ENHANCING, RING, TumourRanges, draw_foci, draw_tumour, press_out
from glioma_phantom.variants import NO_VARIANTS, VariantRanges, narrow_ranges

BOX = Box((0, 0, 0), (24, 20, 16), 2.0)


@pytest.fixture(scope="module")
def phantoms():
    return [draw_random_phantom(3, index, spacing=4.0) for index in range(12)]


def test_seed_and_index_name_a_case(phantoms):
    again = draw_random_phantom(3, 2, spacing=4.0)
    assert np.array_equal(again.image, phantoms[2].image)
    assert np.array_equal(again.classes, phantoms[2].classes)
    for other in (phantoms[1], draw_random_phantom(4, 2, spacing=4.0)):
        assert not np.array_equal(other.classes, again.classes)


def test_a_randomised_case_has_nothing_of_the_cohorts_case_of_the_same_number(phantoms):
    calibrated = make_phantom(2, PhantomSettings(spacing=4.0, seed=3))
    assert not np.array_equal(calibrated.classes, phantoms[2].classes)
    assert calibrated.classes.shape == phantoms[2].classes.shape
    assert np.array_equal(calibrated.affine, phantoms[2].affine)


def test_images_are_finite_and_positive_inside_one_brain_for_all_modalities(phantoms):
    for phantom in phantoms:
        assert phantom.image.dtype == np.float32
        assert np.isfinite(phantom.image).all()
        assert phantom.image.min() == 0
        brain = (phantom.image > 0).any(axis=0)
        assert all(np.array_equal(brain, volume > 0) for volume in phantom.image if volume.any())
        assert 700 < brain.sum() * 64 / 1000 < 2200


def test_every_case_has_a_tumour_inside_the_brain_and_kinds_differ(phantoms):
    for phantom in phantoms:
        assert set(np.unique(phantom.classes)) <= {0, 1, 2, 3}
        assert (phantom.classes > 0).any()
        assert not (phantom.classes[~phantom.image.any(axis=0)] > 0).any()
    enhancing = [bool((phantom.classes == ET).any()) for phantom in phantoms]
    assert any(enhancing)
    assert not all(enhancing)


def of_variant(name, index, **others):
    variants = replace(NO_VARIANTS, **{name: 1.0}, **others)
    return draw_random_phantom(9, index, spacing=4.0, ranges=replace(Randomisation(), variants=variants))


def test_variants_differ_from_the_same_phantom_without_them_in_what_they_are_called_after():
    plain = of_variant("mismatch", 0)  # which alone changes nothing
    missing = of_variant("missing", 0)
    assert sorted(volume.any() for volume in missing.image) == [False, True, True, True]
    kept = missing.image.any(axis=(1, 2, 3))
    assert np.array_equal(missing.image[kept], plain.image[kept]) and np.array_equal(missing.classes, plain.classes)
    assert (of_variant("badly_stripped", 0).image[0] > 0).sum() > (plain.image[0] > 0).sum()


def test_what_is_switched_off_stays_off_in_a_variant():
    names = ("haemorrhagic", "thick_slices", "misregistered")
    off = Randomisation(scanner=ScannerRanges(thick=0, misplaced=0), core=CoreRanges(bloody=0))
    kept, plain = narrow_ranges(names, off), narrow_ranges(names, Randomisation())
    assert (kept.scanner.thick, kept.scanner.misplaced, kept.core.bloody) == (0, 0, 0)
    assert (plain.scanner.thick, plain.scanner.misplaced, plain.core.bloody) == (0.95, 0.7, 1)
    assert kept.scanner.thickness == plain.scanner.thickness


def test_tumours_that_cannot_all_be_drawn_as_often_as_asked_are_refused():
    with pytest.raises(ValueError, match=r"add up to 1\.27"):
        VariantRanges(low_grade=1.0)
    assert replace(NO_VARIANTS, diffuse=1.0).diffuse == 1


@pytest.mark.parametrize(("name", "value"), [("missing", 5), ("low_grade", -0.5), ("cystic", np.nan)])
def test_what_is_no_probability_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; a probability lies between 0 and 1"):
        VariantRanges(**{name: value})


def test_a_range_that_goes_down_is_refused():
    with pytest.raises(ValueError, match=r"a range goes from low to high, not from 2\.0 to 0\.8"):
        Draws(0, 0).within((2.0, 0.8))


def test_variants_of_tumours_have_the_regions_that_define_them():
    for index in range(3):
        low_grade, small = of_variant("low_grade", index), of_variant("small_core", index)
        assert not (low_grade.classes == ET).any()
        assert (low_grade.classes == NCR).sum() > (low_grade.classes == ED).sum()
        assert 0 < np.isin(small.classes, (NCR, ET)).sum() < (small.classes == ED).sum()


def test_a_case_looks_the_same_at_every_spacing():
    fine, coarse = (draw_random_phantom(5, 0, spacing=spacing) for spacing in (2.0, 4.0))
    volumes = [(p.classes > 0).sum() * s**3 for p, s in ((fine, 2), (coarse, 4))]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.25)


def test_reversed_contrasts_occur_and_can_be_switched_off():
    def brighter_grey(ranges):
        return [draw_random_looks(Draws(1, n), RING, ranges)["t1"].grey >= 1 for n in range(120)]

    assert 0 < sum(brighter_grey(ContrastRanges())) < 40
    assert not any(brighter_grey(ContrastRanges(free=1.0, reversed=0.0)))


def test_free_contrasts_keep_what_defines_the_classes():
    for kind in (RING, NON_ENHANCING):
        for index in range(60):
            looks = draw_random_looks(Draws(2, index), kind, ContrastRanges(free=1.0, reversed=0.0))
            assert looks["t1ce"].enhancing > 1.05 * looks["t1"].enhancing
            assert looks["t1"].necrosis < looks["t1"].oedema <= 1
            assert looks["t2"].oedema > 1
            assert looks["flair"].oedema > looks["flair"].grey > 0.99


def test_without_looseness_contrasts_are_the_calibrated_ones():
    tight = ContrastRanges(free=0.0, looseness=(1.0, 1.0), enhancement=(1.0, 1.0), swelling=(1.0, 1.0))
    for index in range(5):
        draws = Draws(4, index)
        draws.chance(0.0)
        calibrated = draw_looks(draws, RING)
        loose = draw_random_looks(Draws(4, index), RING, tight)
        for modality, look in loose.items():
            assert astuple(look) == pytest.approx(astuple(calibrated[modality]))


@pytest.mark.parametrize("width", [3, 5, 9])
def test_an_average_over_cubes_is_that_of_pytorch(width):
    maps = torch.rand(2, 9, 12, 10, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.avg_pool3d(maps, width, stride=1, padding=width // 2)
    assert torch.allclose(box_mean(maps, width), expected, atol=1e-6)
    counts = (maps > 0.5).float()  # whole numbers add up exactly in any order, so that equal shares stay equal
    assert torch.equal(box_mean(counts, width), torch.nn.functional.avg_pool3d(counts, width, stride=1, padding=width // 2))


def test_without_effects_a_scan_changes_nothing():
    none = ScannerRanges(thick=0, blur=(0, 0), misplaced=0, ghost=0, bias=(0, 0), slope=0, gamma=0, noise=(0, 0))
    image = torch.rand(BOX.shape) + 0.5
    assert torch.allclose(scan(Draws(0, 0), image, BOX, none), image, atol=1e-5)


def test_thick_slices_average_along_their_axis_only():
    ramp = torch.arange(16.0).expand(24, 20, 16)
    assert torch.allclose(thick_slices(ramp, 0, 3.0), ramp, atol=1e-5)
    blurred = thick_slices(torch.eye(16).expand(4, 16, 16), 2, 4.0)
    assert blurred.max() < 0.5
    assert blurred.sum(dim=2).mean() == pytest.approx(1, rel=0.05)


def test_a_shift_moves_by_parts_of_a_voxel():
    line = torch.zeros(8, 4, 4)
    line[3] = 1
    moved = shifted(line, 0, 1.25)[:, 0, 0]
    assert moved.tolist() == pytest.approx([0, 0, 0, 0, 0.75, 0.25, 0, 0])


def test_a_never_enhancing_cohort_can_be_asked_for():
    defaults = Randomisation()
    tumour = replace(defaults.tumour, kinds=(0.0, 0.0, 1.0), specks=0.0)
    plain = replace(defaults, tumour=tumour, variants=NO_VARIANTS)
    assert not any((draw_random_phantom(6, n, spacing=4.0, ranges=plain).classes == ET).any() for n in range(2))


def test_mimics_and_remains_of_the_skull_are_no_tumour_and_lie_inside_the_mask():
    template = load_template()
    draws = Draws(8, 0, series=1)
    pose = draw_pose(draws)
    warp = draw_warp(draws, template, pose, [], 4.0)
    brain = draw_anatomy(draws, template, warp)
    wide = MimicRanges(rim=(3.0, 3.0), rim_variation=(0.0, 0.0), lesions=1.0)
    anatomy, shell = strip_skull(draws, brain, warp.box, wide)
    assert (shell > 0).any()
    assert not ((shell > 0) & brain.brain).any()
    assert not (anatomy.grey + anatomy.white)[shell > 0].any()
    for stuff in draw_mimics(draws, anatomy, shell, warp.box, wide):
        assert stuff.share.min() >= 0
        assert stuff.share.max() <= 1
        assert set(stuff.look) == set(MODALITIES)


def test_a_skull_strip_can_cut_into_the_brain():
    template = load_template()
    draws = Draws(8, 1, series=1)
    warp = draw_warp(draws, template, draw_pose(draws), [], 4.0)
    brain = draw_anatomy(draws, template, warp)
    tight = MimicRanges(rim=(-3.0, -3.0), rim_variation=(0.0, 0.0))
    assert strip_skull(draws, brain, warp.box, tight)[0].brain.sum() < brain.brain.sum()


@functools.cache
def drawn(index, **changes):
    """A tumour that enhances, and its anatomy, of the same draws but for what is changed."""
    plain = TumourRanges(kinds=(0.5, 0.5, 0.0), multifocal=0.0, gaps=(-0.5, -0.5), islands=(0.5, 0.5))
    template, draws, ranges = load_template(), Draws(10, index, series=1), replace(plain, **changes)
    pose = draw_pose(draws)
    foci = draw_foci(draws, template, pose, plain)
    warp = draw_warp(draws, template, pose, [focus.mass for focus in foci], 2.0)
    anatomy = press_out(draws, foci, draw_anatomy(draws, template, warp), warp.box, ranges)
    return draw_tumour(draws, foci, anatomy, warp.box, ranges), anatomy


def tumour_with(index, **changes):
    return drawn(index, **changes)[0]


def test_a_phantom_can_have_had_a_resection():
    wide = Randomisation()
    never, always = (replace(wide, tumour=replace(wide.tumour, resected=share)) for share in (0.0, 1.0))
    whole, emptied = (draw_random_phantom(9, 1, spacing=4.0, ranges=ranges) for ranges in (never, always))
    assert 0 < (emptied.classes > 0).sum() < (whole.classes > 0).sum()
    assert np.isfinite(emptied.image).all()


def test_a_resection_empties_the_middle_of_the_core_and_leaves_the_rest():
    for index in range(2):
        whole, emptied = tumour_with(index), tumour_with(index, resected=1.0)
        cavity = emptied.cavity > 0
        assert whole.cavity is None and (whole.classes[cavity] != ED).all() and (whole.classes[cavity] > 0).any()
        assert not emptied.classes[cavity].any() and not emptied.shares[:, cavity].any()
        assert torch.equal(emptied.classes[~cavity], whole.classes[~cavity]) and emptied.classes.any()


def test_what_enhances_can_cover_the_surface_of_the_core():
    def bare(tumour):
        """Share of what meets oedema from inside that does not enhance."""
        beside = np.zeros(tumour.classes.shape, bool)
        for axis in range(3):
            for step in (-1, 1):
                beside |= np.roll(tumour.classes.numpy() == ED, step, axis)
        met = tumour.classes.numpy()[beside & np.isin(tumour.classes, (NCR, ET))]
        return (met == NCR).mean()

    open_, enclosed = ([bare(tumour_with(n, enclosed=share)) for n in range(2)] for share in (0.0, 1.0))
    assert np.mean(open_) > 0.2
    assert max(enclosed) < 0.05


def test_borders_between_classes_can_be_sharp():
    for sharp, mixed in ((0.0, True), (1.0, False)):
        core = tumour_with(0, sharp=(sharp, sharp)).shares[[0, 2]]
        assert bool(((core > 0.01) & (core < 0.99)).any()) == mixed


EVEN = CoreRanges(mixed=0.0, bloody=0.0, uneven=0.0, mottled=0.0, pale_edge=(0.0, 0.0))


def stuff_of(tumour, looks, **changes):
    """What a core that has nothing but its average is given by the changes."""
    return [stuff for stuff in draw_core(Draws(11, 1), tumour, looks, 2.0, replace(EVEN, **changes)) if stuff.share.any()]


def test_uneven_tissue_varies_more_and_belongs_to_its_class():
    tumour, looks = tumour_with(1), draw_looks(Draws(11, 0), RING)
    assert stuff_of(tumour, looks) == []
    oedema, enhancing = stuff_of(tumour, looks, uneven=1.0)
    for stuff, whole in ((oedema, tumour.shares[1]), (enhancing, tumour.shares[2])):
        assert (stuff.share <= whole + 1e-6).all()
    inside = tumour.shares[1] > 0.9
    assert (oedema.share[inside] / tumour.shares[1][inside]).std() > 0.1
    for modality, look in looks.items():
        assert (oedema.look[modality] > 1) == (look.oedema > 1)


@pytest.mark.parametrize("changes", [{"pale_edge": (0.8, 0.8)}, {"mottled": 1.0}], ids=["edge", "mottled"])
def test_what_enhances_can_lack_contrast_agent_at_its_edge_or_in_places(changes):
    tumour = tumour_with(1, rim=(0.2, 0.2), gaps=(-3.0, -3.0), kinds=(1.0, 0.0, 0.0))
    looks, enhancing = draw_looks(Draws(11, 0), RING), tumour.shares[2]
    (pale,) = stuff_of(tumour, looks, **changes)
    assert (pale.share <= enhancing + 1e-6).all()
    assert pale.look["t1ce"] < looks["t1ce"].enhancing
    inside = enhancing > 0.3
    lacking = pale.share[inside] / enhancing[inside]
    assert lacking.min() < 0.1, "some of it is as bright as ever"
    assert lacking.max() > 0.4
    if "pale_edge" in changes:
        assert pale.look["t1ce"] == looks["t1"].enhancing, "as before contrast agent"
        assert lacking[enhancing[inside] < 0.7].mean() > lacking[enhancing[inside] > 0.99].mean() + 0.2


def labelled(tumour, looks, t1, t1ce):
    """Classes of a tumour as a rater sees it who wants 1.1 times the brightness of white matter."""
    return label_enhancement(Draws(11, 2), tumour, looks, t1, t1ce, 2.0, CoreRanges(outline=(1.1, 1.1)))


def test_core_is_labelled_as_enhancing_where_contrast_agent_makes_it_brighter_than_white_matter():
    tumour, looks = tumour_with(1), draw_looks(Draws(11, 0), RING)
    was, t1 = tumour.classes, torch.full(tumour.classes.shape, 0.8)
    left = (torch.arange(was.shape[0])[:, None, None] < was.shape[0] // 2).expand(was.shape)
    now = labelled(tumour, looks, t1, torch.where(left, 1.2, 1.0))
    core = (was == NCR) | (was == ET)
    assert (now[core & left] == ET).all() and not (now[~left] == ET).any()
    assert torch.equal(now > 0, was > 0) and torch.equal(now[~core], was[~core]), "oedema stays what it is however bright"
    dim = now[(was == ET) & ~left]
    assert (dim == NCR).any() and (dim == ED).any(), "inside core it is core, at the edge oedema"
    bled = labelled(tumour, looks, t1 + 0.4, t1 + 0.4)
    assert not (bled == ET).any(), "blood is bright before contrast agent already"


def test_where_white_matter_is_brighter_what_takes_up_most_enhances():
    tumour, looks = tumour_with(1), draw_looks(Draws(11, 0), RING)
    looks["t1ce"] = replace(looks["t1ce"], necrosis=0.6, enhancing=0.9)
    seen = torch.where(tumour.classes == ET, 0.9, 0.6)
    assert torch.equal(labelled(tumour, looks, torch.full_like(seen, 0.5), seen), tumour.classes)


def test_enhancing_tumour_is_brighter_than_the_rest_of_the_core(phantoms):
    compared = 0
    for phantom in phantoms:
        rest, enhancing = (phantom.image[1][phantom.classes == name] for name in (NCR, ET))
        if min(rest.size, enhancing.size) >= 10:
            compared += 1
            assert np.median(enhancing) > np.median(rest)
    assert compared >= 2


def test_a_core_can_close_the_sulci_around_it_and_keeps_the_ventricles():
    (_, before), (_, after) = (drawn(2, effaced=(share, share)) for share in (0.0, 1.0))
    assert (after.fluid <= before.fluid + 1e-6).all()
    assert (before.fluid - after.fluid).max() > 0.5
    assert torch.allclose(after.fluid + after.grey, before.fluid + before.grey, atol=1e-5)
    deep = before.ventricles > 0.99
    assert torch.allclose(after.fluid[deep], before.fluid[deep], atol=0.02)


def test_oedema_can_enter_the_cortex():
    def grey(tumour, anatomy):
        return float(anatomy.grey[tumour.part][tumour.classes == ED].mean())

    spared, entered = ([grey(*drawn(n, spared=(share, share))) for n in range(2)] for share in (1.1, 0.0))
    assert np.mean(entered) > np.mean(spared) + 0.05


def test_tumours_can_begin_anywhere_below_the_surface():
    template, shallowest = load_template(), {}
    for scatter in (0.0, 10.0):
        depths = []
        for index in range(60):
            draws = Draws(12, index)
            pose = draw_pose(draws)
            focus = draw_foci(draws, template, pose, TumourRanges(scatter=scatter))[0]
            voxel = pose.matrix @ (focus.centre - torch.tensor(MIDDLE)) + template.centre
            depths.append(float(sample(template.maps[3:4], voxel.view(3, 1, 1, 1))))
        shallowest[scatter] = min(depths)
    assert 0.25 < shallowest[10.0] < 0.8 < shallowest[0.0]
