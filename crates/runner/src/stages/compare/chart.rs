//! Bits per byte of held-out text over steps, FLOPs and time, a line for each training, as SVG.

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::{Comparison, Look};
use crate::Result;
use crate::progress::format::{count, duration, number};
use crate::stages::report::chart::{Axis, GRID, INK, UNIT};
use crate::stages::report::curve::{linear_ticks, log_ticks};
use crate::stages::report::model::short;

/// How large a drawing is and how much fits into it, in pixels.
struct Layout {
    class: &'static str,
    width: i32,
    plot: i32,
    text: i32,
    left: i32,
    x_ticks: usize,
    y_ticks: usize,
    /// Names in a row of the legend, and characters of one.
    legend: (i32, usize),
}

const WIDE: Layout = Layout {
    class: "wide",
    width: 880,
    plot: 380,
    text: 13,
    left: 66,
    x_ticks: 8,
    y_ticks: 9,
    legend: (3, 34),
};
/// For a phone.
const NARROW: Layout = Layout {
    class: "narrow",
    width: 360,
    plot: 320,
    text: 12,
    left: 56,
    x_ticks: 4,
    y_ticks: 7,
    legend: (2, 20),
};
/// Pixels of a row of the legend.
const LEGEND_ROW: i32 = 22;

/// Readable on white and on near-black; the first is the baseline's.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x6B, 0x76, 0x82),
    RGBColor(0x2F, 0x7D, 0xE0),
    RGBColor(0xE0, 0x69, 0x1F),
    RGBColor(0x3F, 0x9D, 0x68),
    RGBColor(0xA8, 0x5C, 0xD6),
    RGBColor(0xC9, 0x3B, 0x5B),
    RGBColor(0x1B, 0x9A, 0xAA),
    RGBColor(0xA8, 0x8B, 0x14),
];

/// What bits per byte are drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    Steps,
    Flops,
    Time,
}

impl Against {
    const ALL: [Self; 3] = [Self::Steps, Self::Flops, Self::Time];

    fn of(self, look: &Look) -> Option<f64> {
        match self {
            Self::Steps => Some(look.step),
            Self::Flops => look.flops,
            Self::Time => look.seconds,
        }
        .filter(|x| x.is_finite())
    }

    fn about(self) -> &'static str {
        match self {
            Self::Steps => "Bits per byte of held-out text over the steps, by training",
            Self::Flops => "Bits per byte of held-out text over FLOPs, by training",
            Self::Time => "Bits per byte of held-out text over time, by training",
        }
    }

    fn axis(self) -> &'static str {
        match self {
            Self::Steps => "step",
            Self::Flops => "FLOPs",
            Self::Time => "time",
        }
    }

    fn tick(self, x: f64) -> String {
        match self {
            Self::Steps => count(x.round() as u64),
            Self::Flops => short(x),
            Self::Time => duration(x),
        }
    }
}

/// One drawing: with a `viewBox` and no size of its own, as wide as a column of text and as wide as a phone.
pub(super) struct Picture {
    against: Against,
    pub(super) wide: String,
    pub(super) narrow: String,
}

impl Picture {
    /// What it shows.
    pub(super) fn about(&self) -> &'static str {
        self.against.about()
    }

    /// Its name in the report's folder.
    pub(super) fn file(&self) -> &'static str {
        match self.against {
            Against::Steps => "bpb.svg",
            Against::Flops => "bpb-flops.svg",
            Against::Time => "bpb-time.svg",
        }
    }

    /// As a file of its own, on white.
    pub(super) fn standalone(&self) -> String {
        let sized = format!("<svg width=\"{}\"", WIDE.width);
        let svg = self.wide.replacen("<svg", &sized, 1);
        svg.replacen('>', ">\n<rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>", 1)
    }
}

/// All that can be drawn; none where no training looked at held-out text twice.
pub(super) fn draw(comparison: &Comparison) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for against in Against::ALL {
        let Some(wide) = one(comparison, against, &WIDE)? else { continue };
        let narrow = one(comparison, against, &NARROW)?.unwrap_or_default();
        pictures.push(Picture { against, wide, narrow });
    }
    Ok(pictures)
}

/// The lines of a drawing: the variant, and its points from the second look on.
fn lines(comparison: &Comparison, against: Against) -> Vec<(usize, Vec<(f64, f64)>)> {
    let mut lines = Vec::new();
    for (i, variant) in comparison.variants.iter().enumerate() {
        for &row in &variant.rows {
            // The first looks are at models that know nothing; the last show what differs.
            let looks = comparison.rows[row].curve.iter().skip(1);
            let points: Vec<_> =
                looks.filter_map(|look| Some((against.of(look)?, look.bpb))).collect();
            if !points.is_empty() {
                lines.push((i, points));
            }
        }
    }
    lines
}

fn one(comparison: &Comparison, against: Against, layout: &Layout) -> Result<Option<String>> {
    let lines = lines(comparison, against);
    let shown = || lines.iter().flat_map(|(_, points)| points);
    let low = shown().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = shown().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let last = shown().map(|p| p.0).fold(0.0, f64::max);
    if lines.is_empty() || low <= 0.0 || last <= 0.0 {
        return Ok(None);
    }
    let mut named: Vec<usize> = lines.iter().map(|(variant, _)| *variant).collect();
    named.dedup();
    let room = ((high / low).ln() * 0.06).max(0.002);
    let legend_rows = (named.len() as i32 + layout.legend.0 - 1) / layout.legend.0;
    let legend = 16 + legend_rows * LEGEND_ROW;
    let size = ((layout.width * UNIT) as u32, ((layout.plot + legend) * UNIT) as u32);
    let mut svg = String::new();
    let mut drawn = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let font = |colour: &RGBColor| {
            // The backend divides by 1.24, the height of a line over that of its letters.
            ("sans-serif", f64::from(layout.text * UNIT) * 1.24).into_font().color(colour)
        };
        let (bottom, top) = (low.ln() - room, high.ln() + room);
        let ticks = log_ticks(bottom.exp(), top.exp(), layout.y_ticks);
        let y = Axis { from: bottom, to: top, ticks: ticks.into_iter().map(f64::ln).collect() };
        let x = Axis { from: 0.0, to: last, ticks: linear_ticks(0.0, last, layout.x_ticks) };
        let (above, plot) = root.split_vertically(legend * UNIT);
        let mut chart = ChartBuilder::on(&plot)
            .margin_top(8 * UNIT)
            .margin_right(32 * UNIT)
            .set_label_area_size(LabelAreaPosition::Left, layout.left * UNIT)
            .set_label_area_size(LabelAreaPosition::Bottom, 44 * UNIT)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(UNIT as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(UNIT as u32))
            .label_style(font(&INK))
            .axis_desc_style(font(&INK))
            .x_label_formatter(&|x| against.tick(*x))
            .y_label_formatter(&|y| number((y.exp() * 1e4).round() / 1e4))
            .x_desc(against.axis())
            .y_desc("bits per byte, held-out text")
            .draw()?;
        for (variant, points) in &lines {
            let colour = COLOURS[variant % COLOURS.len()];
            let points: Vec<_> = points.iter().map(|p| (p.0, p.1.ln())).collect();
            chart.draw_series([PathElement::new(
                points.clone(),
                colour.stroke_width(2 * UNIT as u32),
            )])?;
            let dots = points.into_iter().map(|p| Circle::new(p, 3 * UNIT, colour.filled()));
            chart.draw_series(dots)?;
        }
        let (columns, most) = layout.legend;
        let left = if columns == 2 { 8 } else { layout.left };
        let column = (layout.width - left) / columns;
        for (i, &variant) in named.iter().enumerate() {
            let i = i as i32;
            let (x, y) = (left + i % columns * column, 14 + i / columns * LEGEND_ROW);
            let bar = [(x * UNIT, (y - 2) * UNIT), ((x + 16) * UNIT, (y + 2) * UNIT)];
            above.draw(&Rectangle::new(bar, COLOURS[variant % COLOURS.len()].filled()))?;
            let name = comparison.variants[variant].names.join(", ");
            let name = if name.is_empty() { "all".to_owned() } else { name };
            let name = match name.char_indices().nth(most) {
                Some((end, _)) => format!("{}…", &name[..end]),
                None => name,
            };
            let style = font(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            above.draw(&Text::new(name, ((x + 22) * UNIT, y * UNIT), style))?;
        }
        root.present()?;
        Ok(())
    };
    drawn().map_err(|e| anyhow!("drawing the comparison: {e}"))?;
    // The backend writes a size in units; the page decides on the size in pixels.
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let about = against.about();
    Ok(Some(format!(
        "<svg class=\"curve {}\" viewBox=\"0 0 {} {}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{about}\">{body}",
        layout.class, size.0, size.1
    )))
}
