"""The two-step job from a YAML file: what a dry run says, what is refused, and that the command is one that runs."""

import shlex
import tempfile

import pytest
import yaml

from glioma_phantom.abdomen import CtPhantomSettings
from helpers import cli
from helpers.extras.ct.phantom import write_ct_phantoms
from helpers.extras.ct.pipeline import load_pipeline, plan
from helpers.models.checkpoints import load_card
from helpers.workspace import REPOSITORY, DataError

PIPELINE = REPOSITORY / "cloud" / "btcv.yml"


def changed(tmp_path, place, value):
    """The committed file with one field changed."""
    content = yaml.safe_load(PIPELINE.read_text())
    *folders, name = place.split(".")
    inner = content
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    path = tmp_path / "job.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_dry_run_names_both_steps_and_their_costs(capsys):
    assert cli.main(["ct", "--pipeline", str(PIPELINE)]) == 0
    said = capsys.readouterr().out
    made = plan(load_pipeline(PIPELINE))
    assert [step.step for step in made.steps] == ["download", "train"]
    assert said.index("1. download") < said.index("2. train") < said.index("USD expected")
    assert "torchrun --nproc-per-node 4 -m helpers ct" in said
    costs = made.costs
    assert costs.loc["train", "USD expected"] == pytest.approx(24 * costs.loc["train", "USD per hour"] * 0.4)
    assert costs.loc["train", "USD at most"] == pytest.approx(36 * costs.loc["train", "USD per hour"])
    assert costs.loc["total", "USD at most"] == pytest.approx(costs["USD at most"].iloc[:-1].sum())


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("train.ct.roi", [90, 96, 96], "multiples of 32"),
        ("train.settings.learning_rat", 1e-4, "learning_rat"),
        ("train.machine.procesess", 4, "procesess"),
        ("train.settings.batch", 6, "4 processes"),
        ("train.settings.device", "cpu", "device"),
        ("train.amp", "false", "true or false"),
        ("train.machine.hours", 99, "hours"),
        ("train.feature_size", 36, "feature_size"),
        ("download.source", "ftp://somewhere", "https"),
        ("train.output", "here", "s3://"),
        ("download", None, "download"),
    ],
)
def test_a_field_that_cannot_be_is_named_before_a_machine_is_paid(tmp_path, place, value, said):
    with pytest.raises(DataError, match=said) as error:
        load_pipeline(changed(tmp_path, place, value))
    assert "job.yml" in str(error.value)


def test_an_instance_without_a_price_is_named(tmp_path):
    with pytest.raises(DataError, match="unheard"):
        plan(load_pipeline(changed(tmp_path, "train.machine.instance", "ml.unheard.of")))


def test_the_command_of_the_plan_trains_as_sagemaker_starts_it(tmp_path, capsys, monkeypatch):
    write_ct_phantoms(tmp_path / "data", 2, CtPhantomSettings(spacing=(8, 8, 8), noise=0))
    (tmp_path / "data" / "dataset.json").unlink()
    content = yaml.safe_load(PIPELINE.read_text())["train"]
    content["machine"] |= {"processes": 1}
    content |= {"feature_size": 12, "checkpointing": False, "window_size": 4}
    content["ct"] |= {"roi": [64, 32, 32], "randcrop": [64, 32, 32]}
    content["ct"]["preparation"]["spacing"] = [10, 10, 10]
    content["settings"] |= {"batch": 1, "steps": 1, "workers": 0}
    made = plan(load_pipeline(changed(tmp_path, "train", content)))
    words = shlex.split(made.steps[1].command)
    assert words[:3] == ["python", "-m", "helpers"]
    monkeypatch.setenv("SM_CHANNEL_TRAINING", str(tmp_path / "data"))
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "out"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cli.main(words[3:]) == 0
    assert "best mean validation Dice" in capsys.readouterr().out
    assert len(load_card(tmp_path / "out" / "best.safetensors", glioma=False).regions) == 14
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 1, "all of this folder is uploaded"
    assert (tmp_path / "abdominal-ct" / "dataset.json").is_file()
