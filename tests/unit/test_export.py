"""A network and its ONNX file give the same result, alone and in a sliding window."""

import pytest
import torch

from helpers.evaluation.predict import predict_image
from helpers.models.export import OnnxNetwork, OpenVinoNetwork, export_onnx
from helpers.models.networks import build_network

pytest.importorskip("onnxruntime")

SMALL = {
    "unet": {"channels": (4, 8, 16), "num_res_units": 1},
    "segresnet": {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)},
}


@pytest.mark.parametrize("name", SMALL)
def test_onnx_runtime_gives_the_same_logits_at_any_size(tmp_path, name):
    torch.manual_seed(0)
    network = build_network(name, **SMALL[name]).eval()
    exported = OnnxNetwork(export_onnx(network, tmp_path / "network.onnx", size=(16, 16, 16)), threads=1)
    for shape in ((1, 4, 16, 16, 16), (2, 4, 24, 16, 32)):
        image = torch.randn(shape)
        with torch.inference_mode():
            assert torch.allclose(exported(image), network(image), atol=1e-4)


def test_it_takes_the_place_of_the_network_in_prediction(tmp_path):
    network = build_network("unet", **SMALL["unet"]).eval()
    exported = OnnxNetwork(export_onnx(network, tmp_path / "network.onnx", size=(16, 16, 16)), threads=1)
    image = torch.randn(4, 30, 20, 17)
    found, wanted = (predict_image(each, image, patch=(16, 16, 16), multiple=4) for each in (exported, network))
    assert torch.allclose(found, wanted, atol=1e-4)


def test_openvino_gives_the_same_logits(tmp_path):
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = build_network("segresnet", **SMALL["segresnet"]).eval()
    path = export_onnx(network, tmp_path / "network.onnx", size=(16, 16, 16))
    image = torch.randn(1, 4, 24, 16, 32)
    with torch.inference_mode():
        wanted = network(image)
        assert torch.allclose(OpenVinoNetwork(path)(image), wanted, atol=1e-3)
        assert torch.allclose(OpenVinoNetwork(path, bf16=True)(image), wanted, atol=0.1 * float(wanted.std()))
