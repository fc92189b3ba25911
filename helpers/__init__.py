"""Plumbing for the notebooks: data, networks, training, evaluation and figures of brain-tumour segmentation."""

__version__ = "0.1.0"
