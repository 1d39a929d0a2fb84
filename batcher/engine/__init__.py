"""The engine: takes each job of a plan through its lifecycle, in three lanes."""
