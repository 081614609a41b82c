"""The configuration of other systems, turned into ours. Their words stay inside their file."""
