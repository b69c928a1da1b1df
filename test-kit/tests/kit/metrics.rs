//! The recorder of metrics.

use getty_test::Metrics;

#[test]
fn each_kind_of_metric_is_recorded() {
    let metrics = Metrics::new();
    {
        let _guard = metrics.record();
        metrics::counter!("count", "kind" => "a").increment(2);
        metrics::counter!("count", "kind" => "b").absolute(7);
        metrics::gauge!("gauge").set(5.0);
        metrics::gauge!("gauge").decrement(1.5);
        metrics::histogram!("seconds").record(0.5);
        metrics::histogram!("seconds").record(1.5);
    }
    metrics::counter!("count", "kind" => "a").increment(1); // after the guard
    metrics.assert("count{kind=a}", 2.0);
    metrics.assert("count{kind=b}", 7.0);
    metrics.assert("gauge", 3.5);
    metrics.assert("seconds", 2.0);
    assert_eq!(metrics.samples("seconds"), [0.5, 1.5]);
    assert_eq!(metrics.get("none"), None);
    assert_eq!(metrics.names().len(), 4);
}

#[test]
#[should_panic(expected = "count is Some(1.0) instead of 2")]
fn other_value_fails() {
    let metrics = Metrics::new();
    let _guard = metrics.record();
    metrics::counter!("count").increment(1);
    metrics.assert("count", 2.0);
}
