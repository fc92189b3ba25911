"""What tumours are made of besides their average: cysts, solid tissue that does not enhance, blood, uneven uptake and oedema.

With one intensity for all of a core, a network learns to tell core from oedema by intensity alone. On patients that fails: in
oedema around a small nodule T1 can be as low as in necrosis, a diffuse glioma differs hardly from the oedema around it, and a
necrotic core holds anything from clear fluid to clots. What is left to learn is where a class lies: oedema around what
enhances, core inside it, and core in the middle of a tumour that does not enhance at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from helpers.data.phantom.contrast import Look
from helpers.data.phantom.draws import Box, Draws, Range
from helpers.data.phantom.mimics import Stuff
from helpers.data.phantom.tumour import NON_ENHANCING, Tumour
from helpers.regions import ED, ET, NCR

T1_WEIGHTED = ("t1", "t1ce")
STRENGTH: dict[str, Range] = {"oedema": (0.3, 1.15), "enhancing": (0.3, 2.5)}
"""By what the contrast of a tissue is multiplied where it is uneven. Oedema hardly ever holds as much water as a core."""


MOTTLES: Range = (3.5, 9.0)
"""Size in mm of places without contrast agent in what enhances."""
ABRUPT: Range = (1.0, 5.0)
"""How abruptly they begin: from shades to holes."""
TAKEN_UP = 0.1
"""By how much T1 must brighten with contrast agent, relative to white matter, to be told from blood, bright already before."""


@dataclass(frozen=True)
class CoreRanges:
    """How cores and oedema differ from their average.

    Attributes
    ----------
    mixed : float
        Probability that a core holds cysts and solid tissue besides necrosis.
    bloody : float
        Probability of blood in it.
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


def draw_core(draws: Draws, tumour: Tumour, looks: dict[str, Look], spacing: float, ranges: CoreRanges) -> list[Stuff]:
    """What differs from the average, as shares of every voxel of the tumour's part of the box."""
    necrosis, oedema, enhancing = tumour.shares
    box = Box((0, 0, 0), tuple(necrosis.shape), spacing)
    stuff = []
    for share, name in ((oedema, "oedema"), (enhancing, "enhancing")):
        if draws.chance(ranges.uneven):
            places = torch.sigmoid((draws.field(box, draws.within(ranges.patches))[0] - draws.uniform(-0.5, 1.0)) * 4)
            stuff.append(Stuff(places * share, _stronger(looks, name, draws.within(STRENGTH[name]))))
    before = {name: look.enhancing for name, look in looks.items()} | {"t1ce": looks["t1"].enhancing}
    stuff.append(Stuff(draws.within(ranges.pale_edge) * _edge(enhancing) * enhancing, before))
    if draws.chance(ranges.mottled):
        holes = torch.sigmoid((draws.field(box, draws.within(MOTTLES))[0] - draws.uniform(-0.3, 1.0)) * draws.within(ABRUPT))
        wet = draws.uniform(0.0, 1.0)
        inside = {name: value + wet * (looks[name].necrosis - value) for name, value in before.items()}
        stuff.append(Stuff(draws.uniform(0.5, 1.0) * holes * enhancing, inside))
    if tumour.kind != NON_ENHANCING and draws.chance(ranges.mixed):
        scale = draws.within(ranges.patches)
        cyst, solid = (torch.sigmoid((field - draws.uniform(-0.3, 1.5)) * 5) * necrosis for field in draws.field(box, scale, 2))
        stuff += [Stuff(solid, _solid(draws, looks)), Stuff(cyst, _cyst(draws, looks))]
    if draws.chance(ranges.bloody):
        clots = torch.sigmoid((draws.field(box, draws.within(ranges.patches))[0] - draws.uniform(0.8, 1.8)) * 5)
        stuff.append(Stuff(clots * (necrosis + enhancing), _blood(draws)))
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
    brightness of single voxels. Where uptake is so weak that white matter is brighter, the limit lies halfway between what
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
    bright = t1ce > limit
    width = 2 * round(2 / spacing) + 1
    necrosis, oedema = F.avg_pool3d(tumour.shares[None, :2], width, stride=1, padding=width // 2)[0]
    dim = torch.where(oedema > necrosis, ED, NCR).to(torch.uint8)
    was = tumour.classes
    classes = torch.where((was == ET) & ~bright, dim, was)
    return torch.where((was == NCR) & bright & (t1ce - t1 > TAKEN_UP), ET, classes).to(torch.uint8)


def _edge(share: torch.Tensor) -> torch.Tensor:
    """0 inside a tissue (X, Y, Z), rising to 1 where it is thinner than three voxels or meets others."""
    return (2 - 2 * F.avg_pool3d(share[None, None], 3, stride=1, padding=1)[0, 0]).clamp_(0, 1)


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


def _blood(draws: Draws) -> dict[str, float]:
    """Of any age: bright on T1 before contrast agent already, on T2 mostly dark."""
    t1 = draws.uniform(0.8, 1.8)
    return {"t1": t1, "t1ce": t1 * draws.uniform(0.95, 1.1), "t2": draws.uniform(0.3, 1.8), "flair": draws.uniform(0.4, 1.8)}
