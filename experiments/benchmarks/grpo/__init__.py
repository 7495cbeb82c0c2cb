"""Stage 2's policy gradient against the GRPO trainer of TRL."""
