"""The fictional shop of `make_shop_day.py`: its catalogue, its visitors, and the messages of their visits."""
