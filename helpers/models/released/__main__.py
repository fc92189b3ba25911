"""Release a checkpoint: ``python -m helpers.models.released best.safetensors``."""

import argparse
from pathlib import Path

from helpers.models.released import release_checkpoint

parser = argparse.ArgumentParser(
    prog="python -m helpers.models.released", description=release_checkpoint.__doc__.splitlines()[0]
)
parser.add_argument("checkpoint", type=Path, help="weights (.safetensors) with their card (.json) beside them")
release_checkpoint(parser.parse_args().checkpoint)
