//! Writes the prompts of recipes/smollm2-135m.toml: short tasks with a constraint that a program can check.
//!
//! cargo run --release -p selfplay --example constraint_data -- FOLDER
//!
//! Each row has the prompt and its `constraint` for the checker: `{"kind": …, and its value}`, or `{"kind": "all", "of": [two of them]}`.
//!
//! | file | rows | use |
//! |---|---|---|
//! | iteration_N.jsonl | 400 each | the recipe's splits; no prompt twice |
//! | held_out.jsonl | 360 | topics and values of constraints that no split has |

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use selfplay_records::counter::SplitMix64;
use selfplay_records::{WriteError, atomic};
use serde_json::{Value, json};

/// Rows of each split, and held-out rows.
const SPLIT: usize = 400;
const HELD_OUT: usize = 360;

const SEED: u64 = 20_261_128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: constraint_data FOLDER")?);
    atomic::create_dir_all(&folder)?;
    let mut random = Random(SplitMix64::new(SEED));
    let mut seen = HashSet::new();
    let mut training = tasks(&TRAINING, 3 * SPLIT, &mut random, &mut seen);
    random.shuffle(&mut training);
    for (number, rows) in training.chunks(SPLIT).enumerate() {
        write_lines(&folder.join(format!("iteration_{}.jsonl", number + 1)), rows)?;
    }
    let held_out = tasks(&UNSEEN, HELD_OUT, &mut random, &mut seen);
    write_lines(&folder.join("held_out.jsonl"), &held_out)?;
    println!("{} rows to train on, {} held out", training.len(), held_out.len());
    Ok(())
}

/// What tasks are made of: those to train on share nothing with those held out.
struct Stock {
    topics: &'static [&'static str],
    most_words: &'static [usize],
    counts: &'static [usize],
    words: &'static [&'static str],
    avoided: &'static [&'static str],
    openings: &'static [&'static str],
    endings: &'static [&'static str],
    keys: &'static [[&'static str; 2]],
}

const TRAINING: Stock = Stock {
    topics: &[
        "bread",
        "rain",
        "the moon",
        "a bicycle",
        "cats",
        "the sea",
        "coffee",
        "a library",
        "winter",
        "gardens",
        "trains",
        "honey",
        "a bridge",
        "music",
        "the desert",
        "a market",
        "paper",
        "snow",
        "bees",
        "a river",
        "apples",
        "the night sky",
        "a school",
        "wool",
        "wind",
        "a kitchen",
        "salt",
        "horses",
        "a ship",
        "sleep",
        "a harbour",
        "clocks",
        "glass",
        "a mountain",
        "birds",
        "tea",
        "maps",
        "a forest",
        "letters",
        "stone",
        "soup",
        "a lamp",
        "cheese",
        "a village",
        "walking",
        "clouds",
        "a window",
        "fire",
        "shoes",
        "a farm",
    ],
    most_words: &[8, 10, 15, 20, 30],
    counts: &[2, 3, 5],
    words: &[
        "river", "golden", "morning", "simple", "garden", "quiet", "water", "market", "small", "summer",
        "table", "friend", "light", "green", "story", "old",
    ],
    avoided: &["the", "is", "and", "very"],
    openings: &["In short,", "Here is my answer:", "Well,", "To begin with,"],
    endings: &["That is all.", "The end.", "I hope this helps.", "Thank you."],
    keys: &[["name", "reason"], ["title", "text"], ["what", "why"], ["place", "season"]],
};

const UNSEEN: Stock = Stock {
    topics: &[
        "a lighthouse",
        "rice",
        "foxes",
        "autumn",
        "a museum",
        "ice",
        "the railway",
        "pears",
        "a violin",
        "fog",
        "candles",
        "an island",
        "sheep",
        "a map of the world",
        "butter",
        "a theatre",
        "oaks",
        "a well",
        "kites",
        "mirrors",
        "a canal",
        "spiders",
        "a blanket",
        "thunder",
    ],
    most_words: &[9, 12, 18, 25],
    counts: &[4, 6],
    words: &["silver", "evening", "bright", "stone", "window", "careful", "blue", "winter"],
    avoided: &["a", "of", "really"],
    openings: &["Briefly,", "My answer is this:", "First of all,"],
    endings: &["Nothing more.", "Good night.", "This is the last line."],
    keys: &[["subject", "summary"], ["item", "use"], ["colour", "sound"]],
};

/// So many tasks, of each kind the same number as nearly as can be.
fn tasks(stock: &Stock, wanted: usize, random: &mut Random, seen: &mut HashSet<String>) -> Vec<Value> {
    let mut rows = Vec::new();
    while rows.len() < wanted {
        let kind = Kind::ALL[rows.len() % Kind::ALL.len()];
        let constraint = kind.draw(stock, random);
        let topic = random.pick(stock.topics);
        let request = random.pick(&[
            "Write about {}.",
            "Tell me something about {}.",
            "Describe {}.",
            "What do people like about {}?",
        ]);
        let prompt = format!("{} {}", request.replace("{}", topic), constraint.request);
        if seen.insert(prompt.clone()) {
            rows.push(json!({"prompt": prompt, "constraint": constraint.value}));
        }
    }
    rows
}

/// A constraint as the prompt asks for it, and as the checker reads it.
struct Constraint {
    request: String,
    value: Value,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    MostWords,
    Include,
    Repeat,
    Avoid,
    Lower,
    Upper,
    NoCommas,
    Lines,
    Bullets,
    Start,
    End,
    Json,
    Two,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::MostWords,
        Self::Include,
        Self::Repeat,
        Self::Avoid,
        Self::Lower,
        Self::Upper,
        Self::NoCommas,
        Self::Lines,
        Self::Bullets,
        Self::Start,
        Self::End,
        Self::Json,
        Self::Two,
    ];

    fn draw(self, stock: &Stock, random: &mut Random) -> Constraint {
        let made = |request: String, value: Value| Constraint { request, value };
        match self {
            Self::MostWords => {
                let n = random.pick(stock.most_words);
                made(format!("Use at most {n} words."), json!({"kind": "max_words", "n": n}))
            }
            Self::Include => {
                let word = random.pick(stock.words);
                made(format!("Use the word \"{word}\"."), json!({"kind": "include", "word": word}))
            }
            Self::Repeat => {
                let (word, n) = (random.pick(stock.words), random.pick(&[2, 3]));
                let request = format!("Use the word \"{word}\" at least {n} times.");
                made(request, json!({"kind": "repeat", "word": word, "n": n}))
            }
            Self::Avoid => {
                let word = random.pick(stock.avoided);
                made(format!("Do not use the word \"{word}\"."), json!({"kind": "avoid", "word": word}))
            }
            Self::Lower => made("Use lower case letters only.".to_owned(), json!({"kind": "lower_case"})),
            Self::Upper => made("Use capital letters only.".to_owned(), json!({"kind": "upper_case"})),
            Self::NoCommas => made("Do not use any commas.".to_owned(), json!({"kind": "no_commas"})),
            Self::Lines => {
                let n = random.pick(stock.counts);
                made(format!("Answer in exactly {n} lines."), json!({"kind": "lines", "n": n}))
            }
            Self::Bullets => {
                let n = random.pick(stock.counts);
                let request = format!("Answer with exactly {n} lines that each begin with \"- \".");
                made(request, json!({"kind": "bullets", "n": n}))
            }
            Self::Start => {
                let text = random.pick(stock.openings);
                made(format!("Begin with \"{text}\""), json!({"kind": "start_with", "text": text}))
            }
            Self::End => {
                let text = random.pick(stock.endings);
                made(format!("End with \"{text}\""), json!({"kind": "end_with", "text": text}))
            }
            Self::Json => {
                let [first, second] = random.pick(stock.keys);
                let request = format!(
                    "Answer with a JSON object that has the keys \"{first}\" and \"{second}\", and nothing else."
                );
                made(request, json!({"kind": "json", "keys": [first, second]}))
            }
            Self::Two => {
                let first = random.pick(&[Self::Lower, Self::NoCommas, Self::MostWords]).draw(stock, random);
                let second = random.pick(&[Self::Include, Self::Lines]).draw(stock, random);
                let request = format!("{} {}", first.request, second.request);
                made(request, json!({"kind": "all", "of": [first.value, second.value]}))
            }
        }
    }
}

struct Random(SplitMix64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

fn write_lines(path: &Path, rows: &[Value]) -> Result<(), WriteError> {
    atomic::write(path, |file| rows.iter().try_for_each(|row| writeln!(file, "{row}")))
}
