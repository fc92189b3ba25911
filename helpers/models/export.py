"""A network as an ONNX file, and that file in place of the network: prediction by ONNX Runtime or OpenVINO."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers.regions import MODALITIES


def export_onnx(network: nn.Module, path: Path, *, size: tuple[int, int, int] = (64, 64, 64), fixed: bool = False) -> Path:
    """Write a network on the CPU, from image (B, 4, X, Y, Z) to logits (B, 3, X, Y, Z), as ONNX.

    Parameters
    ----------
    size : tuple of 3 int
        X, Y, Z of the example that is traced.
    fixed : bool
        Accept images of `size` only, which a runtime may plan better; otherwise batch and edges are free, as far as the
        network's structure allows.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = {0: "batch", 2: "x", 3: "y", 4: "z"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package says that there is another one
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, len(MODALITIES), *size),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes=None if fixed else {"image": free, "logits": free},
            dynamo=False,
        )
    return path


class OnnxNetwork(nn.Module):
    """An ONNX file of `export_onnx`, run by ONNX Runtime on the CPU, in place of the network; `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, 3, X, Y, Z) of an image (B, 4, X, Y, Z) on the CPU."""
        array = np.ascontiguousarray(image.detach().numpy(), dtype=np.float32)
        return torch.from_numpy(self.session.run(None, {"image": array})[0])


class OpenVinoNetwork(nn.Module):
    """An ONNX file of `export_onnx`, run by OpenVINO on the CPU; needs the package openvino.

    With `bf16` OpenVINO computes in bfloat16 if the processor can (its own default), otherwise in 32 bits.
    """

    def __init__(self, path: Path, *, bf16: bool = False) -> None:
        super().__init__()
        import openvino

        options = {} if bf16 else {"INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, 3, X, Y, Z) of an image (B, 4, X, Y, Z) on the CPU."""
        array = np.ascontiguousarray(image.detach().numpy(), dtype=np.float32)
        return torch.from_numpy(self.compiled({"image": array})[0].copy())
