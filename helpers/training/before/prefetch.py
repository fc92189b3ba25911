"""Batches one ahead: while a step computes, a thread prepares the next batch and, for a GPU, copies it there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

Batch = Mapping[str, torch.Tensor]


class Prefetch(Iterator[Batch]):
    """The same batches in the same order, each prepared while the one before it is used.

    A thread, unlike a process of a DataLoader, starts at once and hands its tensors over without a copy; reading mapped files,
    decompression and most of torch and NumPy let other threads run meanwhile. It takes a core from computing where all of
    them compute.

    Parameters
    ----------
    batches : iterable of mapping from str to tensor
        Read by one thread only, from its first to its last batch.
    device : str or device
        On CUDA, batches are copied there from pinned memory on a stream of their own, so that the copy runs beside the
        kernels of the step; otherwise they stay as they are.
    """

    def __init__(self, batches: Iterable[Batch], *, device: str | torch.device = "cpu") -> None:
        self._batches = iter(batches)
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming = self._thread.submit(self._prepare)

    def __next__(self) -> Batch:
        batch = self._coming.result()
        if batch is None:
            self._thread.shutdown(wait=False)
            raise StopIteration
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in batch.values():
                tensor.record_stream(current)  # else its memory could be given away while the step still reads it
        self._coming = self._thread.submit(self._prepare)
        return batch

    def _prepare(self) -> Batch | None:
        batch = next(self._batches, None)
        if batch is None or self._stream is None:
            return batch
        with torch.cuda.stream(self._stream):
            return {name: _pinned(tensor).to(self._device, non_blocking=True) for name, tensor in batch.items()}


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_pinned() else tensor.pin_memory()
