"""Stage 1: one pass of a frozen backbone over every image, its embeddings in HDF5. Knows nothing of heads."""

__version__ = "0.9.0"
