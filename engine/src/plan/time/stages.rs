//! The times of all stages of a recipe.

use selfplay_trainer::loss::needs_reference;

use super::files::overhead;
use super::held_out::held_out;
use super::job::Job;
use super::measured::Measured;
use super::rows::{StageTime, Times, UNIT};
use crate::plan::lengths::Lengths;
use crate::plan::memory::{self, Models};
use crate::plan::rates::{RatedStage, Rates};
use crate::recipe::Recipe;

/// The times of all stages. `prompts`: of all iterations together, where they are counted; `memory`: what the device has.
pub(crate) fn times(
    recipe: &Recipe,
    models: &Models<'_>,
    rates: &Rates,
    prompts: Option<u64>,
    memory: Option<u64>,
) -> Times {
    let iterations = recipe.iterations as f64;
    let rows = memory::rows_at_a_time(models, recipe, memory).max(1);
    let keep = memory::keep_plan(models, &recipe.train, memory);
    let job = Job { models, recipe, lengths: Lengths::of(recipe, models.policy), rows, keep, gpu: None };
    let measured = Measured::nearest(rates, models, job.again() > 0.0);
    let unit = prompts.map_or(UNIT as f64, |all| all as f64 / iterations);
    let mut stages = Vec::new();
    let (mut sources, mut unmeasured) = (Vec::new(), Vec::new());
    for stage in [RatedStage::Sample, RatedStage::Score, RatedStage::Reference, RatedStage::Train] {
        if stage == RatedStage::Reference && !needs_reference(recipe.train.loss) {
            continue;
        }
        if stage == RatedStage::Score && models.preference.is_elsewhere() {
            let note = "is another program's, whose time is not counted";
            sources.push(format!("{}: {} {note}", stage.name(), recipe.score.title()));
            continue;
        }
        let rate = measured.of(stage);
        let seconds = rate.map(|rate| job.seconds(stage, rate, job.work(stage, unit)));
        let whole = seconds.filter(|_| prompts.is_some()).map(|seconds| seconds * iterations);
        stages.push(StageTime { what: stage.name().to_owned(), seconds, whole });
        let on_host = job.host_seconds(unit, seconds, memory);
        if stage == RatedStage::Train && on_host > 0.0 {
            let whole = prompts.map(|_| on_host * iterations);
            stages.push(StageTime {
                what: "updates on the host, by count".to_owned(),
                seconds: Some(on_host),
                whole,
            });
        }
        match rate {
            Some(rate) if rate.stage() != stage => sources.push(format!(
                "{}: not measured; as {}, {}",
                stage.name(),
                rate.stage().name(),
                rate.describe()
            )),
            Some(rate) => sources.push(format!("{}: {}", stage.name(), rate.describe())),
            None if stage == RatedStage::Score => unmeasured.push((stage, models.preference_dtype)),
            None => unmeasured.push((stage, models.policy_dtype)),
        }
    }
    let mut each_iteration = vec![held_out(&job, &measured), overhead(&job, unit)];
    each_iteration.retain(|time| time.seconds.is_some());
    if prompts.is_some() {
        stages.append(&mut each_iteration);
    }
    let sum = |seconds: fn(&StageTime) -> Option<f64>| stages.iter().map(seconds).sum::<Option<f64>>();
    let together = unmeasured.is_empty().then(|| StageTime {
        what: "together".to_owned(),
        seconds: sum(|time| time.seconds),
        whole: sum(|time| time.whole),
    });
    Times { stages, together, each_iteration, sources, unmeasured }
}
