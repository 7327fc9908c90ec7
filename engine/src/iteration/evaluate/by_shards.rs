//! Numbers that a model says of held-out answers, by one process at once or by ranks in shards.
//!
//! Numbers whose last bits depend on what passes a model together stay together: whoever divides them says which do ("runs"), and a
//! shard is some neighbouring runs. What ranks find lies in the launch's own folder, as bits, until rank 0 has all of it.

use super::setting::{shared_name, title};
use crate::error::EngineError;
use crate::iteration::session::Session;
use crate::iteration::shared_shards::{ShardKind, SharedShards};
use crate::json_file::{read_json, write_json};
use crate::ranks::claims::{HeldOutFigure, ShardTask};
use crate::run::dir::make_folder;

/// Shards for each rank, where there are so many runs: a rank that is slower, or lost, costs little.
const SHARDS_OF_A_RANK: usize = 4;

/// The numbers of places, in their order.
pub(super) type NumbersOf<'a> = dyn FnMut(&[usize]) -> Result<Vec<f64>, EngineError> + 'a;

/// The numbers of `runs`, by place: of one process all of them at once, of several ranks by shards. Rank 0 has all of them then, another
/// one none.
///
/// # Errors
/// Those of `compute`; a file that cannot be read or written; another rank's failure; a signal.
pub(super) fn by_shards(
    session: &Session,
    iteration: usize,
    figure: HeldOutFigure,
    runs: &[Vec<usize>],
    compute: &mut NumbersOf<'_>,
) -> Result<Vec<f64>, EngineError> {
    let count = runs.iter().map(Vec::len).sum();
    let (ranks, name) = (&session.ranks, shared_name(iteration));
    let shards = shards_of(runs, SHARDS_OF_A_RANK * ranks.world());
    let Some(folder) = ranks.shared_folder(&name).filter(|_| shards.len() > 1) else {
        return if ranks.is_first() { compute(&(0..count).collect::<Vec<_>>()) } else { Ok(Vec::new()) };
    };
    let folder = folder.join(figure.name());
    make_folder(&folder)?;
    let kind = ShardKind {
        task: ShardTask::Figure(figure),
        folder,
        ending: ".json",
        count: shards.len(),
        title: format!("{}: held out: {}", title(iteration), figure.name().replace('_', " ")),
    };
    let list = SharedShards::new(session, ranks.claims(&name), kind);
    list.open()?;
    list.make_all(&mut |shard| {
        session.check_stop()?;
        ranks.enter("evaluate");
        let bits: Vec<u64> = compute(&shards[shard])?.into_iter().map(f64::to_bits).collect();
        write_json(&list.file(shard), &bits)
    })?;
    let mut numbers = Vec::new();
    if ranks.is_first() {
        numbers.resize(count, f64::NAN);
        for (shard, places) in shards.iter().enumerate() {
            let bits: Vec<u64> = read_json(&list.file(shard))?;
            for (&place, bits) in places.iter().zip(bits) {
                numbers[place] = f64::from_bits(bits);
            }
        }
    }
    Ok(numbers)
}

/// Neighbouring runs together, so that there are `most` shards at most; places ascend.
fn shards_of(runs: &[Vec<usize>], most: usize) -> Vec<Vec<usize>> {
    let together = |runs: &[Vec<usize>]| {
        let mut places = runs.concat();
        places.sort_unstable();
        places
    };
    runs.chunks(runs.len().div_ceil(most.max(1)).max(1)).map(together).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_runs_make_a_shard_and_every_place_is_in_one() {
        let runs = [vec![4, 0], vec![2], vec![1, 3], vec![5], vec![6]];
        assert_eq!(shards_of(&runs, 3), [vec![0, 2, 4], vec![1, 3, 5], vec![6]]);
        assert_eq!(shards_of(&runs, 1), [vec![0, 1, 2, 3, 4, 5, 6]]);
        assert_eq!(shards_of(&runs, 9).len(), 5);
        assert!(shards_of(&[], 4).is_empty());
    }
}
