//! One figure.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) scenario: String,
    /// Which of the scenario's cases: `one`, `2 processes`.
    pub(crate) case: String,
    pub(crate) database: String,
    pub(crate) program: String,
    pub(crate) variant: String,
    pub(crate) metric: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// How many commands it is about.
    pub(crate) n: u64,
    pub(crate) run: u32,
    pub(crate) version: String,
}

pub(crate) fn unit(metric: &str) -> &'static str {
    match metric {
        "jobs_per_s" | "jobs_per_s_purged" => "1/s",
        "wal_bytes_per_command" => "byte",
        "cpu_us_per_command" | "server_cpu_us_per_command" | "cpu_us_per_min" => "us",
        "peak_rss_mib" => "MiB",
        "statements_per_min" => "1/min",
        milliseconds if milliseconds.ends_with("_ms") => "ms",
        _ => "1",
    }
}

/// The middle value; of an even number the lower one of the two.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share of the values lies (nearest rank); 0 of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank between 1 and the number")]
    let rank = ((lossy(values.len() as u64) * share).ceil() as usize).clamp(1, values.len().max(1));
    values.get(rank - 1).copied().unwrap_or_default()
}

#[allow(clippy::cast_precision_loss, reason = "figures of a benchmark")]
pub(crate) fn lossy(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 0.99, 1.0].map(|share| quantile(&values, share)), [50.0, 95.0, 99.0, 100.0]);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
