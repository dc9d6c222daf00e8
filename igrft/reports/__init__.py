"""Looks at a dataset: a table (inspect), checks (validate), a page with pictures (report)."""
