"""The commands beside those of a Trainer: each module's ``run`` takes the words after the command's name."""
