"""The contract of the two stages: features.h5."""
