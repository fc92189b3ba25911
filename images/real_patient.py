"""Draw images/real_patient.png: ``python images/real_patient.py FOLDER_OF_A_CASE`` (BraTS 2021 names, with its reference)."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from brats_cohort.cases import discover
from brats_cohort.regions import CLASS_COLOURS, CLASS_NAMES
from helpers.evaluation.predict import predict_case
from helpers.models.checkpoints import load_released


def radiological(image: nib.Nifti1Image) -> np.ndarray:
    """Turn the voxels so that the patient's right is first, and drawn on the left."""
    return np.asanyarray(nib.as_closest_canonical(image).dataobj)[::-1]


def main(folder: Path) -> None:
    """Segment the case, and draw the slice with most tumour in its reference."""
    [case] = discover(folder)
    prediction = predict_case(*load_released(), case)
    t1ce, flair = (radiological(nib.load(case.images[name].path)) for name in ("t1ce", "flair"))
    reference = radiological(nib.load(case.label))
    reference = np.where(reference == 4, 3, reference)
    predicted = radiological(nib.Nifti1Image(prediction.classes, prediction.affine))

    rows, columns = np.nonzero(t1ce.max(2))
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1), (reference > 0).sum((0, 1)).argmax()
    colours = ListedColormap(list(CLASS_COLOURS.values()))
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.4), layout="constrained", facecolor="black")
    panels = ("T1ce", t1ce, None), ("FLAIR", flair, None), ("reference", t1ce, reference), ("prediction", t1ce, predicted)
    for axis, (title, image, labels) in zip(axes, panels, strict=True):
        axis.imshow(image[box].T, origin="lower", cmap="gray", vmax=np.percentile(image[image > 0], 99.5))
        if labels is not None:
            shown = np.ma.masked_equal(labels[box].T, 0)
            axis.imshow(shown, origin="lower", cmap=colours, vmin=1, vmax=3, alpha=0.6, interpolation="none")
        axis.set_title(title, color="white")
        axis.axis("off")
    handles = [Patch(color=CLASS_COLOURS[number], label=name) for number, name in CLASS_NAMES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, labelcolor="white")
    figure.savefig("images/real_patient.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
