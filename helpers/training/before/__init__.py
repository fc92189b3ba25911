"""Training with Lightning: the module, the data module and the training run."""
