"""Sampling of thoughts beside the text generation of transformers."""
