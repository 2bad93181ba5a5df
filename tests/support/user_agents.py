"""Names that browsers and bots give themselves: a hundred of the ones, some of the others."""

from __future__ import annotations

from itertools import product

_WINDOWS = "Windows NT 10.0; Win64; x64"
_MAC = "Macintosh; Intel Mac OS X 10_15_7"
_LINUX = "X11; Linux x86_64"
_IPHONE = "iPhone; CPU iPhone OS 18_6 like Mac OS X"
_IPAD = "iPad; CPU OS 17_7 like Mac OS X"
_PHONES = (
    *(
        "Linux; Android 10; K",
        "Linux; Android 15; Pixel 9 Pro",
        "Linux; Android 14; SM-S921B",
        "Linux; Android 13; M2101K6G",
    ),
    *("Linux; Android 11; CUBOT X30", "Linux; Android 9; CUBOT_POWER", "Linux; U; Android 12; de-de; SM-A525F"),
)
_WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
_SAFARI = "AppleWebKit/605.1.15 (KHTML, like Gecko)"


def _chromium() -> list[str]:
    kin = ("", " Edg/142.0.0.0", " OPR/124.0.0.0", " Vivaldi/7.6.3797.63", " YaBrowser/25.10.0.0 Yowser/2.5")
    return [
        f"Mozilla/5.0 ({machine}) {_WEBKIT} Chrome/{version}.0.0.0 Safari/537.36{name}"
        for machine, version, name in product((_WINDOWS, _MAC, _LINUX), (109, 138, 142), kin)
    ]


def _phones() -> list[str]:
    kin = ("", " SamsungBrowser/28.0", " EdgA/142.0.0.0", " DuckDuckGo/5")
    return [
        f"Mozilla/5.0 ({machine}) {_WEBKIT} Chrome/142.0.0.0 Mobile Safari/537.36{name}"
        for machine, name in product(_PHONES, kin)
    ]


def _others() -> list[str]:
    firefox = [
        f"Mozilla/5.0 ({m}; rv:{v}.0) Gecko/20100101 Firefox/{v}.0"
        for m in (_WINDOWS, _MAC, _LINUX)
        for v in (115, 128, 145)
    ]
    apple = [
        f"Mozilla/5.0 ({machine}) {_SAFARI} {name} Mobile/15E148 Safari/604.1"
        for machine in (_IPHONE, _IPAD)
        for name in ("Version/18.6", "CriOS/142.0.7444.46", "FxiOS/145.0", "EdgiOS/142.0.3595.53", "GSA/390.0.0")
    ]
    return [
        *firefox,
        *apple,
        f"Mozilla/5.0 ({_MAC}) {_SAFARI} Version/18.6 Safari/605.1.15",
        f"Mozilla/5.0 ({_MAC}) {_SAFARI} Version/26.0 Safari/605.1.15",
        "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
        "Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.2; Trident/6.0)",
        "Opera/9.80 (Android; Opera Mini/36.2.2254/191.283; U; en) Presto/2.12.423 Version/12.16",
        (
            f"Mozilla/5.0 (Linux; Android 14; SM-X910 Build/UP1A; wv) {_WEBKIT} Version/4.0 Chrome/140.0.0.0 Safari/537.36 "
            "[FB_IAB/FB4A;FBAV/530.0.0.48.74;]"
        ),
        f"Mozilla/5.0 ({_IPHONE}) {_SAFARI} Mobile/22G86 Instagram 400.0.0.23.77 (iPhone16,1; iOS 18_6; de_DE)",
        f"Mozilla/5.0 (SMART-TV; Linux; Tizen 8.0) {_WEBKIT} SamsungBrowser/5.0 Chrome/108.0.0.0 TV Safari/537.36",
        f"Mozilla/5.0 (PlayStation; PlayStation 5/12.00) {_SAFARI} Version/17.0 Safari/605.1.15",
        f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {_WEBKIT} Chrome/142.0.0.0 Safari/537.36",
    ]


BROWSERS = _chromium() + _phones() + _others()

BOTS = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    (
        "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/142.0.0.0 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
    ),
    "AdsBot-Google (+http://www.google.com/adsbot.html)",
    "Mediapartners-Google",
    "Mozilla/5.0 (compatible; Google-InspectionTool/1.0;)",
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) "
        "Chrome/116.0.1938.76 Safari/537.36"
    ),
    "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
    "DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)",
    "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
    "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)",
    "Twitterbot/1.0",
    "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "TelegramBot (like TwitterBot)",
    "WhatsApp/2.23.20.0",
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.1 "
        "Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)"
    ),
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ChatGPT-User/1.0; +https://openai.com/bot)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; PerplexityBot/1.0; +https://perplexity.ai/perplexitybot)",
    "Mozilla/5.0 (Linux; Android 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36 (compatible; Bytespider)",
    "CCBot/2.0 (https://commoncrawl.org/faq/)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
    "Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)",
    "Mozilla/5.0 (compatible; MJ12bot/v1.4.8; http://mj12bot.com/)",
    "Mozilla/5.0 (Linux; Android 7.0;) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36 (compatible; PetalBot;)",
    "Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
    "Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
    "ia_archiver",
    "kube-probe/1.31",
    "GoogleHC/1.0",
    "ELB-HealthChecker/2.0",
    "curl/8.10.1",
    "Wget/1.24.5",
    "python-requests/2.32.3",
    "python-httpx/0.28.1",
    "Python/3.11 aiohttp/3.14.5",
    "Go-http-client/2.0",
    "Scrapy/2.11.2 (+https://scrapy.org)",
    "Mozilla/5.0 (Macintosh) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Chrome-Lighthouse",
    "Feedly/1.0 (+http://www.feedly.com/fetcher.html; like FeedFetcher-Google)",
]
