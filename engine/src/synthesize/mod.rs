//! `selfplay synthesize`: instructions or pairs made by models.
//!
//! ```text
//! seeds → questions → generator → replies → rows → filter → judge → instructions.jsonl or pairs.jsonl
//!
//! methods/     what is asked and what becomes a row: a file per method
//! generator/   who answers: our own sampler, a server          steps       questions → replies, kept on disk
//! templates    how questions are worded (prompts/*.jinja)      seeds       what is begun with
//! filter/      lengths, near duplicates (MinHash)              judge       scores with reasons
//! row          what is made and what is left out               folder      the output's folder: whose, locked, finished
//! counts       counts.json                                     plan        what will be asked at most
//! ```
//!
//! Sources of the methods, in our own words and with our own wordings: strong against weak, CT-LLM (arXiv 2404.04167, section 3.3);
//! reference answers against the model's own, SPIN's and Anima's pairs; requests by example and by topic, LaMini-LM (2304.14402);
//! rewriting round by round, Evol-Instruct (2304.12244); explained answers, Orca (2306.02707), as OpenBezoar (2404.12195) combines the
//! last three.
//!
//! **Deterministic.** A question's id decides its randomness, so that our own sampler answers it with the same bytes in one piece and
//! after a kill. Each step's replies are kept by shards (`steps/`), and a server's answers in its transcript besides.

mod counts;
mod filter;
mod folder;
mod generator;
mod judge;
mod methods;
pub(crate) mod plan;
mod question;
mod row;
mod seeds;
mod steps;
mod templates;

use std::path::Path;

use candle_core::Device;
use selfplay_model::gpu::HopperKernels;

pub(crate) use self::folder::{earlier_clock, earlier_settings};

use self::counts::SynthesisCounts;
use self::folder::SynthesisFolder;
use self::methods::Synthesis;
use self::row::{LeftOut, SynthesizedRow};
use self::seeds::Seed;
use self::steps::SynthesisSteps;
use self::templates::Templates;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::recipe::{Recipe, SynthesizeSection};
use crate::signals::StopFlag;

/// What a synthesis is given beside its recipe.
pub struct SynthesisSetting<'a> {
    /// Where our own sampler computes.
    pub device: &'a Device,
    /// Its name: `cpu` or `cuda:N`.
    pub device_name: &'a str,
    /// Kernels for Hopper that its operations take there.
    pub kernels: HopperKernels,
    /// Standard error.
    pub progress: &'a Progress,
    /// Raised by SIGINT and SIGTERM.
    pub stop: &'a StopFlag,
    /// Whether an output of other settings, or a finished one, is replaced.
    pub force: bool,
}

/// Makes what the recipe's `[synthesize]` says, into the folder `output`; goes on from what an earlier process of the same recipe left
/// there.
///
/// # Errors
/// A recipe without the section, seeds or templates that do not read, a model that is not to be had, a server that refuses; an output
/// that is finished, of other settings, or not ours; a stop by a signal.
pub fn run(recipe: &Recipe, output: &Path, setting: &SynthesisSetting<'_>) -> Result<()> {
    let Some(section) = &recipe.synthesize else {
        return Err(EngineError::input(
            "synthesize: absent: a section [synthesize] with a method, seeds and a generator is wanted",
        ));
    };
    let hub = Hub::default();
    let (files, seeds) = seeds::read(section, &hub)?;
    let templates = Templates::load(section.templates.as_deref())?;
    let steps = SynthesisSteps::open(recipe, section, hub, setting)?;
    let depends_on = steps.depends_on(recipe, &files, &templates)?;
    let folder = SynthesisFolder::open(output, &depends_on, setting.force)?;
    let seed_count = seeds.len();
    let mut work = Synthesis { section, seed: recipe.seed, templates, steps: steps.within(&folder) };
    let made = methods::make(&mut work, &seeds)?;
    let (kept, left_out) = select(&mut work, section, &seeds, made)?;
    let counts = SynthesisCounts::of(section, seed_count, work.steps.asked(), &kept, &left_out);
    folder.finish(section, &kept, &left_out, &counts)?;
    setting.progress.line(format!("{}: {}", output.display(), counts.summary()));
    if kept.is_empty() {
        return Err(EngineError::failure(format!(
            "{}: nothing of what was made is kept; left_out.jsonl there says why",
            output.display()
        )));
    }
    Ok(())
}

/// Filters, then the judge: what costs most is asked about least.
fn select(
    work: &mut Synthesis<'_>,
    section: &SynthesizeSection,
    seeds: &[Seed],
    made: Vec<SynthesizedRow>,
) -> Result<(Vec<SynthesizedRow>, Vec<LeftOut>)> {
    let filtered = filter::apply(&section.filter, section.method, seeds, made);
    let (mut kept, mut left_out) = (filtered.kept, filtered.left_out);
    if let Some(judge) = &section.judge {
        let judged = judge::judge(work, judge, kept)?;
        kept = judged.kept;
        left_out.extend(judged.left_out);
    }
    Ok((kept, left_out))
}
