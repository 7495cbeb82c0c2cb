"""What stage 1 reaches on a retrieval set, and what each of its terms and options is worth there."""
