"""The invented shop of `make_shop_day.py`: what it sells, how a visit becomes messages, and what visitors do there."""
