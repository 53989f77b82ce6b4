"""What heads are trained on: the cache's rows joined with labels, splits and groups."""
