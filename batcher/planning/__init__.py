"""Decides what to do with each job and why, what it costs and how long it takes. Pure."""
