"""The report: one HTML file on a table, its verdicts and what changed, with pictures to click."""
