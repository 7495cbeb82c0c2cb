"""From nothing to a model that thinks and searches, with every control beside its claim, in minutes on a CPU."""
