"""``python -m helpers serve``: answer segmentation requests over HTTP, as an endpoint of SageMaker does."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from brats_cohort.files import DataError
from helpers.models.checkpoints import load_card
from helpers.serve import app
from helpers.serve.handler import weights_of

MODEL_DIR = Path(os.environ.get("SM_MODEL_DIR", "/opt/ml/model"))
PORT = os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080")
HOST = os.environ.get("SERVE_HOST", "127.0.0.1")
"""What SageMaker tells a container; the image of ``cloud/docker`` alone listens on more than loopback."""


def run(*, model_dir: Path = MODEL_DIR, port: str = PORT, host: str = HOST) -> int:
    """Serve until interrupted; the first line of output names the address.

    Parameters
    ----------
    model_dir
        Folder of best.safetensors and its card best.json, or of the members of an ensemble and their cards.
    port
        Where to listen; 0 takes a free port.
    host
        Address to listen on; any other than loopback is open to the network.
    """
    if not port.isdecimal():
        raise DataError(f"the port is {port!r}", "give a whole number to --port or SAGEMAKER_BIND_TO_PORT")
    if not os.environ.get("SAGEMAKER_PROGRAM"):
        for path in weights_of(model_dir):  # a folder without a model is refused at once
            load_card(path)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = app.listen(host, int(port))
    print(f"http://{host}:{listener.getsockname()[1]}/invocations; stop with Ctrl-C", flush=True)
    app.serve(model_dir, listener)
    return 0
