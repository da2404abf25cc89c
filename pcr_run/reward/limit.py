"""Resource limits that hold on machines with stricter ones of their own (containers, clusters)."""

import resource


def limit(name: int, value: int) -> None:
    """A limit of this process, or the hard one that it was started with where that is lower."""
    hard = resource.getrlimit(name)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value))
