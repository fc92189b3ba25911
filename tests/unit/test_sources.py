"""Training on cases that are not prepared files, for tasks with other channels, dimensions and activations."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from monai.losses import DiceFocalLoss

from helpers.evaluation.metrics import dice
from helpers.models.checkpoints import load_checkpoint
from helpers.models.networks import Task
from helpers.training.before.loss import segmentation_loss
from helpers.training.before.settings import TrainSettings
from helpers.training.before.source import PatchSource, ValidationSource
from helpers.training.before.train import train
from helpers.workspace import DataError

SQUARES = Task("squares", ("a", "b"), ("square",))
CLASSES = Task("classes", ("a", "b"), ("background", "square"), "softmax")


@dataclass(frozen=True)
class Squares:
    """Pictures of two channels with a bright square somewhere, in training or to be scored."""

    count: int
    seed: int
    task: Task
    fingerprint: str = "squares"
    identifiers: tuple[str, ...] = ("one",)
    spacing: tuple[float, ...] = (1.0, 1.0)

    @property
    def preprocessing(self):
        return {"spacing": self.spacing, "normalise": "none"}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = np.random.default_rng((self.seed, index))
        row, column = generator.integers(2, 18, 2)
        mask = np.zeros((32, 32), bool)
        mask[row : row + 12, column : column + 12] = True
        image = generator.normal(0, 0.2, (2, 32, 32)) + 2 * mask
        channels = [~mask, mask] if self.task.activation == "softmax" else [mask]
        return {"image": torch.from_numpy(image).float(), "regions": torch.from_numpy(np.stack(channels))}

    def score(self, network, index):
        item = self[index]
        with torch.inference_mode():
            logits = network(item["image"][None])[0]
        predicted = logits.argmax(0, keepdim=True) == torch.arange(2)[:, None, None] if len(logits) > 1 else logits > 0
        return [dice(predicted[-1].numpy(), item["regions"][-1].numpy())], None  # the background is not scored


def settings(task, **changes):
    arguments = {"spatial_dims": 2, "in_channels": 2, "out_channels": len(task.regions), "channels": (4, 8), "num_res_units": 1}
    usual = {"arguments": arguments, "patch": (32, 32), "batch": 4, "steps": 30, "validate_every": 15, "learning_rate": 0.03}
    return TrainSettings(**{**usual, "loss": "dice+ce" if task is CLASSES else "dice+focal", **changes})


@pytest.mark.parametrize("task", [SQUARES, CLASSES], ids=lambda task: task.activation)
def test_a_network_of_another_task_learns_and_comes_back(task, tmp_path):
    training, validation = Squares(200, 1, task), Squares(3, 2, task, identifiers=("two",))
    assert isinstance(training, PatchSource) and isinstance(validation, ValidationSource)
    result = train(settings(task), training, validation=validation, out=tmp_path, task=task)
    assert result.best_dice > 0.8
    assert list(result.history.columns[4:]) == ["dice_square", "dice_mean"]
    network, card = load_checkpoint(result.checkpoint, glioma=False)
    assert (len(card.patch), card.training_cases, card.activation) == (2, ("one",), task.activation)
    scores = [np.mean(validation.score(network, number)[0]) for number in range(3)]
    assert np.mean(scores) == pytest.approx(result.best_dice)


def test_what_is_trained_on_is_not_validated_on(tmp_path):
    both = Squares(200, 1, SQUARES)
    with pytest.raises(DataError, match="one is in both"):
        train(settings(SQUARES), both, validation=both, out=tmp_path, task=SQUARES)


def test_a_loss_must_fit_the_activation():
    for name, activation in (("dice+bce", "softmax"), ("dice+focal", "softmax"), ("dice+ce", "sigmoid")):
        with pytest.raises(DataError, match=activation):
            segmentation_loss(name, activation)


def test_the_sums_of_losses_are_those_of_others():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8), (torch.rand(2, 3, 8, 8) > 0.6).float()
    monai = DiceFocalLoss(sigmoid=True, batch=True, gamma=2.0, smooth_nr=1e-5, smooth_dr=1e-5)
    assert segmentation_loss("dice+focal")(logits, target).item() == pytest.approx(monai(logits, target).item(), abs=1e-5)
    classes = torch.nn.functional.one_hot(torch.randint(3, (2, 8, 8)), 3).movedim(-1, 1)
    softmax = partial(segmentation_loss, activation="softmax")
    cross_entropy = softmax("dice+ce")(logits, classes) - softmax("dice")(logits, classes)
    assert cross_entropy.item() == pytest.approx(torch.nn.CrossEntropyLoss()(logits, classes.argmax(1)).item(), abs=1e-5)
