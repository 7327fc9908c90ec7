//! An iteration of a run at work: the workspace of its stages.

use std::path::PathBuf;
use std::sync::Arc;

use selfplay_trainer::collective::Collective;

use super::log_prob_claims::{LogProbClaims, divides_log_probs};
use super::session::Session;
use crate::console::progress::Progress;
use crate::error::EngineError;
use crate::recipe::{Recipe, Stage};
use crate::run::dir::IterationDir;
use crate::run::events::Event;
use crate::run::stages_left::StagesLeft;
use crate::signals::StopFlag;
use crate::stages::{Product, Shards, Workspace};
use crate::tracking::Tracking;

/// An iteration at work.
pub struct Iteration<'a> {
    /// The process that works.
    pub session: &'a Session,
    /// From 1.
    pub number: usize,
    /// Its folder.
    pub dir: IterationDir,
    /// What was left of it at first.
    pub left: StagesLeft,
    shards: usize,
}

impl<'a> Iteration<'a> {
    /// Looks at what is left of an iteration.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn open(session: &'a Session, number: usize) -> Result<Self, EngineError> {
        Ok(Self {
            session,
            number,
            dir: session.run.iteration(number),
            left: session.left(number)?.unwrap_or_default(),
            shards: session.shards(number),
        })
    }

    /// Whether shards are left, and other ranks to share them with.
    pub fn is_divided(&self) -> bool {
        let is_left = !self.left.sample.is_empty() || !self.left.score.is_empty();
        is_left && self.session.ranks.several()
    }

    /// All its shards of a product.
    pub fn shards(&self, product: Product) -> Shards {
        Shards::new(self.path(product), self.shards)
    }
}

impl Workspace for Iteration<'_> {
    fn recipe(&self) -> &Recipe {
        &self.session.recipe
    }

    fn iteration(&self) -> usize {
        self.number
    }

    fn policy_to_serve(&self) -> Option<PathBuf> {
        (self.number > 1).then(|| self.session.run.iteration(self.number - 1).policy())
    }

    fn path(&self, product: Product) -> PathBuf {
        match product {
            Product::SamplingFile => self.dir.sampling_file(),
            Product::Candidates => self.dir.candidates(),
            Product::Preferences => self.dir.preferences(),
            Product::Training => self.dir.train(),
        }
    }

    fn tracking(&self) -> Option<&Tracking> {
        Some(&self.session.tracking)
    }

    fn title(&self, stage: Stage) -> String {
        let doing = match stage {
            Stage::Candidates => "sampling",
            Stage::Preferences => "scoring",
            Stage::Pairs => "pairing",
            Stage::Policy => "training",
            Stage::Report => "held out",
        };
        format!("iteration {}: {doing}", self.number)
    }

    fn progress(&self) -> &Progress {
        &self.session.progress
    }

    fn stop(&self) -> &StopFlag {
        &self.session.stop
    }

    fn kept(&self) -> String {
        self.session.kept()
    }

    fn record(&self, event: Event) -> Result<(), EngineError> {
        self.session.events.record(event)
    }

    fn is_first(&self) -> bool {
        self.session.ranks.is_first()
    }

    fn collective(&self) -> Option<Arc<dyn Collective>> {
        let ranks = &self.session.ranks;
        let claims = || Arc::new(LogProbClaims::new(Arc::clone(ranks), self.number)) as Arc<dyn Collective>;
        ranks.collective().or_else(|| divides_log_probs(self.session).then(claims))
    }

    fn moved(&self) {
        self.session.ranks.moved();
    }

    fn settle(&self) {
        self.session.ranks.settle();
    }

    fn check_stop(&self) -> Result<(), EngineError> {
        self.session.check_stop()
    }
}
