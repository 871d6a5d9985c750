"""Who attacks with what knowledge, what the judge decides, and the rows it writes."""
