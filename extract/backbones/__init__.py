"""The frozen networks: their sources, weights and how they are run."""
