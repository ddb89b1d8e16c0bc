//! Bars as SVG: a group for each network, a bar for each column, a line from the median to p90.
//!
//! Lengths are logarithmic, since a zone and an ocean are on one page. Colours and background are the
//! picture's own, so that it looks the same wherever the document is shown.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = 80.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 30.0;
const BAR: f64 = 11.0;
const GAP: f64 = 3.0;
const GROUP_GAP: f64 = 14.0;
/// Of the columns, in their order; those of one system are of one hue.
const COLOURS: [&str; 8] =
    ["#8a8a8a", "#b8b8b8", "#c6dbef", "#9ecae1", "#2ca25f", "#e6550d", "#08519c", "#3182bd"];

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) title: String,
    /// Number of its colour.
    pub(super) colour: usize,
    pub(super) median: f64,
    pub(super) p90: f64,
}

/// Bars under a heading.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) title: String,
    pub(super) bars: Vec<Bar>,
}

/// The picture; none without bars.
pub(super) fn bars(heading: &str, unit: &str, groups: &[Group]) -> Option<String> {
    let values = || {
        let all = groups.iter().flat_map(|group| &group.bars);
        all.flat_map(|bar| [bar.median, bar.p90]).filter(|value| *value > 0.0)
    };
    let least = values().min_by(f64::total_cmp)?;
    let most = values().max_by(f64::total_cmp)?;
    let first = least.log10().floor();
    let last = most.log10().ceil().max(first + 1.0);
    let across = |value: f64| {
        let part = (value.max(10_f64.powf(first)).log10() - first) / (last - first);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    let count = groups.iter().map(|group| group.bars.len()).sum::<usize>() as f64;
    let height = TOP + BOTTOM + count * (BAR + GAP) + groups.len() as f64 * (GROUP_GAP + BAR);
    let mut text = String::new();
    write(&mut text, heading, unit, groups, (first as i32, last as i32), height, &across)
        .expect("writing to a string does not fail");
    Some(text)
}

fn write(
    to: &mut String,
    heading: &str,
    unit: &str,
    groups: &[Group],
    (first, last): (i32, i32),
    height: f64,
    across: &dyn Fn(f64) -> f64,
) -> std::fmt::Result {
    let heading = escape(heading);
    writeln!(
        to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{heading}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{heading}</text>\n\
         <text x=\"10\" y=\"36\" fill=\"#666\">bar: median; line: p90; {}</text>",
        escape(unit)
    )?;
    for power in first..=last {
        let at = across(10_f64.powi(power));
        writeln!(
            to,
            "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\" fill=\"#666\">{}</text>",
            height - BOTTOM,
            height - BOTTOM + 16.0,
            10_f64.powi(power)
        )?;
    }
    let mut y = TOP;
    for group in groups {
        y += GROUP_GAP;
        writeln!(
            to,
            "<text x=\"10\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            y + 4.0,
            escape(&group.title)
        )?;
        y += BAR;
        for bar in &group.bars {
            let (end, far) = (across(bar.median), across(bar.p90));
            let middle = y + BAR / 2.0;
            writeln!(
                to,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\
                 <path d=\"M{end:.1} {middle:.1}H{far:.1}\" stroke=\"#222\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{:.0}</text>",
                LEFT - 6.0,
                y + BAR - 2.0,
                escape(&bar.title),
                (end - LEFT).max(1.0),
                COLOURS[bar.colour % COLOURS.len()],
                far.max(end) + 5.0,
                y + BAR - 2.0,
                bar.median
            )?;
            y += BAR + GAP;
        }
    }
    writeln!(to, "</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_bar_is_longer_and_nothing_is_no_picture() {
        let bar = |title: &str, median: f64| Bar {
            title: title.into(),
            colour: 0,
            median,
            p90: 2.0 * median,
        };
        let group =
            Group { title: "a<b".into(), bars: vec![bar("short", 30.0), bar("long", 1_200.0)] };
        let picture = bars("heading", "ms", &[group]).unwrap();
        let widths: Vec<f64> = picture
            .split("width=\"")
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .filter(|width: &f64| *width < WIDTH)
            .collect();
        assert_eq!(widths.len(), 2);
        assert!(widths[0] < widths[1], "{widths:?}");
        assert!(picture.contains("a&lt;b") && picture.contains(">1200<"));
        assert_eq!(bars("heading", "ms", &[]), None);
    }
}
