"""Attackers and what they know, the judge's decisions, and the rows that record them."""
