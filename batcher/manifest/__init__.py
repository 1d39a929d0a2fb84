"""Manifests: text to rows to jobs. Every problem is found before the first job is bought.

``read`` opens a file of any format, ``walk`` follows ``from`` into others, ``expand`` makes rows into
drafts (defaults, matrix, templates, repeat), ``check`` makes drafts into jobs by the model's schema.
"""
