//! A group in tokens.

use crate::fingerprint::Fingerprint;
use crate::objectives::Example;

/// All responses to a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenGroup {
    /// Its name in error messages: that of its first row.
    pub name: String,
    /// Never empty.
    pub prompt: Vec<u32>,
    /// Two or more.
    pub responses: Vec<GroupResponse>,
}

/// A response of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupResponse {
    /// Its tokens, the stop token included; never empty.
    pub ids: Vec<u32>,
    /// A: how much better it is than the others.
    pub advantage: f64,
    /// Log-probs of its tokens under the policy that sampled it; `None`: to be computed with the starting weights.
    pub old: Option<Vec<f32>>,
    /// The same under the reference; `None`: to be computed, or not read.
    pub reference: Option<Vec<f32>>,
}

impl TokenGroup {
    pub(super) fn fingerprint(&self, hash: &mut Fingerprint) {
        hash.ids(&self.prompt).number(self.responses.len() as u64);
        self.responses.iter().for_each(|response| {
            hash.ids(&response.ids);
        });
    }
}

impl Example for TokenGroup {
    fn name(&self) -> &str {
        &self.name
    }

    fn tokens(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|response| response.ids.len()).sum::<usize>()
    }
}
