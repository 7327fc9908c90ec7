//! Which pass ranks make next: those that have another one, or none, take part in its exchanges.
//!
//! Ranks exchange one number before a pass. The pass that is furthest from complete goes first; the last backward of a step
//! begins when no rank has anything before it.

use selfplay_model::decoder::DecoderPass;

use crate::TrainError;
use crate::collective::Collective;

/// What a rank is about to do, in the order in which ranks go.
const PASSES: [DecoderPass; 5] = [
    DecoderPass::Forward,
    DecoderPass::Head { takes_gradients: false },
    DecoderPass::Head { takes_gradients: true },
    DecoderPass::Backward { is_last: false },
    DecoderPass::Backward { is_last: true },
];

/// Tells all ranks what this one is about to do (`None`: nothing), and returns what goes first of all that they are about to
/// do; `None` where no rank has anything.
pub(crate) fn meet(
    collective: &dyn Collective,
    own: Option<DecoderPass>,
) -> Result<Option<DecoderPass>, TrainError> {
    let all = collective.all_gather(&[number(own)])?;
    Ok(first(&all))
}

/// Of a pass, from 1; of none 0.
fn number(pass: Option<DecoderPass>) -> f64 {
    let place = pass.and_then(|pass| PASSES.iter().position(|known| *known == pass));
    place.map_or(0.0, |place| (place + 1) as f64)
}

fn first(numbers: &[f64]) -> Option<DecoderPass> {
    let passes = numbers.iter().filter(|&&number| number >= 1.0).map(|&number| number as usize - 1);
    passes.min().and_then(|place| PASSES.get(place).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_backward_waits_for_all_others() {
        let chosen =
            |passes: &[Option<DecoderPass>]| first(&passes.iter().map(|&p| number(p)).collect::<Vec<_>>());
        let last = Some(DecoderPass::Backward { is_last: true });
        assert_eq!(chosen(&[None, None]), None);
        assert_eq!(chosen(&[last, None, last]), last);
        for pass in PASSES {
            assert_eq!(chosen(&[None, Some(pass)]), Some(pass));
            assert_eq!(chosen(&[last, Some(pass)]), Some(pass));
        }
        let forward = Some(DecoderPass::Forward);
        assert_eq!(chosen(&[Some(DecoderPass::Backward { is_last: false }), forward]), forward);
    }
}
