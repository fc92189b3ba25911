"""Networks, checkpoints, attention and export."""

import sys

_SLOW = tuple(name for name in ("rfc3987_syntax", "mlflow") if name not in sys.modules)
"""`import monai` imports every one of its subpackages and, through two of them, a grammar that jsonschema builds for
international addresses and the MLflow client: more than half of its time. Both are optional to their importers, so they are
declared absent (`None` in `sys.modules`) for that one import, and can be imported afterwards."""

sys.modules.update(dict.fromkeys(_SLOW))
try:
    import monai  # noqa: F401
finally:
    for _name in _SLOW:
        del sys.modules[_name]
