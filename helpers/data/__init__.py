"""Cases prepared for a network, patches of them, phantoms, and the readers of slices and CT."""
