"""Digital glioma phantoms: four-contrast MRI cases with a known tumour, made from real anatomy and a random number.

`make_phantom` makes cases calibrated on patients, `draw_random_phantom` randomised ones for training, `write_cohort` files in
the folders of BraTS 2021. `glioma_phantom.slices` cuts slices from them, and `glioma_phantom.abdomen` draws a CT with thirteen
organs. Research and teaching only: a phantom is drawn, not simulated from tumour biology or scanner physics.
"""

from glioma_phantom.files import write_cohort, write_phantom
from glioma_phantom.generator import Phantom, PhantomSettings, Randomisation, draw_random_phantom, make_phantom

__all__ = [
    "Phantom",
    "PhantomSettings",
    "Randomisation",
    "draw_random_phantom",
    "make_phantom",
    "write_cohort",
    "write_phantom",
]
