"""Thirteen abdominal organs in CT: the BTCV layout, a phantom of it, crops, scores, and the training as a two-step job."""
