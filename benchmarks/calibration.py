"""Compare phantoms with real examinations: ``python benchmarks/calibration.py [--data BRATS_FOLDER --write]``.

With --data the real cases of that folder are measured, otherwise the numbers in glioma_phantom/reference_statistics.json are
taken; --write replaces those numbers by the newly measured ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

import glioma_phantom
from brats_cohort.cases import discover, read_classes, read_image
from glioma_phantom import make_phantom
from glioma_phantom.measure import measure, reference_statistics

STATISTICS = Path(glioma_phantom.__file__).with_name("reference_statistics.json")


def measure_real(folder: Path) -> pd.DataFrame:
    """`measure` of every complete case of a BraTS cohort, one row a case."""
    rows = []
    for case in discover(folder):
        if not case.missing and case.label:
            facts = measure(read_image(case)[0], read_classes(case)[0])
            rows.append({"identifier": case.identifier, **{name: round(value, 4) for name, value in facts.items()}})
    return pd.DataFrame(rows).set_index("identifier")


def main() -> None:
    """Measure, print the table, write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of complete 1 mm BraTS cases")
    parser.add_argument("--count", type=int, default=24, help="how many phantoms to measure")
    parser.add_argument("--write", action="store_true", help="keep the newly measured real numbers")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    real = measure_real(arguments.data) if arguments.data else reference_statistics()
    if arguments.data and arguments.write:
        source = json.loads(STATISTICS.read_text())["source"]
        STATISTICS.write_text(json.dumps({"source": source, "cases": real.reset_index().to_dict("records")}, indent=1) + "\n")
    made = (make_phantom(index) for index in range(arguments.count))
    phantoms = pd.DataFrame([measure(phantom.image, phantom.classes) for phantom in made])[real.columns]
    table = pd.DataFrame(
        {
            "real low": real.min(),
            "real median": real.median(),
            "real high": real.max(),
            "phantom 5 %": phantoms.quantile(0.05),
            "phantom median": phantoms.median(),
            "phantom 95 %": phantoms.quantile(0.95),
        }
    )
    table["real median inside"] = table["real median"].between(table["phantom 5 %"], table["phantom 95 %"])
    print(table.round(3).to_string())
    print(f"{len(real)} real cases, {len(phantoms)} phantoms; intensities relative to normal white matter")


if __name__ == "__main__":
    main()
