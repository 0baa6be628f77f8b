"""What a scraper reads, as numbers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse_text

Samples = dict[tuple[str, ...], float]


def samples_in(text: str, name: str) -> Samples:
    """Return the samples of a name in a text, by the values of their labels in the order of the labels' names."""
    found = [sample for family in parse_text(text) for sample in family.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


def samples(registry: CollectorRegistry, name: str) -> Samples:
    """Return the samples that a registry has of a name."""
    return samples_in(generate_latest(registry).decode(), name)


def counts(registry: CollectorRegistry, name: str) -> Samples:
    """Return how often each series of a histogram was observed."""
    return samples(registry, f"{name}_count")
