"""SageMaker: what a run made and how to delete it, its jobs, and what they cost."""
