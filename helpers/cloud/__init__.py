"""SageMaker: the process that answers requests, jobs and endpoints, what they cost, and a local rehearsal of them."""
