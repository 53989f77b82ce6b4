"""Where the bytes are: which file belongs to a row, and what was read of it."""
