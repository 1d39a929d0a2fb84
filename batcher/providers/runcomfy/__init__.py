"""All that knows the RunComfy Model API."""
