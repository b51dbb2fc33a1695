"""The work behind each command that does more than train and evaluate runs."""
