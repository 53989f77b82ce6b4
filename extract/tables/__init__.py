"""What people say: tables, folders as tables, labels, splits, answers of the review."""
