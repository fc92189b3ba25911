"""The thirteen organs of BTCV (Landman et al. 2015, doi:10.7303/syn3193805): numbers, names, colours, and the task."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.models.networks import Task

BACKGROUND = "background"

ORGANS: tuple[str, ...] = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "oesophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
"""In the order of their numbers in the label maps, from 1."""

COLOURS: tuple[str, ...] = (
    "#8c564b",
    "#e69f00",
    "#f0c430",
    "#009e73",
    "#cc79a7",
    "#b5523b",
    "#7fb7e6",
    "#d62728",
    "#0072b2",
    "#6a51a3",
    "#f0e442",
    "#00c2c7",
    "#66e0a3",
)
"""Of the organs; left and right resemble each other, arteries are red and veins blue."""

NUMBERS: dict[str, int] = {name: number for number, name in enumerate(ORGANS, start=1)}


def ct_task(organs: Sequence[str] = ORGANS) -> Task:
    """One CT in; the background and every organ out, of which each voxel is exactly one.

    Parameters
    ----------
    organs : sequence of str
        Names of the labels 1, 2, ... of a cohort, see `helpers.extras.ct.cohort.CtCohort.organs`.
    """
    return Task("abdominal CT", ("ct",), (BACKGROUND, *organs), "softmax")
