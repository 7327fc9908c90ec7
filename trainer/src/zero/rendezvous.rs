//! What ranks do together next: those that are about to do something else, or nothing, take part in its exchanges.
//!
//! Ranks exchange one number before a pass, and before a parameter that one of them asks for. The pass that is furthest from complete goes
//! first; the last backward of a step begins when no rank has anything before it.

use selfplay_model::decoder::DecoderPass;

use crate::TrainError;
use crate::collective::Collective;

/// What a rank is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JointWork {
    /// A pass over the decoder.
    Pass(DecoderPass),
    /// To bring all of an owned parameter, by its place.
    Fetch(usize),
}

/// Passes in the order in which ranks go.
const PASSES: [DecoderPass; 5] = [
    DecoderPass::Forward,
    DecoderPass::Head { takes_gradients: false },
    DecoderPass::Head { takes_gradients: true },
    DecoderPass::Backward { is_last: false },
    DecoderPass::Backward { is_last: true },
];

/// Tells all ranks what this one is about to do (`None`: nothing), and returns what goes first of all that they are about to
/// do; `None` where no rank has anything.
pub(super) fn meet(
    collective: &dyn Collective,
    own: Option<JointWork>,
) -> Result<Option<JointWork>, TrainError> {
    let all = collective.all_gather(&[number(own)])?;
    Ok(first(&all))
}

/// Of a pass, from 1; of a parameter, after these; of nothing 0.
fn number(work: Option<JointWork>) -> f64 {
    let place = match work {
        None => None,
        Some(JointWork::Pass(pass)) => PASSES.iter().position(|known| *known == pass),
        Some(JointWork::Fetch(place)) => Some(PASSES.len() + place),
    };
    place.map_or(0.0, |place| (place + 1) as f64)
}

fn first(numbers: &[f64]) -> Option<JointWork> {
    let works = numbers.iter().filter(|&&number| number >= 1.0).map(|&number| number as usize - 1);
    works.min().map(|place| match PASSES.get(place) {
        Some(&pass) => JointWork::Pass(pass),
        None => JointWork::Fetch(place - PASSES.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_backward_waits_for_all_others() {
        let chosen_of =
            |works: &[Option<JointWork>]| first(&works.iter().map(|&work| number(work)).collect::<Vec<_>>());
        let chosen = |passes: &[Option<DecoderPass>]| {
            let works: Vec<_> = passes.iter().map(|pass| pass.map(JointWork::Pass)).collect();
            match chosen_of(&works) {
                Some(JointWork::Pass(pass)) => Some(pass),
                Some(JointWork::Fetch(place)) => panic!("nobody asks for {place}"),
                None => None,
            }
        };
        let last = Some(DecoderPass::Backward { is_last: true });
        assert_eq!(chosen(&[None, None]), None);
        assert_eq!(chosen(&[last, None, last]), last);
        for pass in PASSES {
            assert_eq!(chosen(&[None, Some(pass)]), Some(pass));
            assert_eq!(chosen(&[last, Some(pass)]), Some(pass));
        }
        let forward = Some(DecoderPass::Forward);
        assert_eq!(chosen(&[Some(DecoderPass::Backward { is_last: false }), forward]), forward);
        // A parameter comes after the passes that others still make; of two the first.
        let fetch = |place| Some(JointWork::Fetch(place));
        assert_eq!(chosen_of(&[fetch(0), last.map(JointWork::Pass)]), last.map(JointWork::Pass));
        assert_eq!(chosen_of(&[None, fetch(300), None]), fetch(300));
        assert_eq!(chosen_of(&[fetch(7), fetch(3)]), fetch(3));
    }
}
