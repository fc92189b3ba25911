"""Benchmarks: what was measured is kept, and wrong options cost no work."""

import sys

import pandas as pd
import pytest

from benchmarks import ablation, missing_modality, own_scan, released_model
from brats_cohort.testing import write_case


def call(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_an_ablation_keeps_the_scores_of_every_variant_and_has_the_baseline(monkeypatch, tmp_path, capsys):
    def scored(settings, manifest, files, fold):
        if not settings.augment:
            raise KeyboardInterrupt
        rows = [{"case": name, "patient": name, "region": "WT", "dice": 0.5} for name in manifest.part("val", fold=fold)]
        return pd.DataFrame(rows)

    for number in range(8):
        write_case(tmp_path / "cohort", f"Case_{number}", seed=number)
    monkeypatch.setattr(ablation, "_train_and_score", scored)
    table = tmp_path / "new" / "scores.csv"
    words = ["--cohort", tmp_path / "cohort", "--workers", 1, "--csv", table, "--variants", "Dice alone"]
    call(monkeypatch, ablation, *words)
    assert "as it is" in capsys.readouterr().out.partition("Dice, WT")[2]
    table.unlink()
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, ablation, *words, "without")
    assert set(pd.read_csv(table)["variant"]) == {"as it is", "Dice alone"}


def test_sessions_that_all_fail_have_a_summary():
    assert own_scan.summary([{"session": 0, "failed": "the FLAIR shows a part of the head"}]) == "0 of 1 prepared"


@pytest.mark.parametrize("module", [missing_modality, released_model], ids=lambda module: module.__name__)
def test_a_benchmark_with_nothing_to_measure_is_an_error_of_usage(monkeypatch, capsys, module):
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, module)
    assert "give --phantoms, --cases or both" in capsys.readouterr().err
