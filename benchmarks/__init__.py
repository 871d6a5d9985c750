"""Speed and memory of attacks and sanitizers beside other libraries: ``python -m benchmarks``."""
