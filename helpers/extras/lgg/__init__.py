"""Lower-grade glioma on single slices: the Kaggle LGG layout, a phantom of it, 2-D training and a search for its settings."""
