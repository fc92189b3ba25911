"""Training and serving on SageMaker, and a local AWS to rehearse both."""
