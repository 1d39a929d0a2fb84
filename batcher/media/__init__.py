"""Media formats: what a file is, whether it is whole, what it shows."""
