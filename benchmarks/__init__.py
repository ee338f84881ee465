"""What measures speed; run as `python -m benchmarks.NAME`."""
