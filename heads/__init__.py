"""Stage 2: heads trained on cached features, compared on the same rows, joined with the backbone into one model."""
