"""Release a checkpoint, or several as one model: ``python -m helpers.models.released best.safetensors ...``."""

import argparse
from pathlib import Path

from helpers.models.released import release_checkpoints

parser = argparse.ArgumentParser(
    prog="python -m helpers.models.released", description=release_checkpoints.__doc__.splitlines()[0]
)
parser.add_argument("checkpoints", nargs="+", type=Path, help="weights (.safetensors) with their card (.json) beside them")
release_checkpoints(parser.parse_args().checkpoints)
