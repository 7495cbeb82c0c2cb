"""How much memory and time documents take that stay on disk, against the same in lists."""
