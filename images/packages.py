"""Rebuild the pictures in the READMEs of the packages: ``python images/packages.py``."""

import io
from pathlib import Path

import matplotlib.pyplot as plt

from glioma_phantom import PhantomSettings, draw_random_phantom, make_phantom
from slice_viewer import SliceViewer
from slice_viewer.slices import best_slice, show_slice, to_palette

PACKAGES = Path(__file__).parents[1] / "packages"
TITLES = ("T1", "T1ce", "T2", "FLAIR")


def draw_phantoms() -> bytes:
    """A calibrated and two randomised phantoms, all four channels with the label map on the last."""
    phantoms = {"calibrated": make_phantom(2, PhantomSettings(2.0))}
    phantoms |= {f"randomised, {number}": draw_random_phantom(2021, number) for number in (2, 4)}
    figure, axes = plt.subplots(len(phantoms), 5, figsize=(9.6, 6.6), layout="compressed")
    for row, (name, phantom) in zip(axes, phantoms.items(), strict=True):
        index = best_slice(phantom.classes, phantom.affine)
        labels = [None] * 4 + [phantom.classes]
        for ax, channel, classes in zip(row, (0, 1, 2, 3, 3), labels, strict=True):
            show_slice(phantom.image[channel], phantom.affine, index=index, classes=classes, marks=False, ax=ax)
        row[0].set_ylabel(name)
    for ax, title in zip(axes[0], (*TITLES, "labels"), strict=True):
        ax.set_title(title)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80)
    return to_palette(stream.getvalue())


def draw_viewer() -> bytes:
    """The still picture of a viewer."""
    phantom = make_phantom(2, PhantomSettings(2.0))
    names = {1: "core", 2: "oedema", 3: "enhancing tumour"}
    return SliceViewer(phantom.image, phantom.affine, labels=phantom.classes, names=names, titles=TITLES).still()


if __name__ == "__main__":
    for package, picture in (("glioma-phantom", draw_phantoms()), ("slice-viewer", draw_viewer())):
        path = PACKAGES / package / "images" / f"{package}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
