//! How an iteration's candidates are distributed: lengths, scores, one against the other.

use super::super::charts::{NumberForm, Plot, PlotSeries, SeriesForm};
use super::super::model::{CandidateNumbers, ReportPage};
use super::COLOURS;
use super::curves::grid;

/// Bins of a distribution.
const BINS: usize = 40;
/// Dots of a chart of lengths and scores.
const MOST_DOTS: usize = 500;

/// Lengths, scores, and one against the other.
pub(super) fn section(page: &ReportPage) -> String {
    let shown = shown_iterations(page);
    let lengths =
        |one: &CandidateNumbers| -> Vec<f64> { one.lengths.iter().map(|&value| f64::from(value)).collect() };
    let scores = |one: &CandidateNumbers| -> Vec<f64> {
        one.scored.iter().map(|scored| f64::from(scored.probability)).collect()
    };
    let plots = [
        histogram(
            &shown,
            "Length of the candidates",
            "share of candidates, by tokens",
            "tokens",
            NumberForm::Plain,
            &lengths,
        ),
        histogram(
            &shown,
            "Score of the candidates",
            "share of candidates, by mean P(candidate ≻ one of its prompt)",
            "mean probability of winning",
            NumberForm::Percent,
            &scores,
        ),
    ];
    let dots = dots(&shown);
    let note = match page.runs.len() {
        1 => "Of each iteration's candidates.",
        _ => "Of the candidates of each run's last iteration.",
    };
    grid("distributions", "Distributions", note, plots.into_iter().chain(dots))
}

/// Candidates with their name and colour.
struct ShownCandidates<'a> {
    name: String,
    colour: usize,
    numbers: &'a CandidateNumbers,
}

/// Of one run each iteration, the first and last ones where there are many; of several runs the last of each.
fn shown_iterations(page: &ReportPage) -> Vec<ShownCandidates<'_>> {
    match page.runs.as_slice() {
        [run] => {
            let all = &run.candidates;
            let shown = all
                .iter()
                .enumerate()
                .filter(|(place, _)| all.len() <= COLOURS || *place < 3 || place + 3 >= all.len());
            shown
                .map(|(place, numbers)| ShownCandidates {
                    name: format!("iteration {}", numbers.iteration),
                    colour: place % COLOURS,
                    numbers,
                })
                .collect()
        }
        runs => runs
            .iter()
            .enumerate()
            .filter_map(|(number, run)| {
                let numbers = run.candidates.last()?;
                let name = format!("{}, iteration {}", run.name, numbers.iteration);
                Some(ShownCandidates { name, colour: number % COLOURS, numbers })
            })
            .collect(),
    }
}

fn histogram(
    shown: &[ShownCandidates<'_>],
    title: &'static str,
    meaning: &str,
    x_title: &'static str,
    x_form: NumberForm,
    values: &dyn Fn(&CandidateNumbers) -> Vec<f64>,
) -> String {
    let all: Vec<Vec<f64>> = shown.iter().map(|one| values(one.numbers)).collect();
    let flat = || all.iter().flatten().copied().filter(|value| value.is_finite());
    let (least, most) =
        flat().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
    if least > most {
        return String::new();
    }
    // Lengths are whole: so are the edges of their bins.
    let width = match x_form {
        NumberForm::Plain => ((most - least + 1.0) / BINS as f64).ceil().max(1.0),
        _ => ((most - least) / BINS as f64).max(1e-9),
    };
    let bins = ((most - least) / width).floor() as usize + 1;
    let series = shown.iter().zip(&all).map(|(one, values)| {
        let mut counts = vec![0_usize; bins];
        for value in values.iter().filter(|value| value.is_finite()) {
            counts[(((value - least) / width) as usize).min(bins - 1)] += 1;
        }
        let total = values.len().max(1) as f64;
        let mut points: Vec<(f64, f64)> = counts
            .iter()
            .enumerate()
            .map(|(bin, &count)| (least + bin as f64 * width, count as f64 / total))
            .collect();
        points.push((least + bins as f64 * width, 0.0));
        PlotSeries {
            name: one.name.clone(),
            colour: one.colour,
            is_dashed: false,
            form: SeriesForm::Steps,
            points: if values.is_empty() { Vec::new() } else { points },
        }
    });
    Plot {
        x_title,
        x_form,
        level: Some(0.0),
        rules: Vec::new(),
        series: series.collect(),
        ..Plot::over_iterations(title, meaning, NumberForm::Percent)
    }
    .figure()
}

/// Length against score, of the first and the last that are shown, with their correlation.
fn dots(shown: &[ShownCandidates<'_>]) -> Vec<String> {
    let places: Vec<usize> = match shown.len() {
        0 => Vec::new(),
        1 => vec![0],
        many => vec![0, many - 1],
    };
    let figure = |place: usize| {
        let one = &shown[place];
        let scored = &one.numbers.scored;
        let every = scored.len().div_ceil(MOST_DOTS).max(1);
        let points: Vec<(f64, f64)> = scored
            .iter()
            .step_by(every)
            .map(|scored| (f64::from(scored.length), f64::from(scored.probability)))
            .collect();
        let correlation =
            correlation(scored.iter().map(|one| (f64::from(one.length), f64::from(one.probability))));
        let correlation = correlation.map_or_else(String::new, |r| format!("; correlation {r:.2}"));
        let dots = points.len();
        let meaning = format!("{}: {dots} of {} candidates{correlation}", one.name, scored.len());
        Plot {
            x_title: "tokens",
            x_form: NumberForm::Plain,
            level: Some(0.5),
            series: vec![PlotSeries {
                name: one.name.clone(),
                colour: one.colour,
                is_dashed: false,
                form: SeriesForm::Dots,
                points,
            }],
            ..Plot::over_iterations("Length against score", &meaning, NumberForm::Percent)
        }
        .figure()
    };
    places.into_iter().map(figure).collect()
}

/// Pearson's; nothing where one of the two does not vary.
fn correlation(pairs: impl Iterator<Item = (f64, f64)> + Clone) -> Option<f64> {
    let count = pairs.clone().count() as f64;
    let (sum_x, sum_y) = pairs.clone().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (x, y) = (x - mean_x, y - mean_y);
        (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
    }
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correlation_is_pearsons() {
        let of = |pairs: &[(f64, f64)]| correlation(pairs.iter().copied());
        assert_eq!(of(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]), Some(1.0));
        // Deviations (-1, 0, 1) and (1, -2, 1): xy = 0.
        assert_eq!(of(&[(1.0, 3.0), (2.0, 0.0), (3.0, 3.0)]), Some(0.0));
        assert_eq!(of(&[(1.0, 3.0), (1.0, 0.0)]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn bins_hold_every_candidate() {
        let numbers = CandidateNumbers { lengths: vec![1.0, 1.0, 2.0, 4.0], ..CandidateNumbers::default() };
        let shown = [ShownCandidates { name: "iteration 1".into(), colour: 0, numbers: &numbers }];
        let lengths = |one: &CandidateNumbers| -> Vec<f64> {
            one.lengths.iter().map(|&value| f64::from(value)).collect()
        };
        let text = histogram(&shown, "Length", "tokens", "tokens", NumberForm::Plain, &lengths);
        assert!(text.contains("[[1.0,0.5],[2.0,0.25],[3.0,0.0],[4.0,0.25],[5.0,0.0]]"), "{text}");
    }
}
