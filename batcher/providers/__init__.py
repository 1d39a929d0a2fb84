"""The APIs that jobs can be sent to: one module or package for each vendor."""
