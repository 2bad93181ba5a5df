"""Fixed lists of products, customers and browsers.

Only tables: nothing here draws a random number or knows a message. Every name is fictional; addresses and hosts
come from the ranges and domains that are reserved for examples.
"""

from __future__ import annotations

from typing import NamedTuple

SHOP = "Kestrel & Pine"
SITE = "https://www.kestrelandpine.example"


class Product(NamedTuple):
    """One article; `price` is in pence, without VAT."""

    sku: str
    name: str
    brand: str
    category: str
    price: int
    variants: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"/products/{self.sku.lower()}"


SIZES = ("S", "M", "L", "XL")
SHOES = ("38", "40", "42", "44", "46")
ONE = ("one size",)

PRODUCTS = tuple(
    Product(f"{category[:2].upper()}-{number:03d}", name, brand, category, price, variants)
    for number, (category, name, brand, price, variants) in enumerate(
        (
            ("Tents", "Moorland 2 Tent", "Braeside", 24900, ("moss", "sand")),
            ("Tents", "Moorland 3 Tent", "Braeside", 31900, ("moss", "sand")),
            ("Tents", "Solo Bivvy", "Fell Works", 11950, ("slate",)),
            ("Tents", "Group Shelter 4", "Fell Works", 8900, ("orange",)),
            ("Tents", "Titanium Tent Pegs", "Braeside", 2450, ONE),
            ("Sleeping Bags", "Heron 400 Down Bag", "Nightjar", 27500, ("regular", "long")),
            ("Sleeping Bags", "Heron 250 Down Bag", "Nightjar", 19900, ("regular", "long")),
            ("Sleeping Bags", "Silk Liner", "Nightjar", 4150, ONE),
            ("Sleeping Bags", "Feather Air Mat", "Nightjar", 9900, ("regular", "wide")),
            ("Backpacks", "Ridgeway 28 Daypack", "Cairn & Co", 8250, ("navy", "rust")),
            ("Backpacks", "Ridgeway 45 Pack", "Cairn & Co", 13900, ("navy", "rust")),
            ("Backpacks", "Longhaul 65 Pack", "Cairn & Co", 19500, SIZES[:3]),
            ("Backpacks", "Rain Cover", "Cairn & Co", 1790, SIZES[:3]),
            ("Backpacks", "Roll Top Dry Bag 20 l", "Tidemark", 1650, ("blue", "yellow")),
            ("Footwear", "Scree Low Shoe", "Tarn", 10900, SHOES),
            ("Footwear", "Scree Mid Boot", "Tarn", 13500, SHOES),
            ("Footwear", "Winter Ridge Boot", "Tarn", 21900, SHOES),
            ("Footwear", "Merino Hiking Socks", "Drystone", 1450, SIZES[:3]),
            ("Footwear", "Boot Wax", "Drystone", 790, ONE),
            ("Jackets", "Squall Rain Jacket", "Drystone", 16500, SIZES),
            ("Jackets", "Ember Down Jacket", "Nightjar", 18900, SIZES),
            ("Jackets", "Breeze Wind Shirt", "Drystone", 6900, SIZES),
            ("Jackets", "Kids' Puddle Suit", "Drystone", 4490, ("98", "110", "122")),
            ("Jackets", "Merino Base Layer", "Drystone", 5490, SIZES),
            ("Cooking", "Pocket Gas Stove", "Fell Works", 3490, ONE),
            ("Cooking", "Storm Kettle", "Fell Works", 4950, ONE),
            ("Cooking", "Nesting Pan Set", "Fell Works", 3950, ONE),
            ("Cooking", "Enamel Mug", "Cairn & Co", 990, ("cream", "green", "blue")),
            ("Cooking", "Café Crème Camp Coffee", "Tidemark", 1250, ("250 g", "500 g")),
            ("Lighting", "Beacon 400 Head Torch", "Fell Works", 4590, ("black", "red")),
            ("Lighting", "Lantern Mini", "Fell Works", 2290, ONE),
            ("Lighting", "Power Bank 10 000", "Tidemark", 3190, ONE),
            ("Climbing", "Gritstone Harness", "Tarn", 5790, SIZES[:3]),
            ("Climbing", "Dry Rope 60 m", "Tarn", 15900, ("green", "blue")),
            ("Climbing", "Quickdraw Set of 6", "Tarn", 7450, ONE),
            ("Climbing", "Chalk Ball", "Tarn", 650, ONE),
        ),
        start=1,
    )
)
CATEGORIES = tuple(dict.fromkeys(product.category for product in PRODUCTS))

SEARCHES = (
    "2 person tent", "down jacket", "waterproof jacket", "head torch", "walking boots", "merino", "gas stove",
    "boot size 44", "dry bag", "sleeping bag -5", "rope", "kids waterproof", "gift for hiker", "coffee",
    "tent pegs", "rucksack 45l", "down mat",
)  # fmt: skip

COUPONS = {"WINTER10": 10, "WELCOME5": 5, "CLUB15": 15}
PROMOTIONS = (
    {"promotion_id": "winter", "name": "Winter layers, 10 % off", "position": "home_hero"},
    {"promotion_id": "bf_preview", "name": "Black Friday preview", "position": "home_banner"},
    {"promotion_id": "club", "name": "Join the Cairn Club", "position": "home_footer"},
)

CAMPAIGNS = (
    {"name": "black-friday-preview", "source": "newsletter", "medium": "email", "content": "header"},
    {"name": "winter-layers", "source": "google", "medium": "cpc", "term": "down jacket"},
    {"name": "winter-layers", "source": "instagram", "medium": "social", "content": "reel-3"},
    {"name": "hill-days", "source": "fellwalkers-blog", "medium": "referral"},
)
REFERRERS = (
    "https://www.google.com/",
    "https://duckduckgo.com/",
    "https://www.bing.com/",
    "https://fellwalkers.example/kit",
)

BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605",
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
)


class Phone(NamedTuple):
    """`screen` is width and height in points, and the density."""

    manufacturer: str
    model: str
    system: str
    version: str
    screen: tuple[int, int, float]


PHONES = (
    Phone("Apple", "iPhone17,1", "iOS", "26.1", (402, 874, 3)),
    Phone("Apple", "iPhone14,5", "iOS", "18.7", (390, 844, 3)),
    Phone("Google", "Pixel 9", "Android", "16", (411, 923, 2.625)),
    Phone("Samsung", "SM-S921B", "Android", "15", (360, 780, 3)),
)

# Addresses reserved for documentation by RFC 5737 and RFC 3849.
NETWORKS = ("192.0.2.", "198.51.100.", "203.0.113.", "2001:db8:51::")
LOCALES = {"en-GB": 82, "en-IE": 8, "de-DE": 6, "fr-FR": 4}

FIRST_NAMES = (
    "Aisha", "Alasdair", "Amelia", "Bronwen", "Callum", "Chloé", "Dafydd", "Eilidh", "Emeka", "Fiona", "George",
    "Hana", "Imogen", "Jürgen", "Kasia", "Leila", "Mairéad", "Niamh", "Oliver", "Priya", "Rhys", "Siobhán",
    "Tomasz", "Usman", "Wen", "Zoë",
)  # fmt: skip
LAST_NAMES = (
    "Adeyemi", "Bennett", "Campbell", "Davies", "Evans", "Fraser", "Gallagher", "Hughes", "Iqbal", "Jones",
    "Kowalska", "Lewis", "MacLeod", "Müller", "Ní Bhriain", "O'Connor", "Patel", "Quinn", "Roberts", "Singh",
    "Taylor", "Walker", "Young", "Zhang",
)  # fmt: skip
TOWNS = (
    "Aberdeen",
    "Bath",
    "Cardiff",
    "Dublin",
    "Edinburgh",
    "Fort William",
    "Keswick",
    "Leeds",
    "Llanberis",
    "Sheffield",
)


class Organisation(NamedTuple):
    group_id: str
    name: str
    industry: str
    employees: int

    @property
    def traits(self) -> dict[str, str | int]:
        return {"name": self.name, "industry": self.industry, "employees": self.employees, "plan": "trade"}


ORGANISATIONS = (
    Organisation("org_lakeland-guides", "Lakeland Guides", "Tourism", 14),
    Organisation("org_ben-school", "Ben Outdoor School", "Education", 38),
    Organisation("org_tor-rescue", "Tor Mountain Rescue", "Emergency services", 62),
    Organisation("org_cairn-festival", "Cairn Film Festival", "Events", 9),
    Organisation("org_moor-surveys", "Moor & Mire Surveys", "Environmental services", 120),
    Organisation("org_scouts-12", "12th Harbour Scouts", "Youth work", 6),
    Organisation("org_skye-lodges", "Skye Lodges", "Hospitality", 21),
    Organisation("org_pennine-trail", "Pennine Trail Trust", "Charity", 17),
)
