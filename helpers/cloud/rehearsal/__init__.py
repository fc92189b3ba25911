"""A local AWS in which the SageMaker SDK, unchanged, runs real jobs and endpoints as processes of this machine.

It proves that requests are right, that code starts, resumes, serves and fails as it should, and that nothing is left behind. It
cannot prove what only AWS has: permissions, quotas, images, GPUs and capacity.
"""

from helpers.cloud.rehearsal.guard import find_account
from helpers.cloud.rehearsal.session import Rehearsal, RehearsalSettings, start_rehearsal

__all__ = ["Rehearsal", "RehearsalSettings", "find_account", "start_rehearsal"]
