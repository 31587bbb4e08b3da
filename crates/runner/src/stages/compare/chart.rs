//! Bits per byte of held-out text over the steps, a line for each training, as SVG.

use anyhow::anyhow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::Comparison;
use crate::Result;
use crate::progress::format::{count, number};
use crate::stages::report::chart::{Axis, GRID, INK, UNIT};
use crate::stages::report::curve::log_ticks;

const WIDTH: i32 = 880;
const PLOT: i32 = 380;
const TEXT: i32 = 13;
/// Pixels of a row of the legend, and names in a row.
const LEGEND: (i32, i32) = (22, 3);

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

/// The drawing, with a `viewBox` and no size of its own; `None` where no training looked at held-out text twice.
pub(super) fn draw(comparison: &Comparison) -> Result<Option<String>> {
    let rows: Vec<_> = comparison.rows.iter().filter(|row| row.curve.len() > 1).collect();
    // The first looks are at models that know nothing; the last show what differs.
    let shown = || rows.iter().flat_map(|row| &row.curve[1..]);
    let low = shown().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = shown().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let last = shown().map(|p| p.0).fold(1.0, f64::max);
    if rows.is_empty() || low <= 0.0 {
        return Ok(None);
    }
    let room = ((high / low).ln() * 0.06).max(0.002);
    let legend_rows = (rows.len() as i32 + LEGEND.1 - 1) / LEGEND.1;
    let height = PLOT + 16 + legend_rows * LEGEND.0;
    let size = ((WIDTH * UNIT) as u32, (height * UNIT) as u32);
    let mut svg = String::new();
    let drawn = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let font = |colour: &RGBColor| {
            // The backend divides by 1.24, the height of a line over that of its letters.
            ("sans-serif", f64::from(TEXT * UNIT) * 1.24).into_font().color(colour)
        };
        let (bottom, top) = (low.ln() - room, high.ln() + room);
        let ticks = log_ticks(bottom.exp(), top.exp(), 9).into_iter().map(f64::ln).collect();
        let y = Axis { from: bottom, to: top, ticks };
        let (above, plot) = root.split_vertically((16 + legend_rows * LEGEND.0) * UNIT);
        let mut chart = ChartBuilder::on(&plot)
            .margin_top(8 * UNIT)
            .margin_right(24 * UNIT)
            .set_label_area_size(LabelAreaPosition::Left, 66 * UNIT)
            .set_label_area_size(LabelAreaPosition::Bottom, 44 * UNIT)
            .build_cartesian_2d(0.0..last, y)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID.stroke_width(UNIT as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(GRID.stroke_width(UNIT as u32))
            .label_style(font(&INK))
            .axis_desc_style(font(&INK))
            .x_labels(8)
            .x_label_formatter(&|x| count(x.round() as u64))
            .y_label_formatter(&|y| number((y.exp() * 1e4).round() / 1e4))
            .x_desc("step")
            .y_desc("bits per byte, held-out text")
            .draw()?;
        for (i, row) in rows.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let line: Vec<_> = row.curve[1..].iter().map(|p| (p.0, p.1.ln())).collect();
            let dots: Vec<_> = line.clone();
            let stroke = colour.stroke_width(2 * UNIT as u32);
            chart.draw_series([PathElement::new(line, stroke)])?;
            chart
                .draw_series(dots.into_iter().map(|p| Circle::new(p, 3 * UNIT, colour.filled())))?;
            let (x, y) = (66 + i as i32 % LEGEND.1 * 265, 14 + i as i32 / LEGEND.1 * LEGEND.0);
            let bar = [(x * UNIT, (y - 2) * UNIT), ((x + 16) * UNIT, (y + 2) * UNIT)];
            above.draw(&Rectangle::new(bar, colour.filled()))?;
            let name: String = comparison.names(row).join(", ").chars().take(34).collect();
            let style = font(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            above.draw(&Text::new(name, ((x + 22) * UNIT, y * UNIT), style))?;
        }
        root.present()?;
        Ok(())
    };
    let mut drawn = drawn;
    drawn().map_err(|e| anyhow!("drawing the comparison: {e}"))?;
    // The backend writes a size in units; the page decides on the size in pixels.
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    Ok(Some(format!(
        "<svg class=\"curve\" viewBox=\"0 0 {} {}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" \
         aria-label=\"Bits per byte of held-out text over the steps, by training\">{body}",
        size.0, size.1
    )))
}

/// The drawing as a file of its own, on white.
pub(super) fn standalone(svg: &str) -> String {
    let svg = svg.replacen("<svg", &format!("<svg width=\"{WIDTH}\""), 1);
    svg.replacen('>', ">\n<rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>", 1)
}
