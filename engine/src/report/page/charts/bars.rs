//! Stacked bars: what each iteration's time and memory went to.

use super::super::escape::escape;
use super::scale::{LinearScale, NumberForm};

const WIDTH: f64 = 480.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 66.0;
const ROW: f64 = 30.0;
const BOTTOM: f64 = 34.0;

/// A part of a bar.
#[derive(Clone, Debug)]
pub(in crate::report::page) struct BarPart {
    /// What it is.
    pub(in crate::report::page) name: &'static str,
    /// Which of the page's colours.
    pub(in crate::report::page) colour: usize,
    /// Its length.
    pub(in crate::report::page) value: f64,
}

/// A bar.
#[derive(Clone, Debug)]
pub(in crate::report::page) struct Bar {
    /// Left of it.
    pub(in crate::report::page) name: String,
    /// From left to right.
    pub(in crate::report::page) parts: Vec<BarPart>,
}

/// Bars below each other.
#[derive(Clone, Debug)]
pub(in crate::report::page) struct BarChart {
    /// What it shows.
    pub(in crate::report::page) title: String,
    /// What that means, with the unit.
    pub(in crate::report::page) meaning: &'static str,
    /// How values are written.
    pub(in crate::report::page) form: NumberForm,
    /// From above.
    pub(in crate::report::page) bars: Vec<Bar>,
}

impl BarChart {
    /// A figure of HTML; nothing without bars.
    pub(in crate::report::page) fn figure(&self) -> String {
        if self.bars.is_empty() {
            return String::new();
        }
        let total = |bar: &Bar| bar.parts.iter().map(|part| part.value).sum::<f64>();
        let scale = LinearScale::over(self.bars.iter().map(total).chain([0.0]), self.form, 4);
        let bottom = ROW * self.bars.len() as f64 + 6.0;
        let place = |value: f64| LEFT + scale.share(value) * (WIDTH - LEFT - RIGHT);
        let spoken = |bar: &Bar| {
            let parts: Vec<String> = bar
                .parts
                .iter()
                .map(|part| format!("{} {}", part.name, self.form.text(part.value)))
                .collect();
            format!("{}: {}", bar.name, parts.join(", "))
        };
        let spoken: Vec<String> = self.bars.iter().map(spoken).collect();
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">\n",
            bottom + BOTTOM,
            escape(&format!("{}. {}. {}", self.title, self.meaning, spoken.join("; ")))
        );
        for (value, text) in &scale.ticks {
            let at = place(*value);
            svg.push_str(&format!(
                "<path class=\"grid\" d=\"M{at:.1} 0V{bottom:.1}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                bottom + 18.0,
                escape(text)
            ));
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let top = ROW * row as f64 + 6.0;
            svg.push_str(&format!(
                "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                LEFT - 8.0,
                top + 14.0,
                escape(&bar.name)
            ));
            let mut from = 0.0;
            for part in &bar.parts {
                let (left, right) = (place(from), place(from + part.value));
                svg.push_str(&format!(
                    "<rect class=\"part f{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"20\"><title>{}</title></rect>\n",
                    part.colour,
                    (right - left).max(0.6),
                    escape(&format!("{}, {}: {}", bar.name, part.name, self.form.text(part.value)))
                ));
                from += part.value;
            }
            svg.push_str(&format!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                place(from) + 6.0,
                top + 14.0,
                escape(&self.form.text(from))
            ));
        }
        svg.push_str("</svg>\n");
        format!(
            "<figure class=\"bars\">\n<figcaption><b>{}</b> <span>{}</span></figcaption>\n{}{svg}</figure>\n",
            escape(&self.title),
            escape(self.meaning),
            self.legend()
        )
    }

    fn legend(&self) -> String {
        let mut names: Vec<(&str, usize)> = Vec::new();
        for part in self.bars.iter().flat_map(|bar| &bar.parts) {
            if !names.iter().any(|(name, _)| *name == part.name) {
                names.push((part.name, part.colour));
            }
        }
        if names.len() < 2 {
            return String::new();
        }
        names.sort_by_key(|(_, colour)| *colour);
        let entry = |(name, colour): &(&str, usize)| {
            format!(
                "<li><svg viewBox=\"0 0 12 12\" class=\"key\" aria-hidden=\"true\"><rect class=\"part f{colour}\" width=\"12\" height=\"12\"/></svg>{}</li>",
                escape(name)
            )
        };
        format!("<ul class=\"legend\">{}</ul>\n", names.iter().map(entry).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_beside_each_other_and_add_up() {
        let part = |name, colour, value| BarPart { name, colour, value };
        let bar = Bar { name: "1".into(), parts: vec![part("sampling", 0, 30.0), part("training", 3, 70.0)] };
        let chart = BarChart {
            title: "Time".into(),
            meaning: "wall clock",
            form: NumberForm::Plain,
            bars: vec![bar],
        };
        let text = chart.figure();
        // 84..414 for 0..100.
        assert!(text.contains("x=\"84.0\" y=\"6.0\" width=\"99.0\""), "{text}");
        assert!(text.contains("x=\"183.0\" y=\"6.0\" width=\"231.0\""), "{text}");
        assert!(text.contains("1: sampling 30, training 70") && text.contains(">100</text>"), "{text}");
        assert_eq!(BarChart { bars: Vec::new(), ..chart }.figure(), "");
    }
}
