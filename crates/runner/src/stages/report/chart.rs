//! The loss curve as SVG: losses above, the learning rate in a thin panel below. One drawing for wide screens, one for phones.
//!
//! Colours stand in the SVG as given here; the page's style sheet turns them into the colours of its theme.

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::curve::{Curve, linear_ticks};
use crate::Result;
use crate::progress::format::{count, number};

/// Text, and the axes' labels.
pub(in crate::stages) const INK: RGBColor = RGBColor(0x47, 0x51, 0x5C);
/// Grid lines and frames.
pub(in crate::stages) const GRID: RGBColor = RGBColor(0xE3, 0xE6, 0xEA);
/// The training loss of every step.
const RAW: RGBColor = RGBColor(0xB9, 0xCD, 0xEA);
/// The smoothed training loss.
const SMOOTH: RGBColor = RGBColor(0x1F, 0x5F, 0xBF);
/// Held-out text.
const HELD_OUT: RGBColor = RGBColor(0xD1, 0x57, 0x0B);
/// The learning rate.
const RATE: RGBColor = RGBColor(0x3F, 0x7D, 0x58);

/// Drawing units per pixel: the backend rounds to whole units.
pub(in crate::stages) const UNIT: i32 = 4;

/// How large a drawing is and how much fits into it, in pixels.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    width: i32,
    height: i32,
    rate_height: i32,
    text: i32,
    left: i32,
    right: i32,
    /// Characters of a number for which there is room at the right.
    right_characters: usize,
    x_ticks: usize,
    y_ticks: usize,
    legend_rows: bool,
}

impl Layout {
    /// For a page as wide as a text column.
    pub(super) const WIDE: Self = Self {
        width: 880,
        height: 460,
        rate_height: 110,
        text: 13,
        left: 66,
        right: 66,
        right_characters: 6,
        x_ticks: 8,
        y_ticks: 8,
        legend_rows: false,
    };
    /// For a phone.
    pub(super) const NARROW: Self = Self {
        width: 360,
        height: 420,
        rate_height: 100,
        text: 12,
        left: 56,
        right: 48,
        right_characters: 4,
        x_ticks: 4,
        y_ticks: 7,
        legend_rows: true,
    };

    /// With room at the right for the longest number there, beside what is written along the axis.
    fn with_room_for(self, curve: &Curve) -> Self {
        let Some(scale) = curve.bpb_per_nat else { return self };
        let ticks = curve.ticks(scale, self.y_ticks);
        let longest = ticks.iter().map(|t| tick(*t).chars().count()).max().unwrap_or(0);
        let more = longest.saturating_sub(self.right_characters) as i32;
        Self { right: self.right + more * self.text * 3 / 4, ..self }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the curve. The SVG has a `viewBox` and the class `class`, but no size of its own.
pub(super) fn draw(curve: &Curve, layout: Layout, class: &str) -> Result<String> {
    let layout = layout.with_room_for(curve);
    let mut svg = String::new();
    let size = ((layout.width * UNIT) as u32, (layout.height * UNIT) as u32);
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let fault = |e: &dyn std::fmt::Display| anyhow!("drawing the loss curve: {e}");
        let rate_height = if curve.lr.is_empty() { 0 } else { layout.rate_height };
        let (upper, lower) = root.split_vertically((layout.height - rate_height) * UNIT);
        losses(&upper, curve, layout, curve.lr.is_empty()).map_err(|e| fault(&e))?;
        if !curve.lr.is_empty() {
            rates(&lower, curve, layout).map_err(|e| fault(&e))?;
        }
        root.present().map_err(|e| fault(&e))?;
    }
    // The backend writes a size in units; the page decides on the size in pixels.
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let about = "Training loss and bits per byte of held-out text over the steps";
    Ok(format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {} {}\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{about}\">{body}",
        size.0, size.1
    ))
}

/// The wide drawing as a file of its own, on white.
pub(super) fn standalone(curve: &Curve) -> Result<String> {
    let layout = Layout::WIDE;
    let svg = draw(curve, layout, "curve")?;
    let sized = format!("<svg width=\"{}\" height=\"{}\"", layout.width, layout.height);
    let svg = svg.replacen("<svg", &sized, 1);
    let white = "<rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>";
    Ok(svg.replacen('>', &format!(">\n{white}"), 1))
}

type Drawn<'a> =
    std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn losses<'a>(area: &Area<'a>, curve: &Curve, layout: Layout, last: bool) -> Drawn<'a> {
    let per_nat = curve.bpb_per_nat;
    let legend = Legend::new(curve);
    let x = Axis { from: 0.0, to: curve.last_step, ticks: steps(curve, layout) };
    let scale = per_nat.unwrap_or(1.0);
    let axis = |scale: f64| Axis {
        from: curve.y(curve.range.0),
        to: curve.y(curve.range.1),
        ticks: curve.ticks(scale, layout.y_ticks).iter().map(|t| curve.y(t / scale)).collect(),
    };
    let mut chart = ChartBuilder::on(area)
        .margin_top(legend.height(layout) * UNIT)
        .margin_bottom(8 * UNIT)
        .set_label_area_size(LabelAreaPosition::Left, layout.left * UNIT)
        .margin_right(if per_nat.is_some() { 0 } else { layout.right * UNIT })
        .set_label_area_size(
            LabelAreaPosition::Right,
            if per_nat.is_some() { layout.right * UNIT } else { 0 },
        )
        .set_label_area_size(LabelAreaPosition::Bottom, if last { 44 * UNIT } else { 0 })
        .build_cartesian_2d(x, axis(1.0))?
        .set_secondary_coord(0.0..curve.last_step, axis(scale));
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(UNIT as u32))
        .light_line_style(TRANSPARENT)
        .axis_style(GRID.stroke_width(UNIT as u32))
        .label_style(text(layout, INK))
        .axis_desc_style(text(layout, INK))
        .y_label_formatter(&|y| tick(curve.loss(*y)))
        .x_label_formatter(&|x| count(x.round() as u64))
        .set_all_tick_mark_size(4 * UNIT)
        .x_desc(if last { "step" } else { "" })
        .y_desc("loss, nats per token")
        .draw()?;
    if per_nat.is_some() {
        chart
            .configure_secondary_axes()
            .axis_style(GRID.stroke_width(UNIT as u32))
            .label_style(text(layout, INK))
            .axis_desc_style(text(layout, INK))
            .y_label_formatter(&|y| tick(curve.loss(*y) * scale))
            .set_all_tick_mark_size(4 * UNIT)
            .y_desc("bits per byte")
            .draw()?;
    }
    let place =
        |points: &[(f64, f64)]| points.iter().map(|p| (p.0, curve.y(p.1))).collect::<Vec<_>>();
    let line = |points: &[(f64, f64)], colour: RGBColor, width: i32| {
        PathElement::new(place(points), colour.stroke_width((width * UNIT / 4) as u32))
    };
    chart.draw_series([line(&curve.raw, RAW, 5), line(&curve.smooth, SMOOTH, 9)])?;
    let dots = place(&curve.held_out);
    let radius = if dots.len() > 40 { 2 * UNIT } else { 4 * UNIT };
    chart.draw_series(dots.into_iter().map(|p| Circle::new(p, radius, HELD_OUT.filled())))?;
    legend.draw(area, layout)
}

fn rates<'a>(area: &Area<'a>, curve: &Curve, layout: Layout) -> Drawn<'a> {
    let most = curve.lr.iter().map(|p| p.1).fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.15 } else { 1.0 };
    let ticks = linear_ticks(0.0, top, 2);
    let mut chart = ChartBuilder::on(area)
        .margin_top(4 * UNIT)
        .margin_right(layout.right * UNIT)
        .set_label_area_size(LabelAreaPosition::Left, layout.left * UNIT)
        .set_label_area_size(LabelAreaPosition::Bottom, 44 * UNIT)
        .build_cartesian_2d(
            Axis { from: 0.0, to: curve.last_step, ticks: steps(curve, layout) },
            Axis { from: 0.0, to: top, ticks },
        )?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(UNIT as u32))
        .light_line_style(TRANSPARENT)
        .axis_style(GRID.stroke_width(UNIT as u32))
        .label_style(text(layout, INK))
        .axis_desc_style(text(layout, INK))
        .x_label_formatter(&|x| count(x.round() as u64))
        .y_label_formatter(&|y| tick(*y))
        .set_all_tick_mark_size(4 * UNIT)
        .x_desc("step")
        .draw()?;
    let style = RATE.stroke_width((UNIT * 2) as u32);
    chart.draw_series([PathElement::new(curve.lr.clone(), style)])?;
    Ok(())
}

/// A linear axis with the ticks it is given.
pub(in crate::stages) struct Axis {
    pub(in crate::stages) from: f64,
    pub(in crate::stages) to: f64,
    pub(in crate::stages) ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Light lines are the grid's subdivisions; there are none.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }
}

fn steps(curve: &Curve, layout: Layout) -> Vec<f64> {
    linear_ticks(0.0, curve.last_step, layout.x_ticks)
        .into_iter()
        .filter(|x| x.fract() == 0.0)
        .collect()
}

/// A tick's number: round values lose the noise of their logarithm.
fn tick(x: f64) -> String {
    number((x * 1e9).round() / 1e9)
}

/// The backend divides by 1.24, the height of a line over that of its letters.
fn text(layout: Layout, colour: RGBColor) -> TextStyle<'static> {
    let size = f64::from(layout.text * UNIT) * 1.24;
    ("sans-serif", size).into_font().color(&colour)
}

/// What each line is, above the plot.
struct Legend {
    entries: Vec<(&'static str, RGBColor)>,
}

impl Legend {
    fn new(curve: &Curve) -> Self {
        let mut entries = vec![("training, smoothed", SMOOTH), ("every step", RAW)];
        if !curve.held_out.is_empty() {
            entries.push(("held-out text", HELD_OUT));
        }
        if !curve.lr.is_empty() {
            entries.push(("rate, as a factor", RATE));
        }
        Self { entries }
    }

    fn rows(&self, layout: Layout) -> i32 {
        if layout.legend_rows { (self.entries.len() as i32 + 1) / 2 } else { 1 }
    }

    fn height(&self, layout: Layout) -> i32 {
        12 + self.rows(layout) * 22
    }

    fn draw<'a>(&self, area: &Area<'a>, layout: Layout) -> Drawn<'a> {
        // On a phone two columns over the whole width, otherwise one row over the plot.
        let (left, columns, column) = if layout.legend_rows {
            (8, 2, layout.width / 2)
        } else {
            (layout.left, self.entries.len() as i32, 170)
        };
        let style = text(layout, INK).pos(Pos::new(HPos::Left, VPos::Center));
        for (i, (name, colour)) in self.entries.iter().enumerate() {
            let i = i as i32;
            let x = (left + i % columns * column) * UNIT;
            let y = (14 + i / columns * 22) * UNIT;
            let bar = [(x, y - 2 * UNIT), (x + 16 * UNIT, y + 2 * UNIT)];
            area.draw(&Rectangle::new(bar, colour.filled()))?;
            area.draw(&Text::new(*name, (x + 22 * UNIT, y), style.clone()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_at_the_right_have_room_beside_what_the_axis_is_called() {
        let right = |layout: Layout, range: (f64, f64), bpb_per_nat| {
            let curve = Curve {
                raw: Vec::new(),
                smooth: Vec::new(),
                held_out: Vec::new(),
                bpb_per_nat,
                lr: Vec::new(),
                last_step: 2.0,
                range,
                log: false,
            };
            layout.with_room_for(&curve).right
        };
        let near = (6.924, 6.937);
        assert_eq!(right(Layout::NARROW, (1.0, 7.0), Some(0.5)), 48);
        assert_eq!(right(Layout::NARROW, near, Some(0.578)), 48 + 9);
        assert_eq!(right(Layout::WIDE, near, Some(0.578)), 66);
        assert_eq!(right(Layout::NARROW, near, None), 48);
        assert!(right(Layout::NARROW, (0.0, 1e12), Some(1.0)) < Layout::NARROW.width / 2);
    }
}
