"""``python -m helpers serve``: answer segmentation requests over HTTP, as an endpoint of SageMaker does."""

from __future__ import annotations

import argparse
import logging

from helpers.cloud.handler import weights_of
from helpers.cloud.serve import add_arguments, serve
from helpers.models.checkpoints import load_card

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; 0 then. A folder without a model is refused at once."""
    card = load_card(weights_of(arguments.model_dir), task=None)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    address = f"http://{arguments.host}:{arguments.port}"
    print(f"{card.network} of {arguments.model_dir} answers at {address}/invocations; stop it with Ctrl-C", flush=True)
    serve(arguments.model_dir, host=arguments.host, port=arguments.port)
    return 0
