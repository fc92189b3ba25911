"""The ablation: every patient scored once a variant by a network that did not know them, effects on the same patients."""

import numpy as np
import pandas as pd
import pytest

from helpers.data.preprocess import PreprocessSettings, prepare_cohort
from helpers.data.splits import SplitManifest
from helpers.plots.results import show_effects
from helpers.training.before.ablation import (
    BASELINE,
    VARIANTS,
    Variant,
    ablation_table,
    run_ablation,
)
from helpers.training.before.settings import TrainSettings
from tests.cases import write_case

NAMES = tuple(f"Case_{number:03d}" for number in range(5))
MANIFEST = SplitManifest("brats2021", 0, NAMES[4:], (NAMES[:2], NAMES[2:4]), {name: name for name in NAMES})


def test_every_patient_outside_the_test_part_is_scored_once_a_variant(tmp_path):
    cases = [write_case(tmp_path / "cohort", name, seed=seed) for seed, name in enumerate(NAMES[:4])]
    recipe = {name: PreprocessSettings(spacing=2.0, normalise=name) for name in ("zscore", "minmax")}
    prepared = {name: prepare_cohort(cases, tmp_path / name, each, progress=False).paths for name, each in recipe.items()}
    settings = TrainSettings(arguments={"channels": (4, 8)}, patch=(16, 16, 16), steps=2, device="cpu")
    variants = {BASELINE: VARIANTS[BASELINE], "min-max": VARIANTS["min-max"], "more": Variant("steps", {"steps": 3})}
    lines = []
    scores = run_ablation(settings, MANIFEST, prepared, variants=variants, report=lines.append)
    for name in variants:
        rows = scores[scores["variant"] == name]
        assert sorted(rows["case"].unique()) == list(NAMES[:4])
        assert len(rows) == 12
        assert rows.groupby("fold")["checkpoint"].nunique().tolist() == [1, 1]
    assert scores["checkpoint"].nunique() == 6
    assert len(lines) == 3
    table = ablation_table(scores, variants=variants)
    assert table["question"].tolist() == ["", "normalisation", "steps"]
    assert table["p"].isna().all(), "four patients are too few for a test"


def test_effects_are_differences_on_the_same_patients_in_the_order_of_the_variants():
    generator = np.random.default_rng(0)
    base = np.linspace(0.3, 0.9, 12)
    rows = []
    for name, shift in (("without", 0.1), (BASELINE, 0.0), ("Dice alone", -0.05)):
        for number, value in enumerate(base + shift + generator.normal(0, 0.002, 12)):
            rows += [{"variant": name, "case": f"c{number}", "region": region, "dice": value} for region in ("TC", "ET")]
    table = ablation_table(pd.DataFrame(rows).sample(frac=1, random_state=1))
    assert table.index.tolist() == [BASELINE, "Dice alone", "without"]
    assert np.isnan(table.loc[BASELINE, "difference"])
    assert table.loc["without", "difference"] == pytest.approx(0.1, abs=0.005)
    assert table.loc["Dice alone", "high"] < 0 < table.loc["without", "low"]
    ax = show_effects(table)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["loss: Dice alone", "augmentation: without"]
