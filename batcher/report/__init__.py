"""``report.html``: one static page that shows the contents of a run directory."""
