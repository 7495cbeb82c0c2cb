"""What it costs to overwrite vectors in an index, and what searches find afterwards."""
