"""The digital glioma phantom: four-contrast cases with a known tumour, made from real anatomy and written like BraTS.

Research and teaching only: a phantom is drawn, not simulated from tumour biology or scanner physics.
"""

from helpers.data.phantom.cohort import write_cohort, write_phantom
from helpers.data.phantom.generator import Phantom, PhantomSettings, make_phantom
from helpers.data.phantom.randomised import Randomisation, draw_random_phantom

__all__ = [
    "Phantom",
    "PhantomSettings",
    "Randomisation",
    "draw_random_phantom",
    "make_phantom",
    "write_cohort",
    "write_phantom",
]
