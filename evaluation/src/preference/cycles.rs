//! Circles among the comparisons of one prompt.
//!
//! The responses to a prompt are nodes (equal texts are one), its comparisons are edges from winner to loser. A triad is three
//! responses that are all compared with each other. A *cyclic set* is a largest set of responses in which labels lead from
//! each to every other: no ranking orders all of its comparisons.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{JudgedPair, Proportion, Winner};

/// Responses of a cyclic set up to which the best ranking is looked for.
const MOST_RANKED: usize = 14;

/// Cycles of the model's and of the labels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CycleReport {
    /// Triads of which all three comparisons are there.
    pub triads: usize,
    /// Triads that are cyclic by the model.
    pub cyclic_by_model: usize,
    /// Triads that are cyclic by the labels.
    pub cyclic_by_labels: usize,
    /// Cyclic by both.
    pub cyclic_by_both: usize,
    /// Prompts with a cyclic set.
    pub cyclic_sets: usize,
    /// Share of the comparisons inside of cyclic sets that the model orders rightly.
    pub accuracy_on_cyclic_sets: Option<Proportion>,
    /// The share that the best ranking of each set reaches; `None` without a set, or with one of more than 14 responses.
    pub best_ranking: Option<f64>,
}

/// The comparisons of one prompt.
#[derive(Default)]
struct PromptGraph<'p> {
    places: BTreeMap<&'p str, usize>,
    /// First node, second node, comparison.
    edges: Vec<(usize, usize, &'p JudgedPair)>,
}

pub(super) fn of(pairs: &[JudgedPair]) -> CycleReport {
    let mut graphs: BTreeMap<&str, PromptGraph<'_>> = BTreeMap::new();
    for pair in pairs {
        let graph = graphs.entry(&pair.prompt).or_default();
        let [first, second] = [pair.first.as_str(), pair.second.as_str()].map(|text| {
            let next = graph.places.len();
            *graph.places.entry(text).or_insert(next)
        });
        if first != second {
            graph.edges.push((first, second, pair));
        }
    }
    let mut found = CycleReport {
        triads: 0,
        cyclic_by_model: 0,
        cyclic_by_labels: 0,
        cyclic_by_both: 0,
        cyclic_sets: 0,
        accuracy_on_cyclic_sets: None,
        best_ranking: None,
    };
    let (mut credits, mut ranked) = (Vec::new(), Some(0.0));
    for graph in graphs.values().filter(|graph| graph.edges.len() > 2) {
        graph.count_triads(&mut found);
        let sets = graph.cyclic_sets();
        found.cyclic_sets += usize::from(!sets.is_empty());
        for set in sets {
            let inside: Vec<_> =
                graph.edges.iter().filter(|edge| set.contains(&edge.0) && set.contains(&edge.1)).collect();
            credits.extend(inside.iter().filter_map(|edge| edge.2.credit()));
            let best = best_ranking(&set, &inside);
            ranked = ranked.zip(best).map(|(sum, best)| sum + best);
        }
    }
    found.best_ranking = ranked.filter(|_| !credits.is_empty()).map(|sum| sum / credits.len() as f64);
    found.accuracy_on_cyclic_sets = Proportion::of(credits);
    found
}

impl PromptGraph<'_> {
    /// Above 0 where the first node of the two wins, by what `sign` says of a comparison and its orientation; `None` where they are not
    /// compared.
    fn balance(&self, a: usize, b: usize, sign: fn(&JudgedPair) -> f64) -> Option<f64> {
        let mut sum = None;
        for &(first, second, pair) in &self.edges {
            if (first, second) == (a, b) {
                sum = Some(sum.unwrap_or(0.0) + sign(pair));
            } else if (first, second) == (b, a) {
                sum = Some(sum.unwrap_or(0.0) - sign(pair));
            }
        }
        sum
    }

    fn count_triads(&self, found: &mut CycleReport) {
        let n = self.places.len();
        let tables = [label_sign, |pair: &JudgedPair| pair.score].map(|sign| {
            let row = |a: usize| (0..n).map(|b| self.balance(a, b, sign)).collect::<Vec<_>>();
            (0..n).map(row).collect::<Vec<_>>()
        });
        let around = |table: &[Vec<Option<f64>>], [a, b, c]: [usize; 3]| {
            let beats = |i: usize, j: usize| table[i][j].is_some_and(|balance| balance > 0.0);
            (beats(a, b) && beats(b, c) && beats(c, a)) || (beats(a, c) && beats(c, b) && beats(b, a))
        };
        let triads = (0..n).flat_map(|a| (a + 1..n).flat_map(move |b| (b + 1..n).map(move |c| [a, b, c])));
        let [labels, model] = &tables;
        for triad in triads {
            let [a, b, c] = triad;
            if [(a, b), (b, c), (a, c)].iter().any(|&(i, j)| labels[i][j].is_none()) {
                continue;
            }
            found.triads += 1;
            let (by_labels, by_model) = (around(labels, triad), around(model, triad));
            found.cyclic_by_labels += usize::from(by_labels);
            found.cyclic_by_model += usize::from(by_model);
            found.cyclic_by_both += usize::from(by_labels && by_model);
        }
    }

    /// The largest sets of three nodes or more in which labels lead from each to every other.
    fn cyclic_sets(&self) -> Vec<Vec<usize>> {
        let n = self.places.len();
        let mut reaches = vec![vec![false; n]; n];
        for &(first, second, pair) in &self.edges {
            match pair.label {
                Winner::First => reaches[first][second] = true,
                Winner::Second => reaches[second][first] = true,
                Winner::Tie => {}
            }
        }
        for via in 0..n {
            for a in 0..n {
                if reaches[a][via] {
                    let beyond = reaches[via].clone();
                    reaches[a].iter_mut().zip(beyond).for_each(|(reached, further)| *reached |= further);
                }
            }
        }
        let mut sets: Vec<Vec<usize>> = Vec::new();
        for (a, reached) in reaches.iter().enumerate() {
            let set: Vec<usize> = (0..n).filter(|&b| reached[b] && reaches[b][a]).collect();
            if set.len() > 2 && set[0] == a {
                sets.push(set);
            }
        }
        sets
    }
}

fn label_sign(pair: &JudgedPair) -> f64 {
    match pair.label {
        Winner::First => 1.0,
        Winner::Tie => 0.0,
        Winner::Second => -1.0,
    }
}

/// Comparisons that the best ranking of a set orders rightly, found over all orders by their first members.
fn best_ranking(set: &[usize], edges: &[&(usize, usize, &JudgedPair)]) -> Option<f64> {
    let n = set.len();
    if n > MOST_RANKED {
        return None;
    }
    let place = |node: usize| set.iter().position(|&one| one == node);
    let mut wins = vec![vec![0.0; n]; n];
    for (first, second, pair) in edges.iter().map(|edge| **edge) {
        let (Some(first), Some(second)) = (place(first), place(second)) else { continue };
        match pair.label {
            Winner::First => wins[first][second] += 1.0,
            Winner::Second => wins[second][first] += 1.0,
            Winner::Tie => {}
        }
    }
    // best[members]: with these ranked before all others.
    let mut best = vec![0.0_f64; 1 << n];
    for members in 1..1_usize << n {
        let last = (0..n).filter(|&one| members >> one & 1 == 1).map(|last| {
            let before = members & !(1 << last);
            let won: f64 = (0..n).filter(|&one| before >> one & 1 == 1).map(|one| wins[one][last]).sum();
            best[before] + won
        });
        best[members] = last.fold(0.0, f64::max);
    }
    best.last().copied()
}
