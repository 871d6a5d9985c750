"""Certified accuracies: what no attack can go below, beside what an attacker who knows the defense leaves, which is above.

The rows are of another kind than the judge's: no attack is run.  The true robust accuracy lies between the two.
"""

from sanact.certificates.intervals import by_intervals
from sanact.certificates.job import Job, contradicted
from sanact.certificates.rows import SCHEMA, certified, clean
from sanact.certificates.smoothing import by_smoothing, radius

__all__ = ["SCHEMA", "Job", "by_intervals", "by_smoothing", "certified", "clean", "contradicted", "radius"]
