//! Charts over iterations and over optimizer steps.

use selfplay_trainer::StepMetrics;

use super::super::charts::{NumberForm, Plot, PlotSeries, SeriesForm};
use super::super::model::{PageRun, ReportPage};
use super::COLOURS;
use crate::run::summary::{IterationSummary, StartSummary};

/// What a chart over iterations shows of each.
struct IterationCurve {
    title: &'static str,
    meaning: &'static str,
    form: NumberForm,
    level: Option<f64>,
    value: fn(&IterationSummary) -> Option<f64>,
    start: fn(&StartSummary) -> Option<f64>,
}

const ITERATION_CURVES: [IterationCurve; 9] = [
    IterationCurve {
        title: "Accuracy",
        meaning: "share of held-out answers that are right",
        form: NumberForm::Percent,
        level: None,
        value: |one| one.eval_accuracy,
        start: |start| start.eval_accuracy,
    },
    IterationCurve {
        title: "Win rate against the first policy",
        meaning: "mean P(new ≻ first) on the held-out prompts, by the preference model",
        form: NumberForm::Percent,
        level: Some(0.5),
        value: |one| one.win_rate_first,
        start: |_| None,
    },
    IterationCurve {
        title: "The same at equal length",
        meaning: "length-controlled, by AlpacaEval's regression on lengths",
        form: NumberForm::Percent,
        level: Some(0.5),
        value: |one| one.lc_win_rate_first,
        start: |_| None,
    },
    IterationCurve {
        title: "Win rate against the policy before",
        meaning: "mean P(new ≻ the policy that the iteration started from)",
        form: NumberForm::Percent,
        level: Some(0.5),
        value: |one| one.win_rate_start,
        start: |_| None,
    },
    IterationCurve {
        title: "Length of an answer",
        meaning: "mean tokens of a held-out answer",
        form: NumberForm::Plain,
        level: None,
        value: |one| one.tokens,
        start: |start| start.tokens,
    },
    IterationCurve {
        title: "KL",
        meaning: "mean log π(new) − log π(before) of a held-out answer, in nats",
        form: NumberForm::Plain,
        level: Some(0.0),
        value: |one| one.kl,
        start: |_| None,
    },
    IterationCurve {
        title: "Score of the chosen",
        meaning: "mean score of a pair's chosen response against all candidates of its prompt",
        form: NumberForm::Plain,
        level: None,
        value: |one| one.mean_score,
        start: |_| None,
    },
    IterationCurve {
        title: "Intransitivity",
        meaning: "share of prompts with a preference cycle among three candidates",
        form: NumberForm::Percent,
        level: Some(0.0),
        value: |one| one.cyclic,
        start: |_| None,
    },
    IterationCurve {
        title: "Ended by the length limit",
        meaning: "share of held-out answers that were cut off",
        form: NumberForm::Percent,
        level: Some(0.0),
        value: |one| one.length_limited,
        start: |_| None,
    },
];

/// Over iterations.
pub(super) fn iterations(page: &ReportPage) -> String {
    let plots = ITERATION_CURVES.iter().map(|curve| {
        let series = page.runs.iter().enumerate().map(|(number, run)| {
            let start = (curve.start)(&run.start).map(|value| (0.0, value));
            let values =
                run.iterations.iter().filter_map(|one| Some((one.iteration as f64, (curve.value)(one)?)));
            PlotSeries {
                name: run.name.clone(),
                colour: number % COLOURS,
                is_dashed: number >= COLOURS,
                form: SeriesForm::Marked,
                points: start.into_iter().chain(values).collect(),
            }
        });
        let plot = Plot::over_iterations(curve.title, curve.meaning, curve.form);
        Plot { level: curve.level, series: series.collect(), ..plot }.figure()
    });
    grid("iterations", "Over iterations", "Iteration 0 is the starting policy.", plots)
}

/// A number of a step.
type StepValue = fn(&StepMetrics) -> Option<f64>;

/// What a chart over steps shows of each.
struct StepCurve {
    title: &'static str,
    meaning: &'static str,
    level: Option<f64>,
    value: StepValue,
    /// A second line of the same colour, with what tells the two apart.
    second: Option<(StepValue, &'static str, &'static str)>,
}

const STEP_CURVES: [StepCurve; 9] = [
    StepCurve {
        title: "Loss",
        meaning: "mean over the batch, before the step",
        level: None,
        value: |one| Some(one.loss),
        second: None,
    },
    StepCurve {
        title: "Rewards",
        meaning: "mean β·log π/π_ref of chosen and rejected responses, in nats",
        level: Some(0.0),
        value: |one| one.reward_chosen,
        second: Some((|one| one.reward_rejected, "chosen", "rejected")),
    },
    StepCurve {
        title: "Reward margin",
        meaning: "chosen less rejected, in nats",
        level: Some(0.0),
        value: |one| Some(one.reward_chosen? - one.reward_rejected?),
        second: None,
    },
    StepCurve {
        title: "Log-probs",
        meaning: "mean summed log-prob of chosen and rejected responses, in nats",
        level: None,
        value: |one| one.logp_chosen,
        second: Some((|one| one.logp_rejected, "chosen", "rejected")),
    },
    StepCurve {
        title: "Gradient norm",
        meaning: "global, before clipping",
        level: Some(0.0),
        value: |one| Some(one.grad_norm),
        second: None,
    },
    StepCurve {
        title: "Learning rate",
        meaning: "of the step",
        level: Some(0.0),
        value: |one| Some(one.learning_rate),
        second: None,
    },
    StepCurve {
        title: "Held-out loss",
        meaning: "mean over the held-out examples, where it was taken",
        level: None,
        value: |one| one.val_loss,
        second: None,
    },
    StepCurve {
        title: "Divergence from the reference",
        meaning: "mean over the batch's tokens, of a loss over groups, in nats",
        level: Some(0.0),
        value: |one| one.kl,
        second: None,
    },
    StepCurve {
        title: "Clipped ratios",
        meaning: "share of the batch's tokens, of a loss over groups",
        level: Some(0.0),
        value: |one| one.clipped,
        second: None,
    },
];

/// Over optimizer steps.
pub(super) fn training(page: &ReportPage) -> String {
    let rules = rules(page);
    let plots = STEP_CURVES.iter().map(|curve| {
        let mut series = Vec::new();
        for (number, run) in page.runs.iter().enumerate() {
            let mut add = |value: fn(&StepMetrics) -> Option<f64>, suffix: &str, is_dashed| {
                let name = match suffix {
                    "" => run.name.clone(),
                    suffix if page.runs.len() == 1 => suffix.to_owned(),
                    suffix => format!("{}, {suffix}", run.name),
                };
                let points = steps(run).filter_map(|(step, one)| Some((step, value(one)?))).collect();
                series.push(PlotSeries {
                    name,
                    colour: number % COLOURS,
                    is_dashed,
                    form: SeriesForm::Line,
                    points,
                });
            };
            add(curve.value, curve.second.map_or("", |second| second.1), number >= COLOURS);
            if let Some((value, _, suffix)) = curve.second {
                add(value, suffix, true);
            }
        }
        Plot {
            x_title: "optimizer step, over all iterations",
            level: curve.level,
            rules: rules.clone(),
            series,
            ..Plot::over_iterations(curve.title, curve.meaning, NumberForm::Plain)
        }
        .figure()
    });
    let accuracy = accuracy(page);
    let note = if rules.is_empty() { "" } else { "Upright lines stand where iterations begin." };
    grid("training", "Training", note, plots.chain([accuracy]))
}

/// Steps counted over all iterations.
fn steps(run: &PageRun) -> impl Iterator<Item = (f64, &StepMetrics)> {
    let mut before = 0;
    run.trainings.iter().flat_map(move |training| {
        let offset = before;
        before += training.last().map_or(0, |last| last.step);
        training.iter().map(move |one| ((offset + one.step) as f64, one))
    })
}

/// Where the iterations of the first run begin, but for its first.
fn rules(page: &ReportPage) -> Vec<f64> {
    let Some(run) = page.runs.first() else { return Vec::new() };
    let mut before = 0;
    let begins = run.trainings.iter().map(|training| {
        before += training.last().map_or(0, |last| last.step);
        before as f64 + 0.5
    });
    let mut rules: Vec<f64> = begins.collect();
    rules.pop();
    rules
}

fn accuracy(page: &ReportPage) -> String {
    let series = page.runs.iter().enumerate().map(|(number, run)| PlotSeries {
        name: run.name.clone(),
        colour: number % COLOURS,
        is_dashed: false,
        form: SeriesForm::Marked,
        points: run.accuracies.iter().map(|one| (one.epoch as f64, one.accuracy)).collect(),
    });
    let plot = Plot::over_iterations(
        "Held-out accuracy",
        "share of held-out comparisons in the right order",
        NumberForm::Percent,
    );
    Plot { x_title: "epoch", level: Some(0.5), series: series.collect(), ..plot }.figure()
}

/// Figures beside each other; nothing without any.
pub(super) fn grid(id: &str, title: &str, note: &str, figures: impl Iterator<Item = String>) -> String {
    let figures: String = figures.collect();
    if figures.is_empty() {
        return String::new();
    }
    let note = if note.is_empty() { String::new() } else { format!("<p class=\"note\">{note}</p>\n") };
    format!("<h2 id=\"{id}-title\">{title}</h2>\n{note}<div class=\"grid\">\n{figures}</div>\n")
}
