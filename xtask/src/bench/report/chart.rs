// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bar chart a scenario, as SVG on a white ground of its own, so that it can
//! be read on a light page and on a dark one.

use anyhow::{Context, Result};
use plotters::{
    prelude::{
        ChartBuilder, Color, DrawingArea, IntoDrawingArea, IntoFont, IntoSegmentedCoord,
        PathElement, RGBColor, Rectangle, SVGBackend, SegmentValue, ShapeStyle, Text, TextStyle,
        WHITE,
    },
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{rows, table};
use crate::bench::sample::{Comparison, Figure, Latency, Run, Series, Unit};

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    name: String,
    title: String,
    bars: Vec<Bar>,
}

/// A bar of it.
#[derive(Clone, Debug, PartialEq)]
struct Bar {
    label: String,
    value: f64,
    /// From the lowest to the highest round.
    whisker: Option<(f64, f64)>,
    /// The value as it is written beside the bar.
    text: String,
    colour: RGBColor,
}

/// The charts of a run: one a scenario, of figures one for each unit that
/// several of them share.
pub fn all(run: &Run) -> Vec<Chart> {
    let mut charts: Vec<Chart> = run.comparisons.iter().filter_map(of_comparison).collect();
    for scenario in table::scenarios_of_figures(run) {
        charts.extend(of_figures(run, scenario));
    }
    charts
}

/// The chart of a comparison; none when nothing was measured.
pub fn of_comparison(comparison: &Comparison) -> Option<Chart> {
    let measured: Vec<(&str, &Series)> = comparison
        .outcomes
        .iter()
        .filter_map(|(name, outcome)| Some((name.as_str(), outcome.series()?)))
        .filter(|(_, series)| !series.samples.is_empty())
        .collect();
    let fixed = rows::is_at_a_fixed_rate(comparison);
    let bars: Vec<Bar> = if fixed {
        measured.iter().flat_map(latencies).collect()
    } else {
        measured
            .iter()
            .map(|it| rate(comparison.unit, it))
            .collect()
    };
    let what = match fixed {
        true => "latency, ms",
        false => rows::rate_unit(comparison.unit),
    };
    (!bars.is_empty()).then(|| Chart {
        name: comparison.scenario.clone(),
        title: format!("{}: {what}", comparison.scenario),
        bars,
    })
}

/// The charts of a scenario's figures.
pub fn of_figures(run: &Run, scenario: &str) -> Vec<Chart> {
    let figures = || run.figures.iter().filter(|it| it.scenario == scenario);
    let mut units: Vec<&str> = Vec::new();
    for figure in figures() {
        if !units.contains(&figure.unit.as_str()) {
            units.push(&figure.unit);
        }
    }
    let chart = |unit: &str| {
        let bar = |figure: &Figure| Bar {
            label: figure.name.clone(),
            value: figure.value,
            whisker: None,
            text: rows::number(figure.value),
            // A contender's name comes first where there are several.
            colour: match figure.name.split(':').next().unwrap_or_default() {
                name @ ("direct" | "nftables" | "haproxy" | "nginx" | "envoy") => colour(name),
                _ => OWN,
            },
        };
        let shared = figures().filter(|it| it.unit == unit && it.value.is_finite());
        let bars: Vec<Bar> = shared.map(bar).collect();
        let letters = |unit: &str| unit.replace(|it: char| !it.is_ascii_alphanumeric(), "-");
        (bars.len() > 1).then(|| Chart {
            name: format!("{scenario}-{}", letters(unit)),
            title: format!("{scenario}: {unit}"),
            bars,
        })
    };
    units.into_iter().filter_map(chart).collect()
}

fn rate(unit: Unit, (name, series): &(&str, &Series)) -> Bar {
    let scale = match unit {
        Unit::BitsPerSecond => 1e-9,
        Unit::RequestsPerSecond | Unit::ConnectionsPerSecond => 1.0,
    };
    Bar {
        label: (*name).to_owned(),
        value: scale * series.median_rate(),
        whisker: Some((scale * series.min_rate(), scale * series.max_rate())),
        text: rows::rate(unit, series.median_rate()),
        colour: colour(name),
    }
}

/// A bar for each percentile, the contender named at the first.
fn latencies((name, series): &(&str, &Series)) -> Vec<Bar> {
    type Percentile = fn(&Latency) -> f64;
    let percentiles: [(String, Percentile, f64); 3] = [
        (format!("{name}  p50"), |it| it.p50, 1.0),
        ("p99".to_owned(), |it| it.p99, 0.75),
        ("p99.9".to_owned(), |it| it.p999, 0.5),
    ];
    percentiles
        .into_iter()
        .filter_map(|(label, percentile, strength)| {
            let value = 1e3 * percentile(&series.latency()?);
            let rounds = series.samples.iter().filter_map(|it| it.latency);
            let rounds = rounds.map(|it| 1e3 * percentile(&it));
            let (low, high) = (
                rounds.clone().fold(f64::NAN, f64::min),
                rounds.fold(f64::NAN, f64::max),
            );
            Some(Bar {
                label,
                value,
                whisker: Some((low, high)),
                text: format!("{value:.2}"),
                colour: paler(colour(name), strength),
            })
        })
        .collect()
}

fn colour(contender: &str) -> RGBColor {
    match contender {
        "direct" => FLOOR,
        name if name.starts_with("sluice") => OWN,
        _ => PEER,
    }
}

fn paler(RGBColor(red, green, blue): RGBColor, strength: f64) -> RGBColor {
    let mix = |part: u8| (255.0 - strength * (255.0 - f64::from(part))) as u8;
    RGBColor(mix(red), mix(green), mix(blue))
}

impl Chart {
    /// The name of its file.
    pub fn file(&self) -> String {
        format!("{}.svg", self.name)
    }

    /// What it shows.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The chart as SVG.
    ///
    /// # Errors
    ///
    /// When it cannot be drawn.
    pub fn render(&self) -> Result<String> {
        let mut svg = String::new();
        let height = TITLE + BAR * self.bars.len() as u32 + AXIS + 2 * MARGIN;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        // The drawing errors borrow from the area, so they become text here.
        let drawn = self
            .draw(&area)
            .and_then(|()| area.present().map_err(|error| anyhow::anyhow!("{error}")));
        drop(area);
        drawn.with_context(|| format!("draw the chart {}", self.name))?;
        svg.push('\n');
        Ok(svg)
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()> {
        let count = self.bars.len();
        let longest = self.bars.iter().map(|bar| bar.label.chars().count()).max();
        let labels = (LETTER * longest.unwrap_or_default() as f64) as u32 + 16;
        let highest = self
            .bars
            .iter()
            .flat_map(|bar| [bar.value, bar.whisker.map_or(0.0, |(_, high)| high)])
            .fold(0.0, f64::max);
        // Room for the value beside the longest bar.
        let texts = self.bars.iter().map(|bar| bar.text.chars().count()).max();
        let room = LETTER * texts.unwrap_or_default() as f64 + 16.0;
        let plot = f64::from(WIDTH.saturating_sub(labels + 2 * MARGIN)).max(room + 100.0);
        let end = if highest > 0.0 { highest } else { 1.0 } * plot / (plot - room);

        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .margin(MARGIN)
            .caption(&self.title, (FONT, 18).into_font().color(&INK))
            .x_label_area_size(AXIS)
            .y_label_area_size(labels)
            .build_cartesian_2d(0.0..end, (0..count.saturating_sub(1)).into_segmented())?;
        let label = |segment: &SegmentValue<usize>| match segment {
            // Counted from below; the first bar is at the top.
            SegmentValue::CenterOf(row) if *row < count => self.bars[count - 1 - row].label.clone(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_labels(6)
            .x_label_formatter(&|value| rows::tick(*value))
            .y_labels(count)
            .y_label_formatter(&label)
            .label_style((FONT, 14).into_font().color(&INK))
            .draw()?;
        let plane = chart.plotting_area();
        for (index, bar) in self.bars.iter().enumerate() {
            let row = count - 1 - index;
            let pixel = |value: f64| plane.map_coordinate(&(value, SegmentValue::CenterOf(row)));
            let (left, middle) = pixel(0.0);
            let (right, _) = pixel(bar.value);
            let half = BAR as i32 * 3 / 10;
            area.draw(&Rectangle::new(
                [(left, middle - half), (right, middle + half)],
                bar.colour.filled(),
            ))?;
            let mut outermost = right;
            if let Some((low, high)) = bar.whisker
                && low < high
            {
                let ((low, _), (high, _)) = (pixel(low), pixel(high));
                outermost = outermost.max(high);
                let cap = half / 2;
                for line in [
                    [(low, middle), (high, middle)],
                    [(low, middle - cap), (low, middle + cap)],
                    [(high, middle - cap), (high, middle + cap)],
                ] {
                    area.draw(&PathElement::new(line.to_vec(), ShapeStyle::from(INK)))?;
                }
            }
            let style: TextStyle<'_> = (FONT, 14).into_font().color(&INK);
            area.draw(&Text::new(
                bar.text.clone(),
                (outermost + 6, middle),
                style.pos(Pos::new(HPos::Left, VPos::Center)),
            ))?;
        }
        Ok(())
    }
}

const FONT: &str = "sans-serif";
const WIDTH: u32 = 760;
const MARGIN: u32 = 12;
const TITLE: u32 = 30;
const AXIS: u32 = 28;
const BAR: u32 = 26;
/// Width of a letter at 14 px, on the safe side: nothing here can measure text.
const LETTER: f64 = 8.0;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(215, 215, 215);
/// The floor, which no gateway can reach.
const FLOOR: RGBColor = RGBColor(150, 150, 150);
const PEER: RGBColor = RGBColor(70, 120, 180);
const OWN: RGBColor = RGBColor(225, 120, 40);

#[cfg(test)]
mod tests {
    use super::all;
    use crate::bench::{
        report::sketch,
        sample::{Comparison, Figure, Outcome, Unit},
    };

    #[test]
    fn a_chart_names_contenders_and_values() {
        let run = sketch::run(vec![sketch::comparison(
            "l4-bulk",
            &[("direct", 20e9), ("sluice-userspace", 5e9)],
        )]);
        let charts = all(&run);
        assert_eq!(charts[0].file(), "l4-bulk.svg");
        let svg = charts[0].render().unwrap();
        for text in [
            "l4-bulk: Gbit/s",
            "direct",
            "sluice-userspace",
            "20.00",
            "5.00",
        ] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(svg.contains("#FFFFFF"));
    }

    #[test]
    fn figures_of_one_unit_share_a_chart() {
        let mut run = sketch::run(vec![Comparison {
            scenario: "h2-requests".to_owned(),
            unit: Unit::RequestsPerSecond,
            outcomes: vec![("sluice".to_owned(), Outcome::Skipped("no".to_owned()))],
        }]);
        for (name, unit) in [("hit", "ns"), ("drop", "ns"), ("memory", "kB")] {
            run.figures.push(Figure {
                scenario: "packet".to_owned(),
                name: name.to_owned(),
                value: 1.0,
                unit: unit.to_owned(),
                note: String::new(),
            });
        }
        let files: Vec<_> = all(&run).iter().map(super::Chart::file).collect();
        assert_eq!(files, ["packet-ns.svg"]);
    }
}
