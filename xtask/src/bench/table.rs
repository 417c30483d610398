//! The table at the end: a row for each program of a case, medians over the runs, ratios to ours.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::measurement::{Measurement, median};

/// Which figures get a column, and what it is called.
const COLUMNS: [(&str, &str); 22] = [
    ("jobs_per_s", "jobs/s"),
    (PURGED, "with purge"),
    ("share_of_undisturbed", "of undisturbed"),
    ("start_p50_ms", "start p50 ms"),
    ("start_p95_ms", "start p95 ms"),
    ("start_p99_ms", "start p99 ms"),
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("p99_ms", "p99 ms"),
    ("cold_p99_ms", "cold p99 ms"),
    ("wal_bytes_per_command", "WAL B"),
    ("commits_per_command", "commits"),
    ("statements_per_command", "statem."),
    ("cpu_us_per_command", "CPU us"),
    ("server_cpu_us_per_command", "server us"),
    ("peak_rss_mib", "MiB"),
    ("statements_per_min", "statem./min"),
    ("cpu_us_per_min", "CPU us/min"),
    ("connections", "connections"),
    ("given_up", "given up"),
    ("wrong", "wrong"),
    ("failed", "failed"),
];

const PURGED: &str = "jobs_per_s_purged";

type Key<'a> = (&'a str, &'a str, &'a str);

/// One table for each database and scenario, as Markdown.
pub(crate) fn render(measurements: &[Measurement]) -> String {
    let mut tables: Vec<(&str, &str)> = Vec::new();
    for measurement in measurements {
        if !tables.contains(&(measurement.database.as_str(), measurement.scenario.as_str())) {
            tables.push((&measurement.database, &measurement.scenario));
        }
    }
    let mut text = String::new();
    for (database, scenario) in tables {
        let of_table: Vec<&Measurement> =
            measurements.iter().filter(|m| m.database == database && m.scenario == scenario).collect();
        let _ = writeln!(text, "### {database}, {scenario}\n\n{}", table(&of_table));
    }
    text
}

fn table(measurements: &[&Measurement]) -> String {
    let mut rows: Vec<Key<'_>> = Vec::new();
    let mut values: BTreeMap<(Key<'_>, &str), Vec<f64>> = BTreeMap::new();
    for m in measurements {
        let row = (m.case.as_str(), m.program.as_str(), m.variant.as_str());
        if !rows.contains(&row) {
            rows.push(row);
        }
        values.entry((row, m.metric.as_str())).or_default().push(m.value);
    }
    // Cases in the order in which they were measured, programs within.
    let mut cases: Vec<&str> = Vec::new();
    rows.iter().for_each(|(case, ..)| {
        if !cases.contains(case) {
            cases.push(case);
        }
    });
    rows.sort_by_key(|(case, ..)| cases.iter().position(|known| known == case));
    let columns: Vec<_> =
        COLUMNS.iter().filter(|(metric, _)| measurements.iter().any(|m| m.metric == *metric)).collect();
    let mut text = "| case | program | variant |".to_owned();
    columns.iter().for_each(|(_, title)| text.push_str(&format!(" {title} |")));
    // What others delete at once ours removes later: they stand beside the rate to which that is added, too.
    let is_purged = measurements.iter().any(|m| m.metric == PURGED);
    text.push_str(" beside ours |");
    text.push_str(if is_purged { " beside ours with purge |" } else { "" });
    text.push_str("\n|---|---|---|");
    text.push_str(&"---:|".repeat(columns.len() + 1 + usize::from(is_purged)));
    for row in rows {
        let (case, program, variant) = row;
        let _ = write!(text, "\n| {case} | {program} | {variant} |");
        for (metric, _) in &columns {
            let cell = values.get(&(row, *metric)).map_or(String::new(), |values| cell(metric, values));
            let _ = write!(text, " {cell} |");
        }
        let ours = values.get(&((case, "orchestratum", variant), "jobs_per_s"));
        let ratio = ours.zip(values.get(&(row, "jobs_per_s"))).map(|(ours, theirs)| median(theirs) / median(ours));
        let _ = write!(text, " {} |", ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        if is_purged {
            let ours = values.get(&((case, "orchestratum", variant), PURGED));
            let theirs = values.get(&(row, PURGED)).or_else(|| values.get(&(row, "jobs_per_s")));
            let ratio = ours.zip(theirs).map(|(ours, theirs)| median(theirs) / median(ours));
            let _ = write!(text, " {} |", ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        }
    }
    text.push('\n');
    text
}

/// The median, with the lowest and the highest behind it where a rate was measured more than once.
fn cell(metric: &str, values: &[f64]) -> String {
    let middle = number(median(values));
    if metric != "jobs_per_s" || values.len() < 2 {
        return middle;
    }
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    format!("{middle} ({} to {})", number(low), number(high))
}

fn number(value: f64) -> String {
    if value == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.5}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(program: &str, run: u32, value: f64) -> Measurement {
        Measurement {
            scenario: "drain".to_owned(),
            case: "1 process".to_owned(),
            database: "postgres".to_owned(),
            program: program.to_owned(),
            variant: "tuned".to_owned(),
            metric: "jobs_per_s".to_owned(),
            value,
            unit: String::new(),
            n: 10,
            run,
            version: String::new(),
        }
    }

    #[test]
    fn row_has_median_spread_and_ratio_to_ours() {
        let table = render(&[
            rate("orchestratum", 1, 100.0),
            rate("orchestratum", 2, 300.0),
            rate("orchestratum", 3, 200.0),
            rate("raw", 1, 250.0),
        ]);
        assert!(table.contains("| 1 process | orchestratum | tuned | 200 (100 to 300) | 1.00 |"), "{table}");
        assert!(table.contains("| 1 process | raw | tuned | 250 | 1.25 |"), "{table}");
    }

    #[test]
    fn others_stand_beside_our_rate_with_the_purge_too() {
        let purged = |value: f64| Measurement { metric: PURGED.to_owned(), ..rate("orchestratum", 1, value) };
        let table = render(&[rate("orchestratum", 1, 200.0), purged(100.0), rate("raw", 1, 300.0)]);
        assert!(table.contains("| 1 process | orchestratum | tuned | 200 | 100 | 1.00 | 1.00 |"), "{table}");
        assert!(table.contains("| 1 process | raw | tuned | 300 |  | 1.50 | 3.00 |"), "{table}");
    }
}
