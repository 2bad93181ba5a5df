"""Sends one HTTP request: addresses, deadline, name resolution, transport. Only this folder knows aiohttp."""
