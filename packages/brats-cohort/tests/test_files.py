"""Files as they are met: every odd one gives a right reading or one clear sentence, and what is written is complete."""

import gzip
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brats_cohort.files import DataError, out_of_memory, require_writable, write_atomically
from brats_cohort.nifti import open_volume, read_label_values, read_volume, write_volume
from brats_cohort.testing import LPS

VOLUME = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
OBLIQUE = np.array([[-0.9, 0.1, 0.0, 30.0], [0.1, -0.9, 0.2, 40.0], [0.0, 0.2, 2.0, -50.0], [0, 0, 0, 1]])
EDGE = Path(__file__).resolve().parents[4] / "shared" / "real_cases" / "edge"
needs_edge = pytest.mark.skipif(not EDGE.is_dir(), reason="the odd files for development are not on this machine")


def save(path, data, *, scale=1.0, offset=0.0, kind=nib.Nifti1Image):
    """A file as nibabel, not this package, writes it; `data` are the stored numbers, before scaling."""
    image = kind(data, LPS)
    image.header.set_slope_inter(scale, offset)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_what_is_written_is_what_is_read_also_by_nibabel(tmp_path, ending, dtype):
    path = write_volume(tmp_path / "new" / f"a{ending}", VOLUME.astype(dtype), OBLIQUE)
    volume, affine = read_volume(path)
    assert volume.dtype == dtype
    assert np.array_equal(volume, VOLUME)
    assert np.allclose(affine, OBLIQUE)
    assert np.array_equal(nib.load(path).get_fdata(), VOLUME)
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == (ending == ".nii.gz")
    assert list(path.parent.iterdir()) == [path]


def test_equal_volumes_make_equal_files(tmp_path):
    first, second = (write_volume(tmp_path / name / "a.nii.gz", VOLUME, LPS).read_bytes() for name in "xy")
    assert first == second


def test_a_written_map_takes_over_the_header_of_its_image_so_that_viewers_align_them(tmp_path):
    image = nib.Nifti1Image(VOLUME, OBLIQUE)
    image.set_qform(OBLIQUE, code=2)
    image.set_sform(OBLIQUE, code=4)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "image.nii.gz")
    like = open_volume(tmp_path / "image.nii.gz")
    written = open_volume(write_volume(tmp_path / "map.nii.gz", (VOLUME % 4).astype(np.uint8), like.affine, like=like))
    for name in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "pixdim"):
        assert np.array_equal(written.header[name], like.header[name])
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), VOLUME % 4)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "a.nii.gz", VOLUME, LPS)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(DataError, match="no space"):
        write_volume(path, VOLUME + 1, LPS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_labels_that_floating_point_made_uneven_are_rounded_not_truncated(tmp_path):
    scaled = save(tmp_path / "scaled.nii.gz", np.array([[[0, 64, 128, 256]]], np.int16), scale=0.99999997 / 64)
    uneven = save(tmp_path / "uneven.nii.gz", np.array([[[0, 0.99999997, 2.0000001, 3.9999998]]]))
    assert read_volume(uneven)[0].astype(int).ravel().tolist() != [0, 1, 2, 4]
    for path in (scaled, uneven):
        values, _ = read_label_values(path)
        assert values.dtype.kind == "i"
        assert values.ravel().tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("odd", [1.5, 0.9, np.nan, np.inf])
def test_a_label_map_that_was_interpolated_is_refused(tmp_path, odd):
    path = save(tmp_path / "seg.nii.gz", np.array([[[0, 1, odd, 2]]], np.float32))
    with pytest.raises(
        DataError,
        match=r"seg\.nii\.gz is not a label map: 1 voxels are not whole .*(nearest neighbour|set what is not a number to 0)",
    ):
        read_label_values(path)


@pytest.mark.parametrize("channel", [None, 1])
def test_scaled_images_are_read_in_real_units(tmp_path, channel):
    stored = VOLUME if channel is None else np.stack([VOLUME * 0, VOLUME], axis=-1)
    path = save(tmp_path / "a.nii", stored, scale=0.25, offset=-3)
    volume, _ = read_volume(path, channel=channel)
    assert volume.dtype == np.float32
    assert np.allclose(volume, VOLUME * 0.25 - 3)


def test_one_volume_of_a_stack(tmp_path):
    stack = np.stack([VOLUME, VOLUME + 100], axis=-1)
    path = save(tmp_path / "a.nii.gz", stack)
    assert np.array_equal(read_volume(path, channel=1)[0], VOLUME + 100)
    with pytest.raises(DataError, match=r"shape \(4, 5, 6, 2\), four 3-D volumes"):
        read_volume(path, channel=2)
    with pytest.raises(DataError, match="one 3-D volume was expected"):
        read_volume(path)
    with pytest.raises(DataError, match="four 3-D volumes"):
        read_volume(save(tmp_path / "b.nii.gz", VOLUME), channel=0)


def test_trailing_axes_of_one_are_no_axes(tmp_path):
    assert np.array_equal(read_volume(save(tmp_path / "a.nii.gz", VOLUME[..., None, None]))[0], VOLUME)


def test_big_endian_and_nifti_2_read_the_same(tmp_path):
    big = nib.Nifti1Image(VOLUME, LPS, nib.Nifti1Header(endianness=">"))
    big.set_data_dtype(">i2")
    big.to_filename(tmp_path / "big.nii")
    for path in (tmp_path / "big.nii", save(tmp_path / "two.nii.gz", VOLUME, kind=nib.Nifti2Image)):
        volume, affine = read_volume(path)
        assert volume.dtype == np.dtype("=i2")
        assert np.array_equal(volume, VOLUME)
        assert np.allclose(affine, LPS)


def test_header_extensions_do_not_shift_the_voxels(tmp_path):
    image = nib.Nifti1Image(VOLUME, LPS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    image.to_filename(tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz")[0], VOLUME)


def broken(kind: str, path):
    """Write one kind of broken file; returns the path."""
    noise = np.random.default_rng(0).integers(0, 30000, (20, 20, 20)).astype(np.int16)
    whole = write_volume(path.with_name("whole.nii.gz"), noise, LPS).read_bytes()
    plain = gzip.decompress(whole)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    content = {
        "truncated": whole[: len(whole) // 2],
        "truncated in its header": whole[:50],
        "damaged": bytes(flipped),
        "truncated without compression": plain[: len(plain) // 2],
        "empty": b"",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "not gzip": plain,
        "gzip": whole,
        "text": b"<html>404 not found</html>" * 50,
        "text in gzip": gzip.compress(b"<html>404 not found</html>" * 50),
    }
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("truncated", "a.nii.gz", "is truncated or damaged"),
        ("truncated in its header", "a.nii.gz", "cannot be read as NIfTI"),
        ("damaged", "a.nii.gz", "is truncated or damaged"),
        ("truncated without compression", "a.nii", "is truncated or damaged"),
        ("empty", "a.nii.gz", "is empty"),
        ("lfs", "a.nii.gz", "is a Git LFS pointer, not the image; run `git lfs pull`"),
        ("not gzip", "a.nii.gz", r"not gzip-compressed; rename it to \.nii"),
        ("gzip", "a.nii", r"is gzip-compressed; rename it to a\.nii\.gz"),
        ("text", "a.nii", "cannot be read as NIfTI"),
        ("text in gzip", "a.nii.gz", "cannot be read as NIfTI"),
    ],
)
def test_broken_files_are_one_sentence_with_the_file(tmp_path, kind, name, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        read_volume(broken(kind, tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_other_formats_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_volume(tmp_path / "none.nii.gz")
    nib.MGHImage(VOLUME.astype(np.float32), LPS).to_filename(tmp_path / "a.mgz")
    with pytest.raises(DataError, match="not a NIfTI file by its name; convert it: mri_convert"):
        open_volume(tmp_path / "a.mgz")


@needs_edge
def test_odd_real_files_that_are_right():
    folder = EDGE / "nifti-reader-js"
    plain, affine = read_volume(folder / "avg152T1_LR_nifti.nii")
    assert plain.shape == (91, 109, 91)
    for name in ("avg152T1_LR_nifti.nii.gz", "avg152T1_LR_nifti2.nii.gz"):
        volume, other = read_volume(folder / name)
        assert np.allclose(volume, plain)
        assert np.allclose(affine, other)
    for name in ("big", "little", "with_extension"):
        path = folder / f"{name}.nii.gz"
        expected = np.asanyarray(nib.load(path).dataobj)
        stacked = expected.ndim == 4
        volume, _ = read_volume(path, channel=0 if stacked else None)
        assert volume.dtype.isnative
        assert np.array_equal(volume, expected[..., 0] if stacked else expected)


@needs_edge
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nifti-reader-js/5D_zeros.nii.gz", "one 3-D volume was expected"),
        ("nifti-reader-js/5D_small.nii", "one 3-D volume was expected"),
        ("nifti-reader-js/not-nifti.nii", "cannot be read as NIfTI"),
        ("lfs_pointers/images/liver_0.nii.gz", "Git LFS pointer"),
        ("lfs_pointers/labels/liver_0.nii.gz", "Git LFS pointer"),
    ],
)
def test_odd_real_files_that_are_refused(name, sentence):
    with pytest.raises(DataError, match=sentence):
        read_label_values(EDGE / name)


def test_an_error_has_a_problem_and_a_remedy_that_travel_between_processes():
    error = pickle.loads(pickle.dumps(DataError("a; b is wrong", "mend it")))
    assert (error.problem, error.remedy, str(error)) == ("a; b is wrong", "mend it", "a; b is wrong; mend it")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 16 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("no such file in memory"), False),
    ],
)
def test_errors_that_say_that_memory_ran_out_are_known(error, expected):
    assert out_of_memory(error) is expected


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with write_atomically(path, durable=True) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path):
    def write(number):
        with write_atomically(tmp_path / "file") as temporary:
            temporary.write_text(str(number) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set((tmp_path / "file").read_text())) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_target_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        require_writable(tmp_path / "file" / "below")
    with pytest.raises(DataError, match="is a file, not a folder"):
        require_writable(tmp_path / "file")
    assert require_writable(tmp_path / "new") == tmp_path / "new"
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("dtype", ["bool", "float16"])
def test_a_number_type_that_nifti_does_not_have_is_one_sentence(tmp_path, dtype):
    with pytest.raises(DataError, match=f"cannot hold {dtype}, which NIfTI does not have; write uint8 or float32"):
        write_volume(tmp_path / "a.nii.gz", VOLUME.astype(dtype), LPS)
    assert not list(tmp_path.iterdir())
