"""Run a local AWS in which the unchanged SageMaker SDK starts real jobs and endpoints as processes of this machine.

It shows that requests are valid, that code starts, resumes, serves and fails as it should, and that nothing is left behind. It
cannot show what only AWS has: permissions, quotas, images, GPUs and capacity.
"""

from sagemaker_rehearsal.session import Rehearsal, RehearsalError, start_rehearsal

__all__ = ["Rehearsal", "RehearsalError", "start_rehearsal"]
