//! Which way to train: the cheapest that fits.
//!
//! Of the ways that train all weights and fit, the one whose iteration is the shortest; one that is shorter by less than a
//! fiftieth is no reason to take what is harder. Where none fits, an adapter, which is another training, and said to be.

use serde::Serialize;

use super::form::TrainingForm;
use super::form_outlook::FormOutlook;
use super::topology::Cluster;
use crate::console::units::{duration, size, size_at_least};

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Choice {
    /// `None` where nothing fits.
    pub(crate) form: Option<TrainingForm>,
    /// Why, in a sentence.
    pub(crate) reason: String,
}

/// What is shorter by less than this share is as short.
const NOTHING: f64 = 0.02;

pub(super) fn choose(forms: &[FormOutlook], cluster: &Cluster) -> Choice {
    let memory = size(cluster.memory);
    let whole: Vec<&FormOutlook> = forms.iter().filter(|one| one.form.trains_all()).collect();
    let Some(best) = cheapest(&whole).or_else(|| cheapest(&forms.iter().collect::<Vec<_>>())) else {
        let least = forms.iter().min_by_key(|one| one.memory.total());
        let least = least.map_or(String::new(), |one| {
            format!(": the least, {}, takes {} a GPU", one.form.title(), size_at_least(one.memory.total()))
        });
        return Choice { form: None, reason: format!("nothing fits the {memory} of a GPU{least}") };
    };
    let set = match best.set_text() {
        set if set.is_empty() => String::new(),
        set => format!(" ({set})"),
    };
    let takes = format!("{} of the {memory} of a GPU", size(best.memory.total()));
    let simpler = forms.iter().take_while(|one| one.form != best.form).find(|one| !one.fits);
    let needs = simpler.map_or(String::new(), |one| {
        format!("; {} would take {}", one.form.title(), size_at_least(one.memory.total()))
    });
    let reason = match (best.form.trains_all() || whole.is_empty(), best.step) {
        (true, Some(step)) => format!(
            "{}{set}: it takes {takes}, and of the ways that train the same and fit it is the simplest within {:.0} % of the \
             shortest iteration (a step takes {}){needs}",
            best.form.title(),
            100.0 * NOTHING,
            duration(step)
        ),
        (true, None) => {
            format!("{}{set}: it is the simplest that fits, with {takes}{needs}", best.form.title())
        }
        (false, _) => {
            let least = whole.iter().min_by_key(|one| one.memory.total());
            let least = least.map_or(String::new(), |one| {
                format!(", {}, takes {}", one.form.title(), size_at_least(one.memory.total()))
            });
            format!(
                "{}{set}, another training than the recipe's: it takes {takes}; the least of the ways that train all weights{least}",
                best.form.title()
            )
        }
    };
    Choice { form: Some(best.form), reason }
}

/// The first of those that fit whose iteration is as short as the shortest one.
fn cheapest<'a>(forms: &[&'a FormOutlook]) -> Option<&'a FormOutlook> {
    let fitting: Vec<&FormOutlook> = forms.iter().copied().filter(|one| one.fits).collect();
    let seconds = |one: &FormOutlook| one.iteration.map_or(0.0, |time| time.total());
    let shortest = fitting.iter().map(|one| seconds(one)).fold(f64::INFINITY, f64::min);
    fitting.into_iter().find(|one| seconds(one) <= shortest * (1.0 + NOTHING))
}
