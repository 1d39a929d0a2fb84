"""What to do with each job and why; what it costs, how long it takes. Pure."""
