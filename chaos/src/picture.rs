//! The curves of a soak, one panel below the other. Lines and texts, no more.

use std::fmt::Write as _;

use crate::soak::Window;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const HEIGHT: f64 = 90.0;
const GAP: f64 = 46.0;

/// A line of a panel.
type Line<'a> = (&'a str, &'a str, fn(&Window) -> Option<f64>);

/// Draws the windows; `marks` are the minutes at which the server died.
pub(crate) fn draw(title: &str, garbage: &str, windows: &[Window], marks: &[f64]) -> String {
    let (first, second) = ("#c2410c", "#64748b");
    let panels: [(&str, bool, &[Line<'_>]); 5] = [
        ("commands ended a second", false, &[("", first, |window| Some(window.ended_per_s))]),
        (
            "ms from the append to the end, logarithmic",
            true,
            &[("99th percentile", first, |window| window.p99_ms), ("median", second, |window| window.p50_ms)],
        ),
        ("MiB of the oldest worker", false, &[("", first, |window| window.worker_mib)]),
        (
            "MiB of the database",
            false,
            &[("tables", first, |window| window.tables_mib), ("indexes", second, |window| window.indexes_mib)],
        ),
        (garbage, false, &[("", first, |window| window.garbage)]),
    ];
    let end = windows.last().map_or(1.0, |window| window.minute).max(0.1);
    let x = |minute: f64| LEFT + minute / end * (WIDTH - LEFT - RIGHT);
    let mut body = String::new();
    text(&mut body, 10.0, 20.0, "", &format!("<tspan font-weight=\"bold\" font-size=\"14\">{title}</tspan>"));
    let mut top = GAP;
    for (name, is_logarithmic, lines) in panels {
        let shown = |value: f64| if is_logarithmic { (value + 1.0).log10() } else { value };
        let values = || lines.iter().flat_map(|(_, _, value)| windows.iter().filter_map(value));
        let most = values().fold(0.0, f64::max);
        let scale = shown(most).max(1e-9);
        let y = |value: f64| top + HEIGHT - shown(value) / scale * HEIGHT;
        for mark in marks.iter().filter(|minute| **minute <= end) {
            let _ = writeln!(
                body,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top:.0}\" y2=\"{1:.0}\" stroke=\"#e2e8f0\"/>",
                x(*mark),
                top + HEIGHT
            );
        }
        let mut ticks = vec![0.0, most];
        if is_logarithmic {
            ticks = [0.0, 10.0, 100.0, 1_000.0, 10_000.0].into_iter().filter(|tick| *tick < most).collect();
        }
        for tick in ticks {
            let _ = writeln!(
                body,
                "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#cbd5e1\"/>",
                WIDTH - RIGHT,
                y(tick)
            );
            text(&mut body, LEFT - 6.0, y(tick) + 4.0, " text-anchor=\"end\"", &format!("{tick:.0}"));
        }
        text(&mut body, LEFT, top - 6.0, "", name);
        for (index, (label, color, value)) in lines.iter().enumerate() {
            polylines(&mut body, color, windows.iter().map(|window| value(window).map(|v| (x(window.minute), y(v)))));
            let attributes = format!(" text-anchor=\"end\" fill=\"{color}\"");
            let right = WIDTH - RIGHT - 110.0 * f64::from(u8::try_from(index).unwrap_or(0));
            text(&mut body, right, top - 6.0, &attributes, label);
        }
        top += HEIGHT + GAP;
    }
    text(&mut body, WIDTH - RIGHT, top - GAP + 16.0, " text-anchor=\"end\"", &format!("{end:.0} minutes"));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{top}\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn text(body: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    let _ = writeln!(body, "<text x=\"{x:.0}\" y=\"{y:.0}\"{attributes}>{text}</text>");
}

/// A line for each stretch without a hole.
fn polylines(body: &mut String, color: &str, points: impl Iterator<Item = Option<(f64, f64)>>) {
    let mut stretch = String::new();
    for point in points.chain([None]) {
        match point {
            Some((x, y)) => {
                let _ = write!(stretch, "{x:.1},{y:.1} ");
            }
            None if !stretch.is_empty() => {
                let _ = writeln!(body, "<polyline fill=\"none\" stroke=\"{color}\" points=\"{}\"/>", stretch.trim());
                stretch.clear();
            }
            None => {}
        }
    }
}
