"""``python -m sagemaker_rehearsal``: a local AWS, for one command or until Ctrl-C."""

import sys

from sagemaker_rehearsal.command import main

sys.exit(main())
