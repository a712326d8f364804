//! The figures as bars, for a person to look at.

use super::report::time;
use super::series::Comparison;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
/// Where bars begin, and how long the longest of a comparison is.
const LEFT: f64 = 230.0;
const LONGEST: f64 = 480.0;
const ROW: f64 = 20.0;
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}.o{fill:#0b7a75}.x{fill:#b9c0c7}\
                     .b{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#0d1117}.x{fill:#57606a}}";

/// One block of bars for each comparison; the longest bar is its slowest contender.
pub(crate) fn draw(comparisons: &[Comparison]) -> String {
    let mut bars = String::new();
    let mut y = 30.0;
    for comparison in comparisons {
        let Some(ours) = comparison.series.first() else { continue };
        let slowest = comparison.series.iter().map(|series| series.median()).fold(0.0, f64::max);
        let _ = writeln!(bars, r#"<text class="t" x="20" y="{y}">{}</text>"#, escape(&comparison.title));
        y += ROW;
        for (place, series) in comparison.series.iter().enumerate() {
            let median = series.median();
            let length = (median / slowest * LONGEST).max(1.0);
            let label = match place {
                0 => time(median),
                _ => format!("{}, ours {:.2} ×", time(median), ours.ratio(series)),
            };
            let class = if place == 0 { "o" } else { "x" };
            let name = escape(&series.name);
            let _ = writeln!(bars, r#"<text x="{}" y="{y}" text-anchor="end">{name}</text>"#, LEFT - 10.0);
            let top = y - 12.0;
            let _ = writeln!(bars, r#"<rect class="{class}" x="{LEFT}" y="{top}" width="{length:.1}" height="15"/>"#);
            let _ = writeln!(bars, r#"<text x="{:.1}" y="{y}">{label}</text>"#, LEFT + length + 8.0);
            y += ROW;
        }
        y += ROW;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="Benchmarks">
<style>{STYLE}</style>
<rect class="b" width="{WIDTH}" height="{y}"/>
{bars}</svg>
"#
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
