"""Everything specific to the RunComfy Model API."""
