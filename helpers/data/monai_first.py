"""Import MONAI without what this package never asks of it; every module that needs MONAI imports this one first.

`import monai` imports all of its subpackages with everything optional that it finds: seconds, mostly for nothing. Everywhere it
does without a grammar for international addresses, which jsonschema builds, the MLflow client, Ignite, and Optuna; in a command
(``python -m helpers``), where MONAI neither plots nor reads tables and slides, without all of `OPTIONAL`.
"""

import sys

from brats_cohort.files import without

NEVER = ("ignite", "mlflow", "optuna", "rfc3987_syntax")
OPTIONAL = (
    *("PIL", "bs4", "jsonschema", "matplotlib", "pandas", "pydicom"),
    *("scipy.signal", "skimage", "sklearn", "tensorboard", "tifffile"),
)

_command = getattr(sys.modules["__main__"], "__package__", None) == "helpers"
with without(*NEVER, *(OPTIONAL if _command else ())):
    from monai import transforms  # noqa: F401
