"""What `benchmarks/claims.py` is made of."""
