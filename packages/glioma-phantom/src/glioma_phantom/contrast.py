"""How a brain and its tumour look on T1, T1ce, T2 and FLAIR.

Every number is an intensity relative to normal white matter. Means and spreads are those that `glioma_phantom.measure` finds in
five patients of BraTS 2021, with partial volume taken out of fluid.

With one intensity for all of a core, a network learns to tell core from oedema by intensity alone. On patients that fails: in
oedema around a small nodule T1 can be as low as in necrosis, a diffuse glioma differs hardly from the oedema around it, and a
necrotic core holds anything from clear fluid to clots. So the second half of this module (`CoreRanges`) draws cysts, solid
tissue that does not enhance, blood, and uneven oedema and enhancement. What is left to learn is where a class lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from glioma_phantom.anatomy import Anatomy, box_mean
from glioma_phantom.draws import Box, Draws, Range
from glioma_phantom.tumour import ED, ET, NCR, NON_ENHANCING, Tumour

MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Order of the channels of every image."""
T1_WEIGHTED = ("t1", "t1ce")
SPREAD = {"t1": (-0.05, -0.35), "t1ce": (-0.07, -0.5), "t2": (0.07, 0.2), "flair": (0.13, 0.7)}
"""How much white and grey matter, and fluid, vary within a calibrated brain: standard deviations as a share of the mean.

They are negative on T1, where more water is darker."""
UNEVEN: Range = (0.3, 0.7)
"""How much the contrast of a calibrated tumour's tissues varies: its standard deviation as a share of it."""
STRENGTH: dict[str, Range] = {"oedema": (0.3, 1.15), "enhancing": (0.3, 2.5)}
"""By what the contrast of a tissue is multiplied where it is uneven. Oedema hardly ever holds as much water as a core."""
MOTTLES: Range = (3.5, 9.0)
"""Size in mm of places without contrast agent in what enhances."""
ABRUPT: Range = (1.0, 5.0)
"""How abruptly they begin: from shades to holes."""
TAKEN_UP = 0.1
"""By how much T1 must brighten with contrast agent, relative to white matter, to be told from blood, bright already before."""

BLOOD = 1.1
"""From which T1 is too bright for tumour without blood in it."""


@dataclass(frozen=True)
class Look:
    """Intensities of one modality relative to white matter, and the standard deviation of its noise."""

    grey: float
    fluid: float
    necrosis: float
    oedema: float
    enhancing: float
    noise: float


@dataclass(frozen=True)
class Overlay:
    """Something drawn over the image: its share of every voxel, and its intensity relative to white matter by modality."""

    share: torch.Tensor  # (X, Y, Z), 0 to 1
    look: dict[str, float]


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
    white, grey, fluid = draws.field(box, 12.0, 3)
    local = Box((0, 0, 0), tuple(tumour.shares.shape[1:]), box.spacing)
    # Where a tissue hardly differed from normal, no rater would label it.
    water, agent = draws.field(local, 10.0, 2, strength=draws.within(UNEVEN)).clamp_(-0.6, 1.4)
    channels = []
    for modality in MODALITIES:
        look, (solid, wet) = looks[modality], SPREAD[modality]
        image = anatomy.white * (1 + solid * white) + look.grey * anatomy.grey * (1 + solid * grey)
        image += look.fluid * anatomy.fluid * (1 + wet * fluid).clamp_(min=0.2)
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
        necrosis, oedema, enhancing = tumour.shares
        image[tumour.part] += water * (necrosis * (look.necrosis - 1) + oedema * (look.oedema - 1))
        image[tumour.part] += agent * enhancing * (look.enhancing - 1)
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
    through: float = 0.4,
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


@dataclass(frozen=True)
class CoreRanges:
    """How cores and oedema differ from their average.

    Attributes
    ----------
    mixed : float
        Probability that a core holds cysts and solid tissue besides necrosis.
    bloody : float
        Probability of blood in it.
    clots : range
        How rare that is within the core, in standard deviations of a field.
    blood : range
        How bright it is on T1, relative to white matter.
    patches : range
        Size in mm over which these take turns.
    uneven : float
        Probability that oedema holds more water in some places than in others; the same for contrast agent in what enhances.
    mottled : float
        Probability that what enhances holds small places of solid tissue or fluid with little or no contrast agent.
    pale_edge : range
        Share of its contrast agent that what enhances lacks where it meets other tissue.
    outline : range
        How bright on T1ce core must be, relative to white matter, to be labelled as enhancing.
    dark_oedema : float
        Probability that oedema around an enhancing tumour is nearly as dark as necrosis on T1.
    alike : float
        Probability that a core that does not enhance looks nearly like its oedema.
    faint : float
        Probability, in tumours that do not enhance, that both hardly differ from normal tissue.
    """

    mixed: float = 0.6
    bloody: float = 0.2
    clots: Range = (0.8, 1.8)
    blood: Range = (0.8, 1.8)
    patches: Range = (5.0, 16.0)
    uneven: float = 0.6
    mottled: float = 0.5
    pale_edge: Range = (0.0, 0.6)
    outline: Range = (1.03, 1.2)
    dark_oedema: float = 0.5
    alike: float = 0.45
    faint: float = 0.4


def vary_looks(draws: Draws, looks: dict[str, Look], kind: int, ranges: CoreRanges) -> dict[str, Look]:
    """Bring core and oedema closer together, as they are in some patients."""
    if kind != NON_ENHANCING:
        if not draws.chance(ranges.dark_oedema):
            return looks
        toward = draws.uniform(0.4, 1.1)
        dark = {name: look.oedema + toward * (look.necrosis - look.oedema) for name, look in looks.items()}
        return {name: replace(look, oedema=dark[name]) if name in T1_WEIGHTED else look for name, look in looks.items()}
    if draws.chance(ranges.alike):
        toward = draws.uniform(0.5, 1.05)
        alike = {name: look.necrosis + toward * (look.oedema - look.necrosis) for name, look in looks.items()}
        looks = {name: replace(look, necrosis=alike[name]) for name, look in looks.items()}
    if draws.chance(ranges.faint):
        share = draws.uniform(0.25, 0.9)
        looks = {
            name: replace(look, necrosis=1 + share * (look.necrosis - 1), oedema=1 + share * (look.oedema - 1))
            for name, look in looks.items()
        }
    return looks


def draw_core(draws: Draws, tumour: Tumour, looks: dict[str, Look], spacing: float, ranges: CoreRanges) -> list[Overlay]:
    """What differs from the average, as shares of every voxel of the tumour's part of the box."""
    necrosis, oedema, enhancing = tumour.shares
    box = Box((0, 0, 0), tuple(necrosis.shape), spacing)
    stuff = []
    for share, name in ((oedema, "oedema"), (enhancing, "enhancing")):
        if draws.chance(ranges.uneven):
            places = torch.sigmoid((draws.field(box, draws.within(ranges.patches))[0] - draws.uniform(-0.5, 1.0)) * 4)
            stuff.append(Overlay(places * share, _stronger(looks, name, draws.within(STRENGTH[name]))))
    before = {name: look.enhancing for name, look in looks.items()} | {"t1ce": looks["t1"].enhancing}
    stuff.append(Overlay(draws.within(ranges.pale_edge) * _edge(enhancing) * enhancing, before))
    if draws.chance(ranges.mottled):
        holes = torch.sigmoid((draws.field(box, draws.within(MOTTLES))[0] - draws.uniform(-0.3, 1.0)) * draws.within(ABRUPT))
        wet = draws.uniform(0.0, 1.0)
        inside = {name: value + wet * (looks[name].necrosis - value) for name, value in before.items()}
        stuff.append(Overlay(draws.uniform(0.5, 1.0) * holes * enhancing, inside))
    if tumour.kind != NON_ENHANCING and draws.chance(ranges.mixed):
        scale = draws.within(ranges.patches)
        cyst, solid = (torch.sigmoid((field - draws.uniform(-0.3, 1.5)) * 5) * necrosis for field in draws.field(box, scale, 2))
        stuff += [Overlay(solid, _solid(draws, looks)), Overlay(cyst, _cyst(draws, looks))]
    if draws.chance(ranges.bloody):
        clots = torch.sigmoid((draws.field(box, draws.within(ranges.patches))[0] - draws.within(ranges.clots)) * 5)
        stuff.append(Overlay(clots * (necrosis + enhancing), _blood(draws, ranges.blood)))
    return stuff


def label_enhancement(
    draws: Draws,
    tumour: Tumour,
    looks: dict[str, Look],
    t1: torch.Tensor,
    t1ce: torch.Tensor,
    spacing: float,
    ranges: CoreRanges,
) -> torch.Tensor:
    """Label as enhancing what raters label so: core brighter on T1ce than on T1 and than normal white matter.

    That is the definition in the protocol of BraTS (Baid et al. 2021, arXiv:2107.02314), and patients' labels follow the
    brightness of single voxels. If enhancement is so weak that white matter is brighter, the limit lies halfway between what
    enhances and what does not.

    Parameters
    ----------
    tumour : Tumour
        As it was drawn.
    looks : dict
        Contrasts of the examination.
    t1, t1ce : float32 tensors
        In the tumour's part of the box, relative to white matter, before they are scanned.
    spacing : float
        Voxel edge in mm.
    ranges : CoreRanges
        Of which `outline` is drawn from.

    Returns
    -------
    uint8 tensor
        Classes. What is too dim to enhance becomes what there is more of within 2 mm, core or oedema; core if neither.
    """
    look = looks["t1ce"]
    limit = min(draws.within(ranges.outline) * max(1.0, look.grey), (look.necrosis + look.enhancing) / 2)
    bright = (t1ce > limit) & ((t1 < BLOOD) | (t1ce - t1 > TAKEN_UP))
    width = 2 * round(2 / spacing) + 1
    necrosis, oedema = box_mean(tumour.shares[:2], width)
    dim = torch.where(oedema > necrosis, ED, NCR).to(torch.uint8)
    was = tumour.classes
    classes = torch.where((was == ET) & ~bright, dim, was)
    return torch.where((was == NCR) & bright & (t1ce - t1 > TAKEN_UP), ET, classes).to(torch.uint8)


def _edge(share: torch.Tensor) -> torch.Tensor:
    """0 inside a tissue (X, Y, Z), rising to 1 where it is thinner than three voxels or meets others."""
    return (2 - 2 * box_mean(share, 3)).clamp_(0, 1)


def _stronger(looks: dict[str, Look], tissue: str, factor: float) -> dict[str, float]:
    """The same tissue, differing from white matter by a multiple of what it did."""
    return {name: 1 + factor * (getattr(look, tissue) - 1) for name, look in looks.items()}


def _solid(draws: Draws, looks: dict[str, Look]) -> dict[str, float]:
    """Tumour that takes up no contrast agent: between grey matter and oedema."""
    share = draws.uniform(0.0, 1.1)
    return {name: look.grey + share * (look.oedema - look.grey) for name, look in looks.items()}


def _cyst(draws: Draws, looks: dict[str, Look]) -> dict[str, float]:
    """Fluid with more or less protein in it, which FLAIR suppresses less."""
    share = draws.uniform(0.4, 1.0)
    values = {name: look.necrosis + share * (look.fluid - look.necrosis) for name, look in looks.items()}
    return values | {"flair": draws.uniform(0.5, 1.8)}


def _blood(draws: Draws, brightness: Range) -> dict[str, float]:
    """Of any age: bright on T1 before contrast agent already, on T2 mostly dark."""
    t1 = draws.within(brightness)
    return {"t1": t1, "t1ce": t1 * draws.uniform(0.95, 1.1), "t2": draws.uniform(0.3, 1.8), "flair": draws.uniform(0.4, 1.8)}
