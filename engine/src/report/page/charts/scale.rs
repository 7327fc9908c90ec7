//! A linear scale with round ticks.

use serde::Serialize;

use crate::console::units::duration;

/// How an axis writes its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::report::page) enum NumberForm {
    /// As they are.
    Plain,
    /// Shares, as percentages.
    Percent,
    /// Whole numbers alone get ticks.
    Whole,
    /// Two to the power of these, which are whole.
    PowerOfTwo,
    /// Wall clock.
    Seconds,
    /// Bytes, in GiB or MiB.
    Bytes,
}

impl NumberForm {
    /// A number beside its mark, with three or four digits that count.
    pub(in crate::report::page) fn text(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{:.1} %", 100.0 * value),
            Self::Whole => format!("{value:.0}"),
            Self::PowerOfTwo => format!("{:.0}", value.exp2()),
            Self::Seconds => duration(value),
            Self::Bytes if value >= 1_073_741_824.0 => format!("{:.2} GiB", value / 1_073_741_824.0),
            Self::Bytes => format!("{:.0} MiB", value / 1_048_576.0),
            Self::Plain => short(value),
        }
    }

    /// A tick, whose neighbour stands `step` further.
    fn tick(self, value: f64, step: f64) -> String {
        let decimals = |step: f64| (-step.abs().log10().floor()).clamp(0.0, 8.0) as usize;
        // What rounding left of zero.
        let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
        match self {
            Self::Percent => format!("{:.*} %", decimals(100.0 * step), 100.0 * value),
            Self::Seconds | Self::Bytes if value == 0.0 => "0".to_owned(),
            Self::Seconds | Self::Bytes => self.text(value),
            Self::Whole => format!("{value:.0}"),
            Self::PowerOfTwo => format!("{:.0}", value.exp2()),
            Self::Plain if value == 0.0 && step < 1e-4 => "0".to_owned(),
            Self::Plain if value != 0.0 && (step < 1e-4 || value.abs() >= 1e6) => format!("{value:.1e}"),
            Self::Plain => format!("{value:.*}", decimals(step)),
        }
    }
}

/// Four digits that count, without zeros behind them.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    let decimals = (3.0 - magnitude.log10().floor()).clamp(0.0, 8.0) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// From values to places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LinearScale {
    /// The least value on it.
    pub(super) from: f64,
    /// The greatest.
    pub(super) to: f64,
    /// Ticks with their texts.
    pub(super) ticks: Vec<(f64, String)>,
}

impl LinearScale {
    /// Over all values, to the next ticks on both sides; about `wanted` ticks.
    pub(super) fn over(values: impl Iterator<Item = f64>, form: NumberForm, wanted: usize) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            (least, most) = (0.0, 1.0);
        }
        if most - least < 1e-12 * most.abs().max(least.abs()).max(1e-12) {
            // One value alone stands in the middle, zero at the lower end.
            let around = most.abs() * 0.1;
            (least, most) = match form {
                _ if most == 0.0 => (0.0, if form == NumberForm::Percent { 0.1 } else { 1.0 }),
                NumberForm::Whole | NumberForm::PowerOfTwo => (most - 1.0, most + 1.0),
                _ => (most - around, most + around),
            };
        }
        let step = step(most - least, wanted, form);
        let (first, last) = ((least / step + 1e-9).floor(), (most / step - 1e-9).ceil());
        let count = (last - first).clamp(1.0, 50.0) as usize;
        let ticks = (0..=count).map(|tick| {
            let value = (first + tick as f64) * step;
            (value, form.tick(value, step))
        });
        Self { from: first * step, to: (first + count as f64) * step, ticks: ticks.collect() }
    }

    /// The ends at the values themselves, the ticks between them.
    pub(super) fn within(values: impl Iterator<Item = f64> + Clone, form: NumberForm, wanted: usize) -> Self {
        let mut scale = Self::over(values.clone(), form, wanted);
        let finite = values.filter(|value| value.is_finite());
        let (least, most) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        if least < most {
            (scale.from, scale.to) = (least, most);
            scale.ticks.retain(|(value, _)| (least..=most).contains(value));
        }
        scale
    }

    /// Where a value stands between 0 and 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }
}

/// 1, 2 or 5 times a power of ten.
fn step(range: f64, wanted: usize, form: NumberForm) -> f64 {
    let raw = range / wanted.max(1) as f64;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= raw * 0.999);
    let step = step.unwrap_or(10.0 * power);
    if matches!(form, NumberForm::Whole | NumberForm::PowerOfTwo) { step.max(1.0) } else { step }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[f64], form: NumberForm) -> Vec<String> {
        LinearScale::over(values.iter().copied(), form, 4).ticks.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_all_values() {
        assert_eq!(ticks(&[0.0, 1.0], NumberForm::Plain), ["0.0", "0.5", "1.0"]);
        assert_eq!(ticks(&[0.21, 0.4], NumberForm::Percent), ["20 %", "25 %", "30 %", "35 %", "40 %"]);
        assert_eq!(ticks(&[1.0, 3.0], NumberForm::Whole), ["1", "2", "3"]);
        assert_eq!(
            ticks(&[-0.003, 0.001], NumberForm::Plain),
            ["-0.003", "-0.002", "-0.001", "0.000", "0.001"]
        );
        assert_eq!(ticks(&[3.0, 6.0], NumberForm::PowerOfTwo), ["8", "16", "32", "64"]);
        let scale = LinearScale::over([3.0, 97.0].into_iter(), NumberForm::Plain, 4);
        assert_eq!((scale.from, scale.to), (0.0, 100.0));
        assert_eq!(scale.share(25.0), 0.25);
    }

    #[test]
    fn nothing_one_value_and_what_is_no_number_give_a_scale() {
        for values in
            [vec![], vec![0.0], vec![7.0], vec![f64::NAN], vec![f64::INFINITY, 2.0], vec![1e300, -1e300]]
        {
            let scale = LinearScale::over(values.iter().copied(), NumberForm::Plain, 4);
            assert!(scale.from < scale.to && scale.ticks.len() >= 2, "{values:?}: {scale:?}");
            assert!(scale.ticks.len() <= 51);
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (2.7190908, "2.719"), (123456.7, "123457"), (1e-7, "1.00e-7"), (0.5, "0.5")]
        {
            assert_eq!(NumberForm::Plain.text(value), text);
        }
        assert_eq!(NumberForm::Percent.text(0.5112), "51.1 %");
        assert_eq!(NumberForm::Bytes.text(3.0 * 1_073_741_824.0), "3.00 GiB");
    }
}
