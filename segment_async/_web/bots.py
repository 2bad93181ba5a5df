"""Whether a program, not a person, asks: told by its `User-Agent`.

A short list of words that those who crawl, preview, watch and fetch use of themselves. The extra ``bots`` brings a
maintained one (the package crawler-user-agents), which is asked as well where it is installed. Browsers that are only
driven by a program, as in tests, are browsers here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Final

# "bot" is part of a maker's name, too: Cubot sells telephones.
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
    """No name at all is no browser's either."""
    if not user_agent:
        return True
    return _WORDS.search(user_agent) is not None or _maintained()(user_agent)


@lru_cache(maxsize=1)
def _maintained() -> Callable[[str], bool]:
    try:
        is_crawler = import_module("crawleruseragents").is_crawler
    except ImportError:
        return lambda user_agent: False
    return lambda user_agent: bool(is_crawler(user_agent))
