"""A head as files for others: bundle, export, prediction."""
