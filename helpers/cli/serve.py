"""``python -m helpers serve``: answer segmentation requests over HTTP, as an endpoint of SageMaker does."""

from __future__ import annotations

import argparse

from helpers.models.checkpoints import load_card
from helpers.serve import app
from helpers.serve.handler import weights_of

__all__ = ["add_arguments", "run"]

add_arguments = app.add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted; 0 then. A folder without a model is refused at once."""
    card = load_card(weights_of(arguments.model_dir))
    print(f"{card.network} of {arguments.model_dir}:", end=" ")
    return app.run(arguments)
