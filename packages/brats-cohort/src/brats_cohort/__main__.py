"""Run a command: ``python -m brats_cohort check FOLDER``."""

import sys

from brats_cohort.command import main

sys.exit(main())
