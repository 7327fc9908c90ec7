//! Examples of every command, which its help ends with. A test parses each of them.

/// By command, in the order of the help.
const EXAMPLES: [(&str, &[&str]); 27] = [
    (
        "run",
        &[
            "selfplay run recipes/quickstart.toml",
            "selfplay run recipe.toml -o runs/second --set train.beta=0.01 --device cuda",
        ],
    ),
    ("resume", &["selfplay resume runs/quickstart", "selfplay resume runs/quickstart --set iterations=5"]),
    ("branch", &["selfplay branch runs/a --from iteration_02/candidates -o runs/b"]),
    ("show", &["selfplay show runs/quickstart", "selfplay show runs/quickstart --samples 3"]),
    ("compare", &["selfplay compare runs/a runs/b"]),
    ("report", &["selfplay report runs/quickstart -o report.html", "selfplay report runs/a runs/b --serve"]),
    ("check", &["selfplay check recipe.toml", "selfplay check recipe.toml --set sample.num_samples=8"]),
    ("plan", &["selfplay plan recipe.toml", "selfplay plan recipe.toml --device cuda --memory 24GB"]),
    ("tokenize", &["selfplay tokenize --model DIR --input texts.jsonl --output ids.jsonl"]),
    (
        "sample",
        &[
            "selfplay sample --model DIR --prompts prompts.jsonl --output candidates.jsonl",
            "selfplay sample --model DIR --prompts p.jsonl --output c.parquet --set seed=7",
        ],
    ),
    ("score", &["selfplay score --preference-model DIR --candidates c.jsonl --output p.jsonl"]),
    ("pair", &["selfplay pair --candidates c.jsonl --preferences p.jsonl --output pairs.jsonl"]),
    ("logprobs", &["selfplay logprobs --model DIR --input rows.jsonl --output logprobs.jsonl"]),
    (
        "train",
        &[
            "selfplay train --model DIR --pairs pairs.jsonl --output trained",
            "selfplay train --model DIR --pairs p.jsonl --output t --set train.lora.rank=8",
        ],
    ),
    ("sft", &["selfplay sft --model DIR --data instructions.jsonl --output trained"]),
    ("train-preference", &["selfplay train-preference --model DIR --pairs pairs.jsonl --output trained"]),
    ("eval-preference", &["selfplay eval-preference --preference-model DIR --pairs labelled.jsonl"]),
    (
        "evaluate",
        &[
            "selfplay evaluate --model RUN --suite gsm8k --data gsm8k=test.jsonl",
            "selfplay evaluate --model DIR --suite mmlu --data mmlu=mmlu/ --against OTHER",
        ],
    ),
    ("winrate", &["selfplay winrate --annotations annotations.json"]),
    ("synthesize", &["selfplay synthesize --recipe recipes/quickstart-synthesize.toml -o rows"]),
    ("merge", &["selfplay merge --adapter trained/adapter --output merged"]),
    (
        "push",
        &[
            "selfplay push runs/quickstart --to ORG/NAME --private --dry-run",
            "selfplay push trained/adapter --to ORG/NAME --base ORG/BASE --revision v1",
        ],
    ),
    (
        "init",
        &[
            "selfplay init                            # asks",
            "selfplay init recipe.toml --policy ORG/NAME --gpu-memory 24GB",
            "selfplay init sft.toml --goal sft --policy DIR --data instructions.jsonl",
        ],
    ),
    ("doctor", &["selfplay doctor", "selfplay doctor --device cuda --json"]),
    ("schema", &["selfplay schema > recipe.schema.json", "selfplay schema --markdown"]),
    ("bench", &["selfplay bench kernels", "selfplay bench sample train --device cuda --json rates.json"]),
    (
        "completions",
        &[
            "selfplay completions bash > ~/.bash_completion.d/selfplay",
            "selfplay completions zsh > ~/.zfunc/_selfplay",
        ],
    ),
];

/// The examples of a command; none of one that is not listed.
pub(crate) fn of(command: &str) -> &'static [&'static str] {
    EXAMPLES.iter().find(|(name, _)| *name == command).map_or(&[], |(_, examples)| examples)
}

/// The commands that have some.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    EXAMPLES.iter().map(|(name, _)| *name)
}
