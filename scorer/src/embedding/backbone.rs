//! What a decoder with preference heads takes of a machine, by its shape alone.

use std::sync::Arc;

use selfplay_model::{Architecture, StoredDtype};

use crate::Footprint;
use crate::footprint::{ComparisonLengths, Cost};

/// Of a backbone; its heads are next to nothing.
pub(super) fn footprint_of(backbone: &Architecture) -> Footprint {
    Footprint::new(
        backbone.parameter_count() as u64,
        backbone.stored_dtype.map(StoredDtype::dtype),
        backbone.inference_values() as u64,
        Arc::new(Backbone(backbone.clone())),
    )
}

/// A decoder that reads each prompt once, and each response after it.
#[derive(Debug)]
struct Backbone(Architecture);

impl Cost for Backbone {
    fn flops(&self, comparison: ComparisonLengths) -> f64 {
        let ComparisonLengths { prompt, response, responses } = comparison;
        self.0.continuation_flops(0, prompt) + responses * self.0.continuation_flops(prompt, response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_reads_the_prompt_once() {
        let backbone = Architecture::named("llama-15m").unwrap();
        let flops = |responses| {
            footprint_of(&backbone).flops(ComparisonLengths { prompt: 50, response: 20, responses })
        };
        let response = backbone.continuation_flops(50, 20);
        assert_eq!(flops(3.0), backbone.continuation_flops(0, 50) + 3.0 * response);
    }
}
