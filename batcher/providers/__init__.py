"""The APIs that jobs can be sent to, one room each."""
