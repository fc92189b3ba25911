"""The ``train`` command of an image, as far as tuning jobs need it: the hyperparameters name an archive and a program in it.

AWS's training toolkit does the same: hyperparameters that begin with ``sagemaker_`` or ``_`` are for the toolkit, all others
become options of the program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3

from sagemaker_rehearsal.objects import extract


def main() -> int:
    """Fetch the archive, run the program with the other hyperparameters as options, return its status."""
    root = Path(os.environ["SM_MODEL_DIR"]).parent
    values = json.loads((root / "input/config/hyperparameters.json").read_text(encoding="utf-8"))
    own = {name: _plain(text) for name, text in values.items() if name.startswith(("sagemaker_", "_"))}
    bucket, _, key = own["sagemaker_submit_directory"].removeprefix("s3://").partition("/")
    content = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    code = root / "code"
    extract(content, code)
    words = [word for name, text in values.items() if name not in own for word in (f"--{name}", str(_plain(text)))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    channels = [path for path in (root / "input/data").iterdir() if path.is_dir()]
    environment |= {f"SM_CHANNEL_{path.name.upper()}": str(path) for path in channels}
    environment["SM_OUTPUT_DATA_DIR"] = str(root / "output/data")
    if (code / "requirements.txt").is_file():
        install = subprocess.run(["pip", "install", "-r", "requirements.txt"], cwd=code, check=False)
        if install.returncode:
            return install.returncode
    done = subprocess.run([sys.executable, own["sagemaker_program"], *words], cwd=code, env=environment, check=False)
    return done.returncode


def _plain(text: str) -> object:
    """Hyperparameters arrive as text, and those of the SDK as JSON in it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
