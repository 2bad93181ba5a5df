"""Reads a web request: its visitor, page, query, cookies and consent."""
