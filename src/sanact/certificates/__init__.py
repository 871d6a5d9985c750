"""Certified accuracies, which no attack can go below; the accuracy under the adaptive attacker lies above.

The true robust accuracy lies between the two.  The rows differ from the judge's, because no attack is run.
"""

from sanact.certificates.intervals import by_intervals
from sanact.certificates.job import Job, contradicted
from sanact.certificates.rows import SCHEMA, certified, clean
from sanact.certificates.smoothing import by_smoothing, radius

__all__ = ["SCHEMA", "Job", "by_intervals", "by_smoothing", "certified", "clean", "contradicted", "radius"]
