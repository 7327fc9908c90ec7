//! Near duplicates among many texts: MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4).
//!
//! A text is the set of its runs of three words. Two sets of Jaccard similarity J agree in one minimum with probability J, so in all
//! four of one band with J⁴, and in one of 32 bands at least with 1 − (1 − J⁴)³²: 0.9998 at 0.7, 0.87 at 0.5. What agrees in a band is
//! compared exactly, so that nothing is taken for a duplicate that is none.

use std::collections::HashMap;

use selfplay_records::counter;

const BANDS: usize = 32;
const ROWS: usize = 4;
/// Words of a run.
const RUN: usize = 3;

/// A text's runs of words, as sorted hashes without repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shingles(Vec<u64>);

impl Shingles {
    /// Words are runs of letters and digits, in lower case; a letter of a script that writes no spaces is a word. A text of fewer
    /// words than a run has is one run.
    pub(super) fn of(text: &str) -> Self {
        let words = words(text);
        let mut runs: Vec<u64> = if words.len() < RUN {
            vec![counter::fnv1a_64(words.join(" ").as_bytes())]
        } else {
            words.windows(RUN).map(|run| counter::fnv1a_64(run.join(" ").as_bytes())).collect()
        };
        runs.sort_unstable();
        runs.dedup();
        Self(runs)
    }

    /// Size of the intersection over size of the union.
    fn jaccard(&self, other: &Self) -> f64 {
        let (mut a, mut b, mut both) = (0, 0, 0_usize);
        while let (Some(x), Some(y)) = (self.0.get(a), other.0.get(b)) {
            both += usize::from(x == y);
            a += usize::from(x <= y);
            b += usize::from(y <= x);
        }
        both as f64 / (self.0.len() + other.0.len() - both).max(1) as f64
    }

    /// One hash for each band: of the least numbers that its hash functions give to the runs.
    fn bands(&self) -> [u64; BANDS] {
        std::array::from_fn(|band| {
            let least = |row: usize| {
                let function = counter::mix((band * ROWS + row) as u64);
                self.0.iter().map(|run| counter::mix(run ^ function)).min().unwrap_or(0)
            };
            counter::key(band as u64, (0..ROWS).map(least))
        })
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in text.chars() {
        let spaceless = matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{e00}'..='\u{e7f}' | '\u{20000}'..='\u{3ffff}');
        if !letter.is_alphanumeric() || spaceless {
            words.push(String::new());
        }
        if letter.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(letter.to_lowercase());
        }
        if spaceless {
            words.push(String::new());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Texts that are known so far.
#[derive(Debug)]
pub(super) struct NearDuplicates {
    similarity: f64,
    texts: Vec<(String, Shingles)>,
    /// Places in `texts`, by band and hash.
    buckets: Vec<HashMap<u64, Vec<usize>>>,
}

impl NearDuplicates {
    /// None yet; texts of this Jaccard similarity and more are near duplicates.
    pub(super) fn new(similarity: f64) -> Self {
        Self { similarity, texts: Vec::new(), buckets: vec![HashMap::new(); BANDS] }
    }

    /// The first known text that this one is a near duplicate of.
    pub(super) fn find(&self, shingles: &Shingles) -> Option<&str> {
        let bands = shingles.bands();
        let alike = self.buckets.iter().zip(bands).filter_map(|(bucket, hash)| bucket.get(&hash));
        let mut places: Vec<usize> = alike.flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        let found =
            places.into_iter().find(|&place| self.texts[place].1.jaccard(shingles) >= self.similarity);
        found.map(|place| self.texts[place].0.as_str())
    }

    /// Adds a text under its name.
    pub(super) fn add(&mut self, name: &str, shingles: Shingles) {
        for (bucket, hash) in self.buckets.iter_mut().zip(shingles.bands()) {
            bucket.entry(hash).or_default().push(self.texts.len());
        }
        self.texts.push((name.to_owned(), shingles));
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::counter::CounterRng;

    use super::*;

    #[test]
    fn similarity_is_of_runs_of_three_words() {
        let jaccard = |a: &str, b: &str| Shingles::of(a).jaccard(&Shingles::of(b));
        // abc bcd cde | abc bcd cdf: two of four.
        assert_eq!(jaccard("a b c d e", "A, b c d f!"), 0.5);
        assert_eq!(jaccard("a b", "A b."), 1.0);
        assert_eq!(jaccard("", "?!"), 1.0);
        assert_eq!(jaccard("a b c", "c b a"), 0.0);
        // Four letters of a script without spaces: two runs, of which one is shared.
        assert_eq!(jaccard("写一首诗", "写一首歌"), 1.0 / 3.0);
    }

    #[test]
    fn what_banding_finds_is_what_comparing_all_finds() {
        let mut random = CounterRng::new(5);
        let mut texts: Vec<Vec<usize>> = Vec::new();
        for place in 0..400 {
            // Half are new, half an earlier one with some words changed.
            let text = match place % 2 {
                0 => (0..40).map(|_| random.below(500)).collect(),
                _ => {
                    let mut other = texts[random.below(texts.len())].clone();
                    for _ in 0..random.below(4) {
                        let at = random.below(other.len());
                        other[at] = random.below(500);
                    }
                    other
                }
            };
            texts.push(text);
        }
        let all: Vec<Shingles> = texts
            .iter()
            .map(|text| {
                let words: Vec<String> = text.iter().map(|word| format!("w{word}")).collect();
                Shingles::of(&words.join(" "))
            })
            .collect();
        let mut known = NearDuplicates::new(0.7);
        let (mut kept, mut dropped) = (Vec::new(), 0);
        for (place, shingles) in all.iter().enumerate() {
            let wanted = kept.iter().find(|&&other: &&usize| all[other].jaccard(shingles) >= 0.7);
            assert_eq!(known.find(shingles), wanted.map(|other| other.to_string()).as_deref(), "{place}");
            if wanted.is_some() {
                dropped += 1;
            } else {
                kept.push(place);
                known.add(&place.to_string(), shingles.clone());
            }
        }
        assert!(dropped > 100 && kept.len() > 200, "{dropped} of 400");
    }
}
