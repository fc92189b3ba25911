"""Inference, metrics and statistics."""
