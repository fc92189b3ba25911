"""The random changes of training made on the device that computes, rather than where patches are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from helpers.training.before.datamodule import PatchDataset


class SeededPatches(PatchDataset):
    """Patches as they are, each with the ``seed`` of the random changes that it would have had."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **{**options, "transforms": _Seed()})

    def __getitem__(self, index: int) -> dict[str, object]:
        item = super().__getitem__(index)
        return {**item, "seed": self.transforms.seed}


def change_batches(
    batches: Iterable[Mapping[str, torch.Tensor]], transforms: Callable, device: str
) -> Iterator[dict[str, torch.Tensor]]:
    """Change every patch of the batches on a device, exactly as `helpers.data.patches.draw_patch` would have.

    Parameters
    ----------
    batches : iterable of mapping
        ``image`` (B, 4, X, Y, Z), ``regions`` (B, 3, X, Y, Z) and ``seed`` (B).
    transforms : callable
        As `helpers.data.patches.training_transforms` gives them. Their random numbers come from the CPU, so that they are the
        same on every device; noise is therefore still drawn there.
    device : str
    """
    for batch in batches:
        changed = [
            _change(transforms, image.to(device, non_blocking=True), regions.to(device, non_blocking=True), int(seed))
            for image, regions, seed in zip(batch["image"], batch["regions"], batch["seed"].tolist(), strict=True)
        ]
        yield {name: torch.stack(parts) for name, parts in zip(("image", "regions"), zip(*changed, strict=True), strict=True)}


def _change(transforms: Callable, image: torch.Tensor, regions: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    transforms.set_random_state(seed=seed)
    changed = transforms({"image": image, "label": regions})
    image, regions = (torch.as_tensor(changed[key]) for key in ("image", "label"))
    return tuple(tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor for tensor in (image, regions))


class _Seed:
    """Changes nothing and remembers the seed that it was given."""

    seed = 0

    def set_random_state(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, sample: object) -> object:
        return sample
