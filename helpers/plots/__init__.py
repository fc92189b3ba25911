"""Figures of volumes, label maps and results."""
