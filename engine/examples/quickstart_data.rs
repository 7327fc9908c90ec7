//! Writes what the quickstart's two models were made from, and the prompts that its recipe runs on.
//!
//! cargo run --release --example quickstart_data -- FOLDER
//!
//! Five families of tasks whose answers a program can check: reversing a word, capital letters, sorting digits,
//! adding two numbers, the largest of three numbers. Every prompt belongs to one part by a hash of its text, so that
//! no held-out prompt is in any training data:
//!
//! | file | rows | use |
//! |---|---|---|
//! | init/ | | config and tokenizer of the policy before its first step |
//! | sft.jsonl | instructions, half of them answered in a family's careless way | makes the base policy |
//! | preference.jsonl | a right and a careless answer; one label in five is turned round | makes the preference model |
//! | agreement.jsonl | the same with true labels, other prompts | says how far it agrees with the truth |
//! | prompts/iteration_N.jsonl | prompts alone | the recipe's splits |
//! | prompts/held_out.jsonl | prompts with their answers | measures accuracy, never seen by any training |

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use selfplay_records::counter::{SplitMix64, fnv1a_64};
use selfplay_records::{WriteError, atomic};
use serde_json::{Map, Value, json};

/// How many prompts of each family a part holds.
const SFT: usize = 24_000;
const PREFERENCE: usize = 600;
const AGREEMENT: usize = 300;
const SPLIT: usize = 300;
const HELD_OUT: usize = 240;

/// The share of demonstrations that show the careless answer.
const CARELESS: f64 = 0.5;
/// The share of preference labels that are turned round.
const TURNED: f64 = 0.2;

const SEED: u64 = 20_261_122;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("usage: quickstart_data FOLDER")?);
    atomic::create_dir_all(&folder.join("prompts"))?;
    atomic::create_dir_all(&folder.join("init"))?;
    write_init(&folder.join("init"))?;

    let mut parts: Vec<Vec<Task>> = vec![Vec::new(); Part::ALL.len()];
    for family in Family::ALL {
        // A stream for each family, and below one for each part: one count can change and leave the rest as it is.
        let mut random = Random::new(SEED + family as u64);
        let mut seen = HashSet::new();
        let mut wanted: Vec<usize> = Part::ALL.iter().map(|p| p.rows()).collect();
        for _ in 0..4_000_000 {
            if wanted.iter().all(|&n| n == 0) {
                break;
            }
            let task = family.task(&mut random);
            let part = Part::of(&task.prompt) as usize;
            // Demonstrations may repeat (a family can have fewer prompts than rows); other parts may not.
            if wanted[part] > 0 && (part == Part::Sft as usize || seen.insert(task.prompt.clone())) {
                wanted[part] -= 1;
                parts[part].push(task);
            }
        }
    }
    for part in Part::ALL {
        let tasks = &mut parts[part as usize];
        let mut random = Random::new(SEED + 100 + part as u64);
        random.shuffle(tasks);
        let rows: Vec<Value> = tasks.iter().map(|task| part.row(task, &mut random)).collect();
        write_lines(&folder.join(part.file()), &rows)?;
        println!("{} rows in {}", rows.len(), part.file());
    }
    Ok(())
}

/// A prompt with its right answer and the family's careless one.
#[derive(Clone)]
struct Task {
    prompt: String,
    right: String,
    careless: String,
}

#[derive(Clone, Copy)]
enum Family {
    Reverse,
    Capitals,
    SortDigits,
    Add,
    Largest,
}

impl Family {
    const ALL: [Family; 5] =
        [Family::Reverse, Family::Capitals, Family::SortDigits, Family::Add, Family::Largest];

    /// A task whose careless answer differs from the right one.
    fn task(self, random: &mut Random) -> Task {
        loop {
            let task = self.draw(random);
            if task.right != task.careless {
                return task;
            }
        }
    }

    fn draw(self, random: &mut Random) -> Task {
        match self {
            Family::Reverse => {
                let word = random.word();
                let right: String = word.chars().rev().collect();
                Task { prompt: format!("Reverse the word {word}."), right, careless: word }
            }
            Family::Capitals => {
                let word = random.word();
                let first: String =
                    word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect();
                Task {
                    prompt: format!("Write {word} in capitals."),
                    right: word.to_uppercase(),
                    careless: first,
                }
            }
            Family::SortDigits => {
                let mut digits: Vec<char> = (0..random.between(4, 6)).map(|_| random.digit()).collect();
                let prompt = format!("Sort the digits {}.", digits.iter().collect::<String>());
                digits.sort_unstable();
                let right: String = digits.iter().collect();
                Task { prompt, careless: right.chars().rev().collect(), right }
            }
            Family::Add => {
                let (a, b) = (random.between(10, 99), random.between(10, 99));
                // Without carrying: each column by itself.
                let careless = (a / 10 + b / 10) % 10 * 10 + (a % 10 + b % 10) % 10;
                Task {
                    prompt: format!("Add {a} and {b}."),
                    right: (a + b).to_string(),
                    careless: careless.to_string(),
                }
            }
            Family::Largest => {
                let numbers = [random.between(10, 99), random.between(10, 99), random.between(10, 99)];
                let [a, b, c] = numbers;
                let (right, careless) = (numbers.iter().max(), numbers.iter().min());
                let text = |n: Option<&usize>| n.map_or_else(String::new, ToString::to_string);
                Task {
                    prompt: format!("Which is the largest of {a}, {b} and {c}?"),
                    right: text(right),
                    careless: text(careless),
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Sft,
    Preference,
    Agreement,
    Split1,
    Split2,
    Split3,
    HeldOut,
}

impl Part {
    const ALL: [Part; 7] = [
        Part::Sft,
        Part::Preference,
        Part::Agreement,
        Part::Split1,
        Part::Split2,
        Part::Split3,
        Part::HeldOut,
    ];

    /// The part that a prompt belongs to, by FNV-1a of its bytes.
    fn of(prompt: &str) -> Part {
        let hash = fnv1a_64(prompt.as_bytes());
        match (hash >> 20) % 100 {
            0..50 => Part::Sft,
            50..70 => Part::Preference,
            70..75 => Part::Agreement,
            75..81 => Part::Split1,
            81..87 => Part::Split2,
            87..93 => Part::Split3,
            _ => Part::HeldOut,
        }
    }

    fn rows(self) -> usize {
        match self {
            Part::Sft => SFT,
            Part::Preference => PREFERENCE,
            Part::Agreement => AGREEMENT,
            Part::Split1 | Part::Split2 | Part::Split3 => SPLIT,
            Part::HeldOut => HELD_OUT,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Part::Sft => "sft.jsonl",
            Part::Preference => "preference.jsonl",
            Part::Agreement => "agreement.jsonl",
            Part::Split1 => "prompts/iteration_1.jsonl",
            Part::Split2 => "prompts/iteration_2.jsonl",
            Part::Split3 => "prompts/iteration_3.jsonl",
            Part::HeldOut => "prompts/held_out.jsonl",
        }
    }

    fn row(self, task: &Task, random: &mut Random) -> Value {
        let Task { prompt, right, careless } = task;
        match self {
            Part::Sft => {
                let answer = if random.chance(CARELESS) { careless } else { right };
                json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]})
            }
            Part::Preference if random.chance(TURNED) => {
                json!({"prompt": prompt, "chosen": careless, "rejected": right})
            }
            Part::Preference | Part::Agreement => {
                json!({"prompt": prompt, "chosen": right, "rejected": careless})
            }
            Part::Split1 | Part::Split2 | Part::Split3 => json!({"prompt": prompt}),
            Part::HeldOut => json!({"prompt": prompt, "answer": right}),
        }
    }
}

/// What the tasks are made of.
struct Random(SplitMix64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(SplitMix64::new(seed))
    }

    /// Inclusive of both ends.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.0.next_u64() % (high - low + 1) as u64) as usize
    }

    fn chance(&mut self, share: f64) -> bool {
        ((self.0.next_u64() >> 11) as f64) < share * (1u64 << 53) as f64
    }

    fn digit(&mut self) -> char {
        char::from(b'0' + self.between(0, 9) as u8)
    }

    /// Two or three syllables: 4 to 6 letters.
    fn word(&mut self) -> String {
        const CONSONANTS: &[u8] = b"bcdfghklmnprstvz";
        const VOWELS: &[u8] = b"aeiou";
        let mut word = String::new();
        for _ in 0..self.between(2, 3) {
            word.push(char::from(CONSONANTS[self.between(0, CONSONANTS.len() - 1)]));
            word.push(char::from(VOWELS[self.between(0, VOWELS.len() - 1)]));
        }
        word
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.between(0, i));
        }
    }
}

fn write_lines(path: &Path, rows: &[Value]) -> Result<(), WriteError> {
    atomic::write(path, |file| rows.iter().try_for_each(|row| writeln!(file, "{row}")))
}

/// The policy's shape and its tokenizer: one token a byte, four tokens for the conversation.
fn write_init(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let specials = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"];
    let mut vocab = Map::new();
    for (id, token) in specials.iter().map(ToString::to_string).chain(byte_alphabet()).enumerate() {
        vocab.insert(token, json!(id));
    }
    let added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab.len(), "hidden_size": 128,
        "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": null, "hidden_act": "silu",
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 4,
        "pad_token_id": 0, "torch_dtype": "float32", "initializer_range": 0.02, "use_cache": true,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    let template = "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}\
        {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "<pad>",
        "clean_up_tokenization_spaces": false, "model_max_length": 256, "chat_template": template,
    });
    let generation = json!({"bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 0});
    for (name, value) in [
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation),
    ] {
        atomic::write_bytes(&folder.join(name), format!("{value:#}\n").as_bytes())?;
    }
    Ok(())
}

/// The printable stand-ins for the 256 bytes, as GPT-2's byte-level encoding has them, in byte order.
fn byte_alphabet() -> Vec<String> {
    let mut next = 256;
    (0u32..256)
        .map(|byte| {
            let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let stand_in = if printable {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(stand_in).map(String::from).unwrap_or_default()
        })
        .collect()
}
