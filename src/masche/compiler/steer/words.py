"""Measures in the words of a sentence."""


def duration(us: float) -> str:
    """``0.8 ms``, ``62 ms``, ``1.2 s``."""
    if us >= 1_000_000:
        return f"{us / 1_000_000:.3g} s"
    return f"{us / 1000:.2g} ms" if us < 10_000 else f"{us / 1000:.0f} ms"


def percent(per_mille: float) -> str:
    """``30 %``, ``0.5 %``."""
    return f"{per_mille / 10:.2g} %" if per_mille < 100 else f"{per_mille / 10:.0f} %"


def way(source: str, target: str, via: str = "") -> str:
    """``a->b``, ``a->c->b``."""
    return "->".join([source, via, target] if via else [source, target])


def listed(names: list[str]) -> str:
    """``b``, ``b and c``, ``b, c and d``."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
