"""The endpoint on slices: TIFF in, mask out, through the same application as volumes."""

import io
import random

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from helpers.cloud.handler import input_fn
from helpers.cloud.limits import BadRequest
from helpers.cloud.serve import make_app
from helpers.cloud.slices import Slice
from helpers.extras.lgg.scores import predict_slices
from helpers.extras.lgg.search import slice_settings
from helpers.extras.lgg.slices import LGG, SlicePreparation
from helpers.models.checkpoints import ModelCard, save_checkpoint
from helpers.models.networks import build_network
from tests.cases import write_case
from tests.requests import bodies_of, save_model

PREPARATION = SlicePreparation(32, (100.0,) * 3, (50.0,) * 3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    settings = slice_settings(filters=4, levels=3, patch=32)
    return build_network(settings.network, **settings.arguments).eval(), settings


@pytest.fixture(scope="module")
def client(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, settings = network
    card = ModelCard(
        settings.network,
        settings.arguments,
        PREPARATION.preprocessing,
        settings.patch,
        task=LGG.name,
        modalities=LGG.modalities,
        regions=LGG.regions,
    )
    save_checkpoint(folder / "best.safetensors", model, card)
    with TestClient(make_app(folder)) as client:
        while client.get("/ping").status_code == 503:
            pass
        yield client


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)


def tiff(array, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "TIFF", **options)
    return stream.getvalue()


def ask(client, body, accept="*/*", kind="image/tiff"):
    return client.post("/invocations", content=body, headers={"content-type": kind, "accept": accept})


def test_the_mask_is_what_prediction_gives(client, network, image):
    expected = predict_slices(network[0], PREPARATION, np.moveaxis(image, -1, 0)[None])[0] >= 0.5
    assert expected.any() and not expected.all()
    for options in ({}, {"compression": "tiff_lzw"}):
        answer = ask(client, tiff(image, **options))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/tiff")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))) > 0, expected)
    assert ask(client, tiff(image), "application/json").json()["tumour_pixels"] == expected.sum()
    npz = np.load(io.BytesIO(ask(client, tiff(image), "application/*").content))
    assert np.array_equal(npz["labels"], expected)


def test_what_is_no_slice_is_refused(client, image):
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    assert ask(client, png.getvalue()).status_code == 400
    for array in (image[:128], image[..., 0]):
        answer = ask(client, tiff(array))
        assert answer.status_code == 422 and "256 x 256" in answer.text
    assert ask(client, tiff(image), "application/x-nifti").status_code == 406


def test_a_model_segments_only_what_it_was_trained_on(client, image, tmp_path):
    body = bodies_of(write_case(tmp_path / "cohort"))["application/x-npz"]
    answer = ask(client, body, kind="application/x-npz")
    assert answer.status_code == 415 and "for lgg" in answer.text
    with TestClient(make_app(save_model(tmp_path / "volumes"))) as volumes:
        while volumes.get("/ping").status_code == 503:
            pass
        answer = ask(volumes, tiff(image))
        assert answer.status_code == 415 and "for glioma" in answer.text


@pytest.mark.filterwarnings("ignore")
def test_damaged_pictures_are_one_sentence(image):
    generator, refused = random.Random(1), 0
    bodies = [tiff(image), tiff(image, compression="tiff_lzw")]
    for number in range(150):
        body = bytearray(bodies[number % 2])
        places = [generator.randrange(8), *generator.choices(range(len(body) - 400, len(body)), k=4)]
        for place in places[number % 3 :]:
            body[place] = generator.randrange(256)
        try:
            assert isinstance(input_fn(bytes(body[: generator.choice((len(body), 500))]), "image/tiff"), Slice)
        except BadRequest as error:
            refused += 1
            assert error.status in (400, 422)
    assert refused > 25
