"""Networks and checkpoints."""

import helpers.data.monai_first  # noqa: F401
