"""The ``train`` command of an image, as far as tuning jobs need it: the hyperparameters name an archive and a program in it.

AWS's training toolkit does the same: hyperparameters that begin with ``sagemaker_`` or ``_`` are for the toolkit, all others
become options of the program.
"""

from __future__ import annotations

import json
import os
import shutil
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
    given = {name: _plain(text) for name, text in values.items() if name not in own}
    options = {name: f"--{name}" if len(name) > 1 else f"-{name}" for name in given}  # so the toolkit writes them
    words = [word for name, value in given.items() for word in (options[name], str(value))]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= _variables(root, given)
    if (code / "requirements.txt").is_file():
        install = subprocess.run(["pip", "install", "-r", "requirements.txt"], cwd=code, check=False)
        if install.returncode:
            return install.returncode
    done = subprocess.run([sys.executable, own["sagemaker_program"], *words], cwd=code, env=environment, check=False)
    return done.returncode


def _variables(root: Path, hyperparameters: dict[str, object]) -> dict[str, str]:
    """What the toolkit tells a program through its environment, besides ``SM_MODEL_DIR``."""
    machines = json.loads((root / "input/config/resourceconfig.json").read_text(encoding="utf-8"))
    channels = {path.name: str(path) for path in sorted((root / "input/data").iterdir()) if path.is_dir()}
    told: dict[str, object] = {f"SM_CHANNEL_{name.upper()}": path for name, path in channels.items()}
    told |= {f"SM_HP_{name.upper()}": value for name, value in hyperparameters.items()}
    told |= {"SM_CHANNELS": sorted(channels), "SM_HPS": hyperparameters, "SM_RESOURCE_CONFIG": machines}
    told |= {"SM_HOSTS": machines["hosts"], "SM_CURRENT_HOST": machines["current_host"]}
    told |= {"SM_NETWORK_INTERFACE_NAME": machines["network_interface_name"]}
    told |= {"SM_CURRENT_INSTANCE_TYPE": machines["current_instance_type"]}
    told |= {"SM_NUM_CPUS": os.cpu_count(), "SM_NUM_GPUS": _gpus()}
    told |= {"SM_INPUT_DIR": f"{root}/input", "SM_INPUT_CONFIG_DIR": f"{root}/input/config"}
    told |= {"SM_OUTPUT_DIR": f"{root}/output", "SM_OUTPUT_DATA_DIR": f"{root}/output/data"}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


def _gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def _plain(text: str) -> object:
    """Hyperparameters arrive as text, and those of the SDK as JSON in it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main())
