//! The picture: drains as bars, pick-ups from their median to their 99th percentile. Rectangles and texts, no more.

use std::fmt::Write as _;

use super::measurement::{Measurement, median};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 230.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const PLOT: f64 = WIDTH - LEFT - 190.0;

/// One row of a panel.
struct Row {
    name: String,
    from: f64,
    to: f64,
    text: String,
    ours: bool,
}

/// Draws what was measured; the fastest first.
pub(crate) fn draw(measurements: &[Measurement]) -> String {
    let mut body = String::new();
    let mut top = 10.0;
    for (database, title) in [("postgres", "PostgreSQL"), ("sqlite", "SQLite"), ("mariadb", "MariaDB")] {
        let mut drains = rows(measurements, database, "drain", "1 process", drain);
        drains.sort_by(|a, b| b.to.total_cmp(&a.to));
        panel(&mut body, &mut top, &format!("{title}: commands drained a second"), &drains);
        let mut pickups = rows(measurements, database, "pickup", "same process", pickup);
        pickups.sort_by(|a, b| a.from.total_cmp(&b.from));
        panel(&mut body, &mut top, &format!("{title}: append to start, p50 to p99, ms"), &pickups);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{top}\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn rows(
    measurements: &[Measurement],
    database: &str,
    scenario: &str,
    case: &str,
    row: impl Fn(&dyn Fn(&str) -> Option<f64>) -> Option<(f64, f64, String)>,
) -> Vec<Row> {
    let of_panel: Vec<&Measurement> =
        measurements.iter().filter(|m| m.database == database && m.scenario == scenario && m.case == case).collect();
    let mut names: Vec<(&str, &str)> = Vec::new();
    for m in &of_panel {
        if !names.contains(&(&m.program, &m.variant)) {
            names.push((&m.program, &m.variant));
        }
    }
    let rows = names.into_iter().filter_map(|(program, variant)| {
        let value = |metric: &str| {
            let values: Vec<f64> = of_panel
                .iter()
                .filter(|m| m.program == program && m.variant == variant && m.metric == metric)
                .map(|m| m.value)
                .collect();
            (!values.is_empty()).then(|| median(&values))
        };
        let (from, to, text) = row(&value)?;
        Some(Row { name: format!("{program}, {variant}"), from, to, text, ours: program == "orchestratum" })
    });
    rows.collect()
}

fn drain(value: &dyn Fn(&str) -> Option<f64>) -> Option<(f64, f64, String)> {
    let rate = value("jobs_per_s")?;
    Some((0.0, rate, format!("{rate:.0}")))
}

fn pickup(value: &dyn Fn(&str) -> Option<f64>) -> Option<(f64, f64, String)> {
    let (middle, late) = (value("p50_ms")?, value("p99_ms")?);
    Some((middle, late, format!("{middle:.1} to {late:.1}")))
}

fn panel(body: &mut String, top: &mut f64, title: &str, rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    *top += STEP;
    let _ = writeln!(body, "<text x=\"10\" y=\"{top:.0}\" font-weight=\"bold\" font-size=\"14\">{title}</text>");
    // Beyond the scale, where one slow row would press all others flat, a bar goes to the edge.
    let mut ends: Vec<f64> = rows.iter().map(|row| row.to).collect();
    ends.sort_by(f64::total_cmp);
    let largest = ends.last().copied().unwrap_or(1.0);
    let scale = if rows.iter().all(|row| row.from == 0.0) { largest } else { largest.min(4.0 * median(&ends)) };
    for row in rows {
        let (x, end) = (LEFT + (row.from / scale).min(1.0) * PLOT, LEFT + (row.to / scale).min(1.0) * PLOT);
        let color = if row.ours { "#c2410c" } else { "#94a3b8" };
        let y = *top + 8.0;
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            LEFT - 8.0,
            y + 12.0,
            row.name,
            (end - x).max(1.0),
            end.max(x + 1.0) + 6.0,
            y + 12.0,
            row.text,
        );
        *top += STEP;
    }
    *top += 14.0;
}
