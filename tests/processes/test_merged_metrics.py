"""The metrics of several processes on one page."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.serving.supervisor.merged_metrics import merged


def page(*, more: bool) -> str:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs {ended}.", ["job_type"], registry=registry).labels('a"{b} c').inc(2)
    Gauge("up", "Up.", registry=registry).set(1)
    Histogram("seconds", "Time.", buckets=(1.0,), registry=registry).observe(0.5)
    if more:
        Gauge("leader", "Leads.", registry=registry).set(float("nan"))
    return generate_latest(registry).decode()


def test_each_series_has_its_process_and_each_family_one_head() -> None:
    text = merged({"0": page(more=False), "1": page(more=True)})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name: family.type for name, family in families.items()} == {
        "jobs": "counter",
        "up": "gauge",
        "seconds": "histogram",
        "leader": "gauge",
    }
    assert text.count("# TYPE ") == len(families)
    assert [(one.labels, one.value) for one in families["jobs"].samples] == [
        ({"process": "0", "job_type": 'a"{b} c'}, 2),
        ({"process": "1", "job_type": 'a"{b} c'}, 2),
    ]
    assert [one.labels for one in families["up"].samples] == [{"process": "0"}, {"process": "1"}]
    buckets = [one.labels for one in families["seconds"].samples if one.name == "seconds_bucket"]
    assert buckets == [
        {"process": process, "le": le} for process in ("0", "1") for le in ("1.0", "+Inf")
    ]
    assert merged({}) == "\n"
