"""``report.html``: one static page that shows what a run directory holds."""
