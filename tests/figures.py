"""What a benchmark hands out, looked through."""


def numbers(thing, path="$"):
    """Every float in nested tables and lists, as (path, value)."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield from numbers(value, f"{path}.{key}")
    elif isinstance(thing, list):
        for i, value in enumerate(thing):
            yield from numbers(value, f"{path}[{i}]")
    elif isinstance(thing, float):
        yield path, thing
