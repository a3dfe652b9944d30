//! Metrics as OpenMetrics text, by `prometheus-client`: families of samples that are made for one scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>, "Content-Type".
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What goes up and down.
pub(super) const GAUGE: MetricType = MetricType::Gauge;
/// What only goes up, until its owner starts anew.
pub(super) const COUNTER: MetricType = MetricType::Counter;

/// Name, help and kind.
type Describing = (&'static str, &'static str, MetricType);

/// Name and value of each label.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One metric, of everybody that has it.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// Without any it is left out.
    samples: Vec<(Labels, f64)>,
}

impl Family {
    /// `describing`: name, help and kind. A counter's name gets `_total` at its end.
    pub fn new(
        (name, help, kind): Describing,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Self {
        Self {
            name,
            help,
            kind,
            samples: samples.into_iter().collect(),
        }
    }

    /// Of one thing only.
    pub fn one(describing: Describing, value: f64) -> Self {
        Self::new(describing, [(Vec::new(), value)])
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in &self.samples {
            if labels.is_empty() {
                put(&mut encoder, self.kind, *value)?;
            } else {
                put(&mut encoder.encode_family(labels)?, self.kind, *value)?;
            }
        }
        Ok(())
    }
}

fn put(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: f64) -> fmt::Result {
    match kind {
        MetricType::Counter => encoder.encode_counter::<Labels, _, f64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let of_it = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            family.encode(of_it)?;
        }
        Ok(())
    }
}

/// All of them as a scraper reads them.
pub(super) fn text(mut families: Vec<Family>) -> String {
    families.retain(|family| !family.samples.is_empty());
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    // Only a writer that fails makes it fail, and a string does not.
    let _ = encode(&mut text, &registry);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_told_once_with_all_its_samples() {
        let labels = |name: &str| vec![("service", name.to_owned())];
        let told = text(vec![
            Family::new(
                ("a_memory_bytes", "Memory", GAUGE),
                [(labels("web"), 1.5), (labels("a\"b\\c\nd"), 2.0)],
            ),
            Family::one(("a_restarts", "Restarts", COUNTER), 3.0),
        ]);
        insta::assert_snapshot!(told, @r#"
        # HELP a_memory_bytes Memory
        # TYPE a_memory_bytes gauge
        a_memory_bytes{service="web"} 1.5
        a_memory_bytes{service="a\"b\\c\nd"} 2.0
        # HELP a_restarts Restarts
        # TYPE a_restarts counter
        a_restarts_total 3.0
        # EOF
        "#);
    }
}
