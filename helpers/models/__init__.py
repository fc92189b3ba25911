"""Networks, checkpoints and attention.

`import monai` imports all of its subpackages with everything optional that it finds: in seconds, most of them for what this
package never asks of MONAI. So modules that are optional to MONAI are declared absent (`None` in `sys.modules`) for that one
import, and can be imported afterwards: everywhere a grammar for international addresses, which jsonschema builds, and the
MLflow client; in a command (``python -m helpers``), where MONAI neither plots nor reads tables, all of `OPTIONAL`.
"""

import sys

NEVER = ("rfc3987_syntax", "mlflow")
OPTIONAL = ("bs4", "jsonschema", "matplotlib", "optuna", "pandas", "scipy.signal", "skimage", "sklearn", "tensorboard")

_command = getattr(sys.modules["__main__"], "__package__", None) == "helpers"
_absent = {name: None for name in (*NEVER, *(OPTIONAL if _command else ())) if name not in sys.modules}
sys.modules.update(_absent)
try:
    import monai  # noqa: F401
finally:
    for _name in _absent:
        del sys.modules[_name]
