"""One HTTP request; the only code that knows aiohttp."""
