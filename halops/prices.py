"""What an hour costs: a profile's own price, or the site's price list.

A label of the list is a profile's name, a memory size such as `8gb` (the smallest card that is large enough
counts), or `cpu` for the stages that need no GPU. Currency is whatever the list is in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from halops.profile import Profile

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*gi?b?")


def hourly_price(profile: Profile, prices: Mapping[str, float]) -> float | None:
    """The price of the profile's GPUs for an hour, or of its CPU where it asks for none; None if not known."""
    gpu = profile.cluster.gpu
    if profile.cluster.price_per_hour is not None:
        return profile.cluster.price_per_hour
    if profile.name in prices:
        return prices[profile.name] * max(gpu.count, 1)
    if not gpu.count:
        return prices.get("cpu")
    sizes = [(float(found[1]), price) for label, price in prices.items() if (found := _SIZE.fullmatch(label.lower()))]
    fitting = [(size, price) for size, price in sizes if size >= gpu.memory_gib]
    return min(fitting)[1] * gpu.count if fitting else None
