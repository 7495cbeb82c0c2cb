"""Pure functions of tensors: every loss, reward and advantage, free of models, configuration and state."""
