"""Write a cohort of glioma phantoms as BraTS 2021 has its cases."""

import argparse
from pathlib import Path

from glioma_phantom import PhantomSettings, write_cohort

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m glioma_phantom", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10, help="how many cases")
    parser.add_argument("--spacing", type=float, choices=(1.0, 2.0, 4.0), default=1.0, help="voxel edge in mm")
    parser.add_argument("--seed", type=int, default=2021)
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one for each core")
    given = parser.parse_args()
    try:
        write_cohort(given.folder, given.count, PhantomSettings(given.spacing, given.seed), workers=given.workers)
    except (OSError, ValueError) as error:
        parser.error(str(error))
