"""What one submits: thin programs, config in, run, summary out."""
