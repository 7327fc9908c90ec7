//! Efficiency over the number of GPUs, as an SVG file of its own: `selfplay plan RECIPE --sweep A..B --svg FILE`.

use super::charts::{NumberForm, Plot, PlotSeries, SeriesForm};

/// Colours that tell on a light and on a dark ground, as those of the page.
const STYLE: &str = "text{font:12px sans-serif;fill:#6a7078}.axis{stroke:#6a7078;fill:none}.grid{stroke:#8885;fill:none}\
    .series path{fill:none;stroke-width:2}.series .mark,.series circle,.series rect{stroke:none}\
    .c0{stroke:#3390cf}.c0 circle{fill:#3390cf}.c1{stroke:#e0702a}.c1 rect{fill:#e0702a}\
    .c2{stroke:#12a57c}.c2 .mark{fill:#12a57c}.c3{stroke:#b96aa5}.c3 .mark{fill:#b96aa5}";

/// The chart's title, at the head of the file: what an earlier drawing is known by.
pub(crate) const EFFICIENCY_TITLE: &str = "Efficiency over GPUs";

/// A line of the chart.
pub(crate) struct ScaleSeries {
    /// In the chart.
    pub(crate) name: String,
    /// GPUs and efficiency.
    pub(crate) points: Vec<(usize, f64)>,
}

/// The chart.
pub(crate) fn efficiency_svg(series: &[ScaleSeries]) -> String {
    let line = |(colour, one): (usize, &ScaleSeries)| PlotSeries {
        name: one.name.clone(),
        colour,
        is_dashed: false,
        form: SeriesForm::Marked,
        points: one.points.iter().map(|&(gpus, share)| ((gpus as f64).log2(), share)).collect(),
    };
    let plot = Plot {
        title: EFFICIENCY_TITLE,
        meaning: "an iteration's time by as many GPUs, against the first number's in proportion".to_owned(),
        x_title: "GPUs",
        x_form: NumberForm::PowerOfTwo,
        y_form: NumberForm::Percent,
        level: None,
        from_zero: true,
        rules: Vec::new(),
        series: series.iter().enumerate().map(line).collect(),
    };
    plot.file(STYLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_stands_alone_and_names_its_lines() {
        let points = vec![(8, 1.0), (16, 0.9), (64, 0.5)];
        let text = efficiency_svg(&[ScaleSeries { name: "as much <work>".into(), points }]);
        assert!(text.starts_with("<svg xmlns=") && text.ends_with("</svg>\n"), "{text}");
        assert!(text.contains("as much &lt;work&gt;") && text.contains(">64</text>"), "{text}");
        // From 8 on the left, 100 % at the top, to 64 on the right, half as high.
        assert!(text.contains("M58.0 10.0L") && text.contains("L408.0 103.0"), "{text}");
    }
}
