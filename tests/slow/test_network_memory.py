"""The memory that a training takes is measured in a process of its own. Budget: 15 seconds on a calm machine."""

import pytest

from helpers.cli.networks import peak_training_memory
from helpers.workspace import DataError


def test_measured_memory_holds_at_least_what_must_be_kept():
    arguments = {"spatial_dims": 2, "channels": (16, 32)}
    peak = peak_training_memory("unet", patch=(512, 512), batch=4, arguments=arguments)
    maps = 4 * (16 + 3) * 4 * 512 * 512  # float32 feature maps of the first level and logits alone
    assert maps / 2 < peak < 100 * maps
    with pytest.raises(DataError, match="multiples of"):
        peak_training_memory("unet", patch=(511, 512), batch=4, arguments=arguments)
