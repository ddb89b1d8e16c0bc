//! Line charts as SVG text: no script, no font and no colour of their own, which the page's style
//! gives them.

use std::fmt::Write;

/// Size in the chart's own units; the page scales it.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;
/// Ticks of an axis, roughly.
const TICKS: f64 = 5.0;
/// With more points than this, pointing at one shows nothing.
const POINTS_WITH_WORDS_MAX: usize = 400;

/// From which value to which, and where lines and labels are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    first: f64,
    last: f64,
    is_log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to at least `last`, or with ticks up to there.
    pub(super) fn linear(last: f64, is_round: bool) -> Self {
        let last = if last.is_finite() && last > 0.0 { last } else { 1.0 };
        let step = round_step(last / TICKS);
        let count = if is_round { (last / step).ceil() } else { (last / step).floor() };
        let ticks = (0..=count as u32).map(|tick| f64::from(tick) * step);
        Axis {
            first: 0.0,
            last: if is_round { count * step } else { last },
            is_log: false,
            ticks: ticks.map(|tick| (tick, label(tick))).collect(),
        }
    }

    /// Whole powers of ten around these.
    pub(super) fn log(least: f64, most: f64) -> Self {
        let least = if least.is_finite() && least > 0.0 { least } else { 0.001 };
        let first = least.log10().floor() as i32;
        let last = (most.max(least).log10().ceil() as i32).max(first + 1);
        let ticks = (first..=last).map(|power| 10_f64.powi(power));
        Axis {
            first: 10_f64.powi(first),
            last: 10_f64.powi(last),
            is_log: true,
            ticks: ticks.map(|tick| (tick, label(tick))).collect(),
        }
    }

    /// Parts of a whole, each nine as wide as the one before it.
    pub(super) fn nines(count: u64) -> Self {
        let last = (count.max(1) as f64).log10().max(1.0);
        let mut ticks = vec![(0.0, "0 %".to_owned()), (nines(0.5), "50 %".to_owned())];
        for power in 1..=last.floor() as usize {
            let text = match power {
                1 => "90 %".to_owned(),
                2 => "99 %".to_owned(),
                more => format!("99.{} %", "9".repeat(more - 2)),
            };
            ticks.push((power as f64, text));
        }
        Axis { first: 0.0, last, is_log: false, ticks }
    }

    /// Where a value lies, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.first) / self.first).ln() / (self.last / self.first).ln()
        } else {
            (value - self.first) / (self.last - self.first)
        };
        place.clamp(0.0, 1.0)
    }
}

/// Where a part of a whole lies on an axis of [`Axis::nines`].
pub(super) fn nines(part: f64) -> f64 {
    -(1.0 - part).max(1e-12).log10()
}

/// 1, 2 or 5 and zeros, at least as large.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999_999);
    factor.unwrap_or(10.0) * power
}

/// A number in few characters.
pub(super) fn label(value: f64) -> String {
    let digits = |value: f64| {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value.abs() {
        large if large >= 1e6 => format!("{}M", digits(value / 1e6)),
        large if large >= 1e3 => format!("{}k", digits(value / 1e3)),
        _ => digits(value),
    }
}

/// A line of a chart.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart with its heading. Line number n has the class `line-n`.
pub(super) fn chart(
    heading: &str,
    x_name: &str,
    (x, y): (&Axis, &Axis),
    lines: &[Line<'_>],
    words: &dyn Fn(&Line<'_>, f64, f64) -> String,
) -> String {
    let mut text = String::new();
    write_chart(&mut text, heading, x_name, (x, y), lines, words)
        .expect("writing to a string does not fail");
    text
}

fn write_chart(
    to: &mut String,
    heading: &str,
    x_name: &str,
    (x, y): (&Axis, &Axis),
    lines: &[Line<'_>],
    words: &dyn Fn(&Line<'_>, f64, f64) -> String,
) -> std::fmt::Result {
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
    let heading = escape(heading);
    write!(to, "<figure><figcaption>{heading}")?;
    if lines.len() > 1 {
        for (number, line) in lines.iter().enumerate() {
            let name = escape(line.name);
            write!(to, " <span class=\"key\"><i class=\"fill-{number}\"></i>{name}</span>")?;
        }
    }
    write!(
        to,
        "</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{heading}\">\n"
    )?;
    for (value, label) in &y.ticks {
        let at = up(*value);
        writeln!(
            to,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        )?;
    }
    for (value, label) in &x.ticks {
        writeln!(
            to,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            across(*value),
            HEIGHT - BOTTOM + 16.0
        )?;
    }
    writeln!(
        to,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 3.0,
        escape(x_name)
    )?;
    for (number, line) in lines.iter().enumerate() {
        let mut path = String::new();
        for (at, (value_x, value_y)) in line.points.iter().enumerate() {
            let command = if at == 0 { 'M' } else { 'L' };
            write!(path, "{command}{:.1} {:.1}", across(*value_x), up(*value_y))?;
        }
        writeln!(to, "<path class=\"line line-{number}\" d=\"{path}\"/>")?;
        // A single point draws no line.
        let radius = if line.points.len() == 1 { 3 } else { 0 };
        for (value_x, value_y) in &line.points {
            let (cx, cy) = (across(*value_x), up(*value_y));
            if radius > 0 {
                write!(
                    to,
                    "<circle class=\"fill-{number}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius}\"/>"
                )?;
            }
            if line.points.len() <= POINTS_WITH_WORDS_MAX {
                let words = escape(&words(line, *value_x, *value_y));
                write!(
                    to,
                    "<circle class=\"spot\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"7\"><title>{words}\
                     </title></circle>"
                )?;
            }
        }
        to.push('\n');
    }
    to.push_str("</svg></figure>\n");
    Ok(())
}

/// Text that stands in a page as it is.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_and_hold_every_value() {
        let axis = Axis::linear(43_210.0, true);
        let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| &label[..]).collect();
        assert_eq!(labels, ["0", "10k", "20k", "30k", "40k", "50k"]);
        assert_eq!((axis.place(0.0), axis.place(25_000.0), axis.place(1e9)), (0.0, 0.5, 1.0));
        let axis = Axis::log(0.3, 70.0);
        assert_eq!((axis.first, axis.last, axis.place(0.1)), (0.1, 100.0, 0.0));
        assert!((axis.place(10.0) - 2.0 / 3.0).abs() < 1e-9);
        let labels: Vec<String> =
            Axis::nines(12_345).ticks.into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }

    #[test]
    fn axes_of_nothing_are_axes_still() {
        for axis in [Axis::linear(0.0, true), Axis::linear(f64::NAN, false), Axis::log(0.0, 0.0)] {
            assert!(axis.last > axis.first && axis.ticks.len() > 1, "{axis:?}");
        }
        assert!(Axis::nines(0).last >= 1.0);
    }

    #[test]
    fn what_a_server_says_cannot_become_part_of_the_page() {
        assert_eq!(escape("<b>\"&"), "&lt;b&gt;&quot;&amp;");
    }
}
