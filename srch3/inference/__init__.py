"""Using a trained model: embedding, indexing, searching, measuring, handing on. Nothing here needs Lightning."""
