"""What it costs to keep an index up with a model in training, and how wrong the rewards are."""
