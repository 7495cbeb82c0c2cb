"""Stage 1's contrastive training against sentence-transformers' trainer."""
