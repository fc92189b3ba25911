"""``python -m helpers serve``: answer segmentation requests over HTTP, as an endpoint of SageMaker does."""

from __future__ import annotations

from pathlib import Path

from helpers.models.checkpoints import load_card
from helpers.serve import app
from helpers.serve.handler import weights_of


def run(*, model_dir: Path = app.MODEL_DIR, port: int = app.PORT, host: str = app.HOST) -> int:
    """Serve until interrupted. A folder without a model is refused at once.

    Parameters
    ----------
    model_dir
        Folder of best.safetensors and its card best.json.
    port
        Where to listen; 0 takes a free port.
    host
        Address to listen on; any other than loopback is open to the network.
    """
    card = load_card(weights_of(model_dir))
    print(f"{card.network} of {model_dir}:", end=" ")
    return app.run(model_dir, host, port)
