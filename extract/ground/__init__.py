"""What everything stands on: errors, files, progress, TensorFlow. Knows nothing of images or heads."""
