"""Media formats: a file's type, whether it is complete, its dimensions and duration."""
