//! Memory and operations of a decoder with preference heads, computed from its shape.

use std::sync::Arc;

use selfplay_model::{Architecture, StoredDtype};

use crate::Footprint;
use crate::footprint::{ComparisonLengths, Cost};

/// The footprint of a model with this backbone and `parameters` numbers, its preference heads included. The operations of
/// the heads are left out: they are less than a thousandth of the backbone's.
pub(super) fn footprint_of(backbone: &Architecture, parameters: usize) -> Footprint {
    Footprint::new(
        parameters as u64,
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
            footprint_of(&backbone, 0).flops(ComparisonLengths { prompt: 50, response: 20, responses })
        };
        let response = backbone.continuation_flops(50, 20);
        assert_eq!(flops(3.0), backbone.continuation_flops(0, 50) + 3.0 * response);
    }
}
