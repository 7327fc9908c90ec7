//! Lines, steps or dots over two axes, with the numbers beside them for the page's script.

use serde_json::{Value, json};

use super::super::escape::{escape, script_json};
use super::scale::{LinearScale, NumberForm};

/// The drawing's size, in its own units; the page scales it to the column.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 40.0;

/// Points of a line at most: a screen shows no more.
const MOST_POINTS: usize = 240;

/// What stands at a series's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report::page) enum SeriesForm {
    /// A line with a mark at each point.
    Marked,
    /// A line.
    Line,
    /// Levels: each point begins one.
    Steps,
    /// Dots without a line.
    Dots,
}

/// One series.
#[derive(Clone, Debug)]
pub(in crate::report::page) struct PlotSeries {
    /// In the legend and beside the pointer.
    pub(in crate::report::page) name: String,
    /// Which of the page's colours.
    pub(in crate::report::page) colour: usize,
    /// Broken, for a second series of the same colour.
    pub(in crate::report::page) is_dashed: bool,
    /// How it is drawn.
    pub(in crate::report::page) form: SeriesForm,
    /// From left to right.
    pub(in crate::report::page) points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub(in crate::report::page) struct Plot {
    /// What it shows.
    pub(in crate::report::page) title: &'static str,
    /// What that means, with the unit.
    pub(in crate::report::page) meaning: String,
    /// Beneath the axis.
    pub(in crate::report::page) x_title: &'static str,
    /// How the axis's numbers are written.
    pub(in crate::report::page) x_form: NumberForm,
    /// How the values are written.
    pub(in crate::report::page) y_form: NumberForm,
    /// A level that means something, as ½ of a win rate does.
    pub(in crate::report::page) level: Option<f64>,
    /// Whether the axis begins at 0.
    pub(in crate::report::page) from_zero: bool,
    /// Where iterations begin.
    pub(in crate::report::page) rules: Vec<f64>,
    /// The series.
    pub(in crate::report::page) series: Vec<PlotSeries>,
}

impl Plot {
    /// Lines over iterations.
    pub(in crate::report::page) fn over_iterations(
        title: &'static str,
        meaning: &str,
        y_form: NumberForm,
    ) -> Self {
        Self {
            title,
            meaning: meaning.to_owned(),
            x_title: "iteration",
            x_form: NumberForm::Whole,
            y_form,
            level: None,
            from_zero: false,
            rules: Vec::new(),
            series: Vec::new(),
        }
    }

    /// A figure of HTML; nothing where no series has a point.
    pub(in crate::report::page) fn figure(mut self) -> String {
        for series in &mut self.series {
            series.points.retain(|(x, y)| x.is_finite() && y.is_finite());
        }
        self.series.retain(|series| !series.points.is_empty());
        if self.series.is_empty() {
            return String::new();
        }
        let ends = self.ends();
        let merged = self.thin();
        let (x, y) = self.scales();
        let spoken = escape(&format!("{}. {}. {ends}", self.title, self.meaning));
        let svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" tabindex=\"0\" aria-label=\"{spoken}\">\n{}</svg>\n",
            self.drawing(&x, &y)
        );
        let note =
            if merged > 1 { format!(" Each point is the mean of {merged} or fewer.") } else { String::new() };
        format!(
            "<figure class=\"plot\">\n<figcaption><b>{}</b> <span>{}{note}</span></figcaption>\n{}{svg}<script type=\"application/json\">{}</script>\n</figure>\n",
            escape(self.title),
            escape(&self.meaning),
            self.legend(),
            script_json(&self.numbers(&x, &y)),
        )
    }

    /// An SVG file of its own, in a style that is given, with the names of the series in it.
    pub(in crate::report::page) fn file(&self, style: &str) -> String {
        let (x, y) = self.scales();
        let names: String = self
            .series
            .iter()
            .enumerate()
            .map(|(row, series)| {
                let at = HEIGHT - BOTTOM - 12.0 - 16.0 * (self.series.len() - 1 - row) as f64;
                format!(
                    "<g class=\"series c{}\">{}</g><text class=\"name\" x=\"{}\" y=\"{}\">{}</text>\n",
                    series.colour,
                    mark(series.colour, LEFT + 14.0, at - 4.0),
                    LEFT + 24.0,
                    at,
                    escape(&series.name)
                )
            })
            .collect();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<title>{}. {}</title>\n\
             <style>{style}</style>\n{}{names}</svg>\n",
            escape(self.title),
            escape(&self.meaning),
            self.drawing(&x, &y)
        )
    }

    fn drawing(&self, x: &LinearScale, y: &LinearScale) -> String {
        let mut svg = String::new();
        self.draw_axes(x, y, &mut svg);
        for series in &self.series {
            draw_series(series, x, y, &mut svg);
        }
        svg
    }

    fn scales(&self) -> (LinearScale, LinearScale) {
        let xs = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0));
        let ys = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let x = match self.x_form {
            NumberForm::Whole | NumberForm::PowerOfTwo if self.rules.is_empty() => {
                LinearScale::over(xs, self.x_form, 6)
            }
            _ => LinearScale::within(xs, self.x_form, 5),
        };
        let more = self.level.into_iter().chain(self.from_zero.then_some(0.0));
        (x, LinearScale::over(ys.chain(more), self.y_form, 4))
    }

    /// Replaces points that no screen shows by their means; how many became one at most.
    fn thin(&mut self) -> usize {
        let mut merged = 1;
        for series in &mut self.series {
            if !matches!(series.form, SeriesForm::Line) || series.points.len() <= MOST_POINTS {
                continue;
            }
            let size = series.points.len().div_ceil(MOST_POINTS);
            merged = merged.max(size);
            let mean = |some: &[(f64, f64)]| {
                let count = some.len() as f64;
                let sum = some.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
                (sum.0 / count, sum.1 / count)
            };
            series.points = series.points.chunks(size).map(mean).collect();
        }
        merged
    }

    /// Each series's first and last value, for those who hear the page.
    fn ends(&self) -> String {
        let text = |series: &PlotSeries| match (series.form, series.points.as_slice()) {
            (SeriesForm::Dots | SeriesForm::Steps, points) => {
                format!("{}: {} points", series.name, points.len())
            }
            (_, [.., last]) if series.points.len() > 1 => format!(
                "{}: from {} to {}",
                series.name,
                self.y_form.text(series.points[0].1),
                self.y_form.text(last.1)
            ),
            (_, points) => {
                let values: Vec<String> = points.iter().map(|point| self.y_form.text(point.1)).collect();
                format!("{}: {}", series.name, values.join(", "))
            }
        };
        self.series.iter().map(text).collect::<Vec<_>>().join("; ")
    }

    fn legend(&self) -> String {
        if self.series.len() < 2 {
            return String::new();
        }
        let entry = |series: &PlotSeries| {
            let dash = if series.is_dashed { " dashed" } else { "" };
            format!(
                "<li><svg viewBox=\"0 0 26 10\" class=\"key c{}{dash}\" aria-hidden=\"true\"><path d=\"M1 5H25\"/>{}</svg>{}</li>",
                series.colour,
                if matches!(series.form, SeriesForm::Marked | SeriesForm::Dots) {
                    mark(series.colour, 13.0, 5.0)
                } else {
                    String::new()
                },
                escape(&series.name)
            )
        };
        format!("<ul class=\"legend\">{}</ul>\n", self.series.iter().map(entry).collect::<String>())
    }

    fn draw_axes(&self, x: &LinearScale, y: &LinearScale, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in &y.ticks {
            let at = place_y(y, *value);
            svg.push_str(&format!(
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 6.0,
                at + 4.0,
                escape(text)
            ));
        }
        if let Some(level) = self.level {
            svg.push_str(&format!(
                "<path class=\"level\" d=\"M{LEFT} {:.1}H{right}\"/>\n",
                place_y(y, level)
            ));
        }
        for rule in &self.rules {
            svg.push_str(&format!("<path class=\"rule\" d=\"M{:.1} {TOP}V{bottom}\"/>\n", place_x(x, *rule)));
        }
        for (value, text) in &x.ticks {
            let at = place_x(x, *value);
            svg.push_str(&format!(
                "<path class=\"axis\" d=\"M{at:.1} {bottom}v4\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                bottom + 17.0,
                escape(text)
            ));
        }
        svg.push_str(&format!(
            "<path class=\"axis\" d=\"M{LEFT} {bottom}H{right}\"/><text class=\"title\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            f64::midpoint(LEFT, right),
            HEIGHT - 5.0,
            escape(self.x_title)
        ));
    }

    /// What the script needs to find the point below the pointer.
    fn numbers(&self, x: &LinearScale, y: &LinearScale) -> Value {
        let short = |value: f64| format!("{value:.6e}").parse::<f64>().unwrap_or(value);
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|series| {
                let points: Vec<[f64; 2]> =
                    series.points.iter().map(|point| [short(point.0), short(point.1)]).collect();
                json!({"name": series.name, "points": points})
            })
            .collect();
        json!({
            "box": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
            "x": [x.from, x.to], "y": [y.from, y.to],
            "x_title": self.x_title, "x_form": self.x_form, "y_form": self.y_form,
            "series": series,
        })
    }
}

fn place_x(scale: &LinearScale, value: f64) -> f64 {
    LEFT + scale.share(value) * (WIDTH - LEFT - RIGHT)
}

fn place_y(scale: &LinearScale, value: f64) -> f64 {
    HEIGHT - BOTTOM - scale.share(value) * (HEIGHT - TOP - BOTTOM)
}

fn draw_series(series: &PlotSeries, x: &LinearScale, y: &LinearScale, svg: &mut String) {
    let dash = match (series.form, series.is_dashed) {
        (SeriesForm::Dots, _) => " dots",
        (_, true) => " dashed",
        (_, false) => "",
    };
    svg.push_str(&format!("<g class=\"series c{}{dash}\">", series.colour));
    if series.form != SeriesForm::Dots {
        let mut path = String::new();
        for (number, point) in series.points.iter().enumerate() {
            let (at_x, at_y) = (place_x(x, point.0), place_y(y, point.1));
            match (number, series.form) {
                (0, _) => path.push_str(&format!("M{at_x:.1} {at_y:.1}")),
                (_, SeriesForm::Steps) => path.push_str(&format!("H{at_x:.1}V{at_y:.1}")),
                _ => path.push_str(&format!("L{at_x:.1} {at_y:.1}")),
            }
        }
        svg.push_str(&format!("<path d=\"{path}\"/>"));
    }
    if matches!(series.form, SeriesForm::Marked | SeriesForm::Dots) || series.points.len() == 1 {
        for point in &series.points {
            svg.push_str(&mark(series.colour, place_x(x, point.0), place_y(y, point.1)));
        }
    }
    svg.push_str("</g>\n");
}

/// A mark whose form tells its series where colours do not.
fn mark(colour: usize, x: f64, y: f64) -> String {
    match colour % 4 {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"/>"),
        1 => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"6\" height=\"6\"/>", x - 3.0, y - 3.0),
        2 => format!("<path class=\"mark\" d=\"M{x:.1} {:.1}l4 7h-8z\"/>", y - 4.4),
        _ => format!("<path class=\"mark\" d=\"M{x:.1} {:.1}l4.2 4.2l-4.2 4.2l-4.2 -4.2z\"/>", y - 4.2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let series =
            PlotSeries { name: "a<b".into(), colour: 0, is_dashed: false, form: SeriesForm::Line, points };
        Plot {
            series: vec![series],
            rules: vec![1.0],
            ..Plot::over_iterations("Loss", "nats & more", NumberForm::Plain)
        }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let text = plot(vec![(0.0, 0.0), (2.0, 1.0)]).figure();
        // The box is 58..408 by 10..196; values 0 and 1 are ticks.
        assert!(text.contains("d=\"M58.0 196.0L408.0 10.0\""), "{text}");
        assert!(text.contains("from 0 to 1") && text.contains("nats &amp; more"), "{text}");
        assert!(
            text.contains(r#""points":[[0.0,0.0],[2.0,1.0]]"#) && text.contains(r#""name":"a\u003cb""#),
            "{text}"
        );
    }

    #[test]
    fn many_points_become_means_and_the_page_says_so() {
        let text = plot((0..1000).map(|x| (f64::from(x), f64::from(x % 2))).collect()).figure();
        assert!(text.contains("Each point is the mean of 5 or fewer."), "{text}");
        assert!(text.matches('L').count() < MOST_POINTS + 10, "{}", text.matches('L').count());
    }

    #[test]
    fn nothing_is_no_figure_and_what_is_no_number_is_left_out() {
        assert_eq!(plot(vec![]).figure(), "");
        assert_eq!(plot(vec![(1.0, f64::NAN)]).figure(), "");
        assert!(!plot(vec![(1.0, f64::INFINITY), (2.0, 0.5)]).figure().contains("inf"));
    }
}
