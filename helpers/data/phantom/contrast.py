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
    """Intensities of one modality relative to white matter, and its noise (standard deviation)."""

    grey: float
    fluid: float
    necrosis: float
    oedema: float
    enhancing: float
    noise: float


def draw_looks(draws: Draws, kind: int) -> dict[str, Look]:
    """Draw the scanner's contrasts: how strongly each sequence is weighted, then each tissue around that."""
    normal = draws.normal
    weight = 2.0 ** normal(0.0, 0.55)  # T2 weighting varies most between protocols: fluid at 1.9 to 5.8 times white matter
    bright = 2.0 ** normal(0.0, 0.4)
    lower_grade = kind == NON_ENHANCING
    t1_necrosis = normal(0.80 if lower_grade else 0.72, 0.06)
    flair_necrosis = normal(0.62, 0.18) if lower_grade else normal(0.42, 0.28)
    return {
        "t1": Look(
            normal(0.81, 0.035), normal(0.42, 0.06), t1_necrosis, normal(0.87, 0.03), normal(0.87, 0.04), normal(0.017, 0.003)
        ),
        "t1ce": Look(
            normal(0.84, 0.05),
            normal(0.42, 0.08),
            t1_necrosis + normal(0.03, 0.04),
            normal(0.89, 0.045),
            normal(1.38, 0.14),
            normal(0.02, 0.004),
        ),
        "t2": Look(
            1 + weight * normal(0.34, 0.05),
            1 + weight * normal(2.6, 0.3),
            1 + weight * normal(1.35, 0.3),
            1 + weight * normal(0.85, 0.15),
            1 + weight * normal(0.95, 0.15),
            normal(0.05, 0.012),
        ),
        "flair": Look(
            1 + bright * normal(0.09, 0.03),
            normal(0.42, 0.09),
            1 + bright * flair_necrosis,
            1 + bright * normal(0.58, 0.08),
            1 + bright * normal(0.52, 0.12),
            normal(0.042, 0.008),
        ),
    }


def draw_image(draws: Draws, anatomy: Anatomy, tumour: Tumour, box: Box) -> torch.Tensor:
    """Render the four modalities.

    Returns
    -------
    float32 tensor (4, X, Y, Z)
        Relative to white matter (about 1), channels in the order of `MODALITIES`.
    """
    looks = draw_looks(draws, tumour.kind)
    vessels, sinus, choroid = _vessels(draws, anatomy, box)
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
        _draw_tumour(image[tumour.part], look, tumour, anatomy, texture[0][tumour.part])
        image *= draws.field(box, 75.0, strength=draws.uniform(0.03, 0.12), exponential=True)[0]
        channels.append(_rician(draws, image, look.noise))
    return torch.stack(channels)


def _draw_tumour(image: torch.Tensor, look: Look, tumour: Tumour, anatomy: Anatomy, texture: torch.Tensor) -> None:
    """Mix the tumour's intensities into the healthy image, in place, by each class's share of the voxel."""
    necrosis, oedema, enhancing = tumour.shares
    image *= 1 - tumour.shares.sum(dim=0)
    # Oedema is swollen tissue: what was grey or white before still shows through it.
    below = (anatomy.grey[tumour.part] - anatomy.white[tumour.part]) * (0.15 * (look.grey - 1))
    image += oedema * (look.oedema * (1 + 0.05 * texture) + below)
    image += necrosis * look.necrosis * (1 + 0.06 * texture.flip(0))
    image += enhancing * look.enhancing * (1 + 0.09 * texture)


def _vessels(draws: Draws, anatomy: Anatomy, box: Box) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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


def _rician(draws: Draws, image: torch.Tensor, deviation: float) -> torch.Tensor:
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
