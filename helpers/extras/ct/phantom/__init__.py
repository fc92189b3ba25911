"""A phantom of abdominal CT with the thirteen organs of BTCV. Research and teaching only: it is drawn, not measured."""

from helpers.extras.ct.phantom.cohort import write_ct_phantoms
from helpers.extras.ct.phantom.generator import CtPhantom, CtPhantomSettings, make_ct_phantom

__all__ = ["CtPhantom", "CtPhantomSettings", "make_ct_phantom", "write_ct_phantoms"]
