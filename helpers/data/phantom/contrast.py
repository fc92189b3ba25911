"""How a brain and its tumour look on T1, T1ce, T2 and FLAIR.

Every number is an intensity relative to normal white matter. Means and spreads are those that `helpers.data.calibration`
measures on the BraTS 2021 development cases, with partial volume taken out of fluid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from helpers.data.phantom.anatomy import Anatomy
from helpers.data.phantom.draws import Box, Draws
from helpers.data.phantom.tumour import NON_ENHANCING, Tumour
from helpers.regions import MODALITIES


@dataclass(frozen=True)
class Look:
    """Intensities of one modality relative to white matter, and the standard deviation of its noise."""

    grey: float
    fluid: float
    necrosis: float
    oedema: float
    enhancing: float
    noise: float


def draw_looks(draws: Draws, kind: int) -> dict[str, Look]:
    """Draw one examination's contrasts by modality.

    On T2 and FLAIR what varies most between protocols is how strongly the whole sequence is weighted, so one factor a
    sequence multiplies the difference of every tissue from white matter, and each tissue varies a little around that.
    """
    normal = draws.normal
    weighting = {"t2": 2.0 ** normal(0.0, 0.6), "flair": 2.0 ** normal(0.0, 0.35)}
    lower_grade = kind == NON_ENHANCING
    necrosis = normal(0.80 if lower_grade else 0.75, 0.06)
    flair_necrosis = normal(0.75, 0.15) if lower_grade else normal(0.62, 0.25)
    spread = {
        "t1": (normal(0.81, 0.035), normal(0.50, 0.07), necrosis, normal(0.87, 0.03), normal(0.87, 0.04)),
        "t1ce": (normal(0.83, 0.05), normal(0.48, 0.11), necrosis + normal(0.04, 0.04), normal(0.88, 0.04), normal(1.38, 0.14)),
        "t2": (normal(1.36, 0.05), normal(3.2, 0.3), normal(2.25, 0.3), normal(1.9, 0.15), normal(2.0, 0.15)),
        "flair": (normal(1.12, 0.03), normal(0.55, 0.1), 1 + flair_necrosis, normal(1.72, 0.08), normal(1.6, 0.12)),
    }
    noise = {"t1": normal(0.015, 0.003), "t1ce": normal(0.018, 0.004), "t2": normal(0.05, 0.012), "flair": normal(0.042, 0.008)}
    looks = {}
    for modality, values in spread.items():
        weight = weighting.get(modality, 1.0)
        # Fluid is suppressed on FLAIR by inversion, which no weighting undoes.
        fixed = modality == "flair"
        weighted = [1 + weight * (value - 1) if value > 1 or not fixed else value for value in values]
        looks[modality] = Look(*weighted, noise[modality])
    return looks


def draw_image(draws: Draws, anatomy: Anatomy, tumour: Tumour, box: Box) -> torch.Tensor:
    """Render the four modalities.

    Returns
    -------
    float32 tensor (4, X, Y, Z)
        Relative to white matter (about 1), channels in the order of `MODALITIES`.
    """
    looks = draw_looks(draws, tumour.kind)
    vessels, sinus, choroid = draw_vessels(draws, anatomy, box)
    rim = anatomy.ventricles * anatomy.white * draws.uniform(0.1, 0.5)  # the bright border of ventricles on FLAIR
    texture = draws.field(box, 3.2) + draws.field(box, 10.0, strength=0.5)
    channels = []
    for modality in MODALITIES:
        look = looks[modality]
        image = anatomy.white + look.grey * anatomy.grey + look.fluid * anatomy.fluid
        if modality in ("t1", "t1ce"):
            image.add_(anatomy.detail, alpha=0.25)
        if modality == "t1ce":
            image += (0.9 * vessels + 1.1 * sinus + 0.6 * choroid) * look.enhancing
        elif modality == "t2":
            image *= 1 - 0.55 * (vessels + sinus).clamp(max=1)
        elif modality == "flair":
            image += rim + 0.5 * choroid * anatomy.fluid
        image.add_(texture[0], alpha=0.012)
        mix_tumour(image[tumour.part], look, tumour, anatomy, texture[0][tumour.part])
        image *= draws.field(box, 75.0, strength=draws.uniform(0.03, 0.12), exponential=True)[0]
        channels.append(rician(draws, image, look.noise))
    return torch.stack(channels)


def mix_tumour(
    image: torch.Tensor,
    look: Look,
    tumour: Tumour,
    anatomy: Anatomy,
    texture: torch.Tensor,
    *,
    grain: float = 1.0,
    through: float = 0.15,
) -> None:
    """Mix the tumour's intensities into the healthy image, in place, by each class's share of the voxel.

    `texture` is a field in the tumour's part of the box; `grain` multiplies how strongly it shows. `through` is the share of
    the contrast between grey and white matter that is left in oedema.
    """
    necrosis, oedema, enhancing = tumour.shares
    image *= 1 - tumour.shares.sum(dim=0)
    # Oedema is swollen tissue: what was grey or white before still shows through it.
    below = (anatomy.grey[tumour.part] - anatomy.white[tumour.part]) * (through * (look.grey - 1))
    image += oedema * (look.oedema * (1 + 0.05 * grain * texture) + below)
    image += necrosis * look.necrosis * (1 + 0.06 * grain * texture.flip(0))
    image += enhancing * look.enhancing * (1 + 0.09 * grain * texture)


def draw_vessels(draws: Draws, anatomy: Anatomy, box: Box) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vessels, the superior sagittal sinus and the choroid plexus, each 0 to 1: what enhances without being tumour."""
    first, second = draws.field(box, 20.0, 2)
    # Two random surfaces cross in curves: tubes about 2 mm wide, most of them kept to sulci and fissures.
    tubes = torch.exp((first.square() + second.square()).mul_(-1 / (2 * 0.12**2)))
    vessels = tubes * (0.25 + anatomy.fluid) * draws.uniform(0.3, 0.9)
    upper = torch.sigmoid((anatomy.height - 10) / 4) + torch.sigmoid((-anatomy.front - 60) / 4)
    sinus = torch.exp(-(anatomy.midline / 3).square() - (anatomy.depth / 0.35).square()) * upper.clamp_(max=1)
    posterior = torch.sigmoid((-anatomy.front - 5) / 6)
    choroid = anatomy.ventricles * anatomy.fluid * posterior * torch.sigmoid((draws.field(box, 6.0)[0] - 1.0) * 6)
    return vessels, sinus * draws.uniform(0.3, 1.0), choroid * draws.uniform(0.2, 0.9)


def rician(draws: Draws, image: torch.Tensor, deviation: float) -> torch.Tensor:
    """Magnitude of a signal with noise in both quadrature channels (Gudbjartsson and Patz, 1995).

    The noise is averaged over neighbours, as registration to a common grid does to it.
    """
    real, imaginary = (_averaged(draws.noise(tuple(image.shape))).mul_(deviation) for _ in range(2))
    return real.add_(image).square_().add_(imaginary.square_()).sqrt_()


def _averaged(noise: torch.Tensor) -> torch.Tensor:
    for axis in range(3):
        head, tail = noise.narrow(axis, 0, noise.shape[axis] - 1), noise.narrow(axis, 1, noise.shape[axis] - 1)
        noise = torch.cat([(head + tail) * 0.5**0.5, noise.narrow(axis, noise.shape[axis] - 1, 1)], dim=axis)
    return noise
