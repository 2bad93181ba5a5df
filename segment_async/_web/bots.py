"""Recognises programs, as opposed to browsers, by their `User-Agent`.

A short list of words covers crawlers, previews, monitors and HTTP libraries. The extra ``bots`` adds a maintained list
(the package crawler-user-agents), which is used as well if it is installed. A browser that is driven by a program, as
in tests, counts as a browser.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Final

# "bot" is also part of a brand: Cubot makes phones.
_WORDS: Final = re.compile(
    r"(?<!cu)bots?(?:\b|_)|robot|crawl|spider|slurp|scrap[ey]|archiver|fetch(?:er)?\b|monitor|preview|validator"
    r"|mediapartners|google-(?:inspection|read|safety|extended|favicon|structured)|googleother|apis-google|feedburner"
    r"|facebookexternal|facebookcatalog|meta-external|whatsapp/|embedly|pinterest/|skypeuri|vkshare|bitlybot|tumblr/"
    r"|chatgpt|oai-search|anthropic|claude-|perplexity|bytespider|cohere-|mistralai|diffbot|bingpreview|yandex\.com/bots"
    r"|lighthouse|pagespeed|gtmetrix|pingdom|statuscake|site24x7|newrelic|datadog|checkly|hetrix|nagios|zabbix|kube-probe"
    r"|healthcheck|health check|googlehc|prometheus|curl/|wget|python|aiohttp|httpx|requests/|urllib|libwww|lwp::"
    r"|go-http|okhttp|java/|apache-httpclient|axios|node-fetch|undici|got \(|guzzle|ruby|faraday|php/|httrack|nutch"
    r"|heritrix|phantomjs|postman|insomnia|feedly|\brss|w3c_|nmap|nikto|sqlmap|masscan|zgrab|censys",
    re.IGNORECASE,
)


@lru_cache(maxsize=2_048)
def is_bot(user_agent: str | None) -> bool:
    """Whether a program sent the request; so is one without a `User-Agent`."""
    if not user_agent:
        return True
    return _WORDS.search(user_agent) is not None or _maintained_list()(user_agent)


@lru_cache(maxsize=1)
def _maintained_list() -> Callable[[str], bool]:
    try:
        is_crawler = import_module("crawleruseragents").is_crawler
    except ImportError:
        return lambda user_agent: False
    return lambda user_agent: bool(is_crawler(user_agent))
