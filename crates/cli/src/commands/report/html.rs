//! The report as a page that needs nothing else: a table, and two charts of memory against the number of guests.

use std::fmt::Write;

use super::curve::Point;
use super::{Report, cells, findings};
use crate::output::{quoted, size};

const STYLE: &str = "\
:root{--text:#1f2328;--back:#fff;--line:#d0d7de;--disk:#9a6700;--place:#0b7a75;--process:#57606a}\
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--back:#0d1117;--line:#30363d;--disk:#d29922;--place:#39c5bb;--process:#8b949e}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right}\
td{white-space:nowrap}code{font-size:.9em}svg{width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--text)}\
.axis{stroke:var(--line)}.disk{stroke:var(--disk);fill:var(--disk)}.place{stroke:var(--place);fill:var(--place)}\
.process{stroke:var(--process);fill:var(--process)}polyline{fill:none!important;stroke-width:2.5}";

/// A line of a chart: its class, its name, and its value at a point.
type Line = (&'static str, &'static str, fn(&Point, u64) -> u64);

const HOST: [Line; 3] = [
    ("disk", "guests with a disk, without the image", |point, _| point.disk.host.own),
    ("place", "guests in place, with the whole segment", |point, segment| point.in_place.host.own + segment),
    ("process", "processes, with the whole segment", |point, segment| point.processes.own + segment),
];
const GUEST: [Line; 2] =
    [("disk", "with a disk", |point, _| point.disk.used), ("place", "in place", |point, _| point.in_place.used)];

pub(super) fn page(report: &Report) -> String {
    let points = &report.curve.points;
    let title = format!("Execute in place: {}", report.segment);
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{0}</title><style>{STYLE}</style><h1>{0}</h1><p>The image has {1}. Each guest has {2} of memory and runs <code>{3}</code>. \
         Measured by xip {4}.</p>",
        escaped(&title),
        size(report.size),
        size(report.memory),
        escaped(&report.work.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")),
        env!("CARGO_PKG_VERSION")
    );
    page += "<ul>";
    for line in findings(report) {
        let _ = write!(page, "<li>{}", escaped(&line));
    }
    page += "</ul><h2>Memory of this machine</h2>";
    page += &chart("Memory of this machine", points, report.size, &HOST);
    page += "<h2>A guest's own view</h2>";
    page += &chart("Memory that a guest uses, in its own view", points, report.size, &GUEST);
    page += "<h2>The figures</h2><table><tr><th>guests<th>disk: host<th>a guest<th>its page cache<th>in place: host, own + segment\
             <th>a guest<th>its page cache<th>processes: host, own + segment";
    for point in points {
        let _ = write!(page, "<tr><td>{}", cells(point).join("<td>"));
    }
    page + "</table></html>\n"
}

/// A chart with the number of guests to the right and bytes upwards, both from zero.
fn chart(title: &str, points: &[Point], segment: u64, lines: &[Line]) -> String {
    const WIDE: f64 = 760.0;
    const HIGH: f64 = 300.0;
    let values = points.iter().flat_map(|point| lines.iter().map(|line| line.2(point, segment)));
    let top = ceiling(values.max().unwrap_or(0));
    let most = points.iter().map(|point| point.count).max().unwrap_or(1).max(1);
    let x = |count: u16| 90.0 + f64::from(count) / f64::from(most) * (WIDE - 110.0);
    let y = |bytes: u64| 20.0 + (1.0 - bytes as f64 / top as f64) * (HIGH - 60.0);
    let below = 24.0 * lines.len() as f64;
    let mut svg = format!("<svg viewBox='0 0 {WIDE} {}' role=img aria-label='{title}'>", HIGH + below);
    let _ = write!(svg, "<text x=80 y={} text-anchor=end>how many</text>", HIGH - 20.0);
    for step in 0..=4 {
        let (bytes, right) = (top / 4 * step, WIDE - 20.0);
        let _ = write!(
            svg,
            "<line class=axis x1=90 x2={right} y1={0:.1} y2={0:.1} /><text x=80 y={1:.1} text-anchor=end>{2}</text>",
            y(bytes),
            y(bytes) + 4.0,
            size(bytes)
        );
    }
    for point in points {
        let _ =
            write!(svg, "<text x={:.1} y={} text-anchor=middle>{}</text>", x(point.count), HIGH - 20.0, point.count);
    }
    for (at, (class, name, value)) in lines.iter().enumerate() {
        let at = HIGH + 24.0 * at as f64;
        let place: Vec<_> = points.iter().map(|point| (x(point.count), y(value(point, segment)))).collect();
        let line: Vec<_> = place.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "<polyline class={class} points='{}' />", line.join(" "));
        for (x, y) in place {
            let _ = write!(svg, "<circle class={class} cx={x:.1} cy={y:.1} r=4 />");
        }
        let _ =
            write!(svg, "<circle class={class} cx=100 cy={:.1} r=5 /><text x=115 y={:.1}>{name}</text>", at - 4.0, at);
    }
    svg + "</svg>"
}

/// A round number of MiB, a multiple of four, not below.
fn ceiling(bytes: u64) -> u64 {
    let mut step = 4u64 << 20;
    while step * 4 < bytes {
        step *= 2;
    }
    bytes.div_ceil(step).max(1) * step
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
