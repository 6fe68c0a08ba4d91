"""The report of a bench: raw files in, report.md, report.html and pictures out. It measures nothing."""
