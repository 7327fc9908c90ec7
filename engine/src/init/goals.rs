//! The draft of each goal. Where a value is published it is the published one; the shipped recipes give the sources.

use super::answers::{InitAnswers, InitGoal, Tuning};
use super::draft::Draft;

/// Iterations that are worth their cost: gains shrink from the second on.
const MOST_ITERATIONS: usize = 3;

/// A recipe of these answers that trains by `tuning`.
pub(crate) fn draft_of(answers: &InitAnswers, tuning: Tuning) -> Draft {
    let mut draft = Draft::new(answers.goal.link());
    draft.top("name", answers.name.as_str(), "names the run's folder: runs/<name>");
    if answers.goal == InitGoal::SelfPlay {
        let iterations = if answers.data.len() == 1 { MOST_ITERATIONS } else { answers.data.len() };
        draft.top("iterations", iterations as i64, "each costs a round of sampling, scoring and training");
    }
    draft.top("seed", 42, "");
    draft.section("policy", "the model that is trained");
    draft.key("model", answers.policy.as_str(), "");
    if tuning == Tuning::Qlora {
        draft.key("quantize", "nf4", "frozen weights in four bits: a quarter of 16");
    }
    match answers.goal {
        InitGoal::SelfPlay => self_play(&mut draft, answers, tuning),
        InitGoal::Sft => sft(&mut draft, answers, tuning),
        InitGoal::Pairs => pairs(&mut draft, answers, tuning),
        InitGoal::PreferenceModel => preference_model(&mut draft, answers, tuning),
    }
    draft
}

fn self_play(draft: &mut Draft, answers: &InitAnswers, tuning: Tuning) {
    let once = answers.data.len() == 1;
    let splits: Vec<String> =
        if once { vec![answers.data[0].clone(); MOST_ITERATIONS] } else { answers.data.clone() };
    draft.section("prompts", "one source for each iteration");
    let why = if once { "the same prompts each time; fresh ones for each iteration are better" } else { "" };
    draft.key("splits", splits, why);
    draft.section("sample", "how the policy answers them");
    draft.key("num_samples", 5, "more candidates widen the best-worst gap, at a cost in proportion");
    draft.key("temperature", 0.7, "higher: more varied candidates, worse ones among them");
    draft.key("top_p", 0.9, "");
    draft.key("max_new_tokens", 1024, "longer answers take memory and time in proportion");
    draft.section("score", "who says which answer is better");
    draft.key("model", answers.preference_model.as_str(), "its kind is recognised by its head");
    draft.section("pair", "");
    draft.key("rule", "best-worst", "one pair for each prompt");
    draft.section("train", "how the policy learns from the pairs");
    draft.key(
        "loss",
        "gpo",
        "sppo: from win probabilities in the place of scores; dpo: from the order alone",
    );
    draft.key("beta", 0.001, "the pull to the policy that an iteration starts from");
    training(draft, tuning, LearningRates { full: 5e-7, adapter: 5e-6 }, "rmsprop", 64);
    draft.key("max_prompt_length", 512, "");
    lora(draft, "train.lora", tuning, true);
    draft.section("eval", "held-out prompts: what each iteration is measured on");
    draft.key("max_prompts", 200, "the first so many, kept out of training");
}

fn sft(draft: &mut Draft, answers: &InitAnswers, tuning: Tuning) {
    draft.section("sft", "supervised fine-tuning");
    data(draft, answers);
    training(draft, tuning, LearningRates { full: 1e-5, adapter: 1e-4 }, "adamw", 64);
    lora(draft, "sft.lora", tuning, false);
}

fn pairs(draft: &mut Draft, answers: &InitAnswers, tuning: Tuning) {
    draft.section("train", "how the policy learns from the pairs");
    data(draft, answers);
    draft.key("loss", "dpo", "");
    draft.key("beta", 0.1, "the pull to the model that training starts from");
    training(draft, tuning, LearningRates { full: 5e-7, adapter: 5e-6 }, "adamw", 64);
    draft.key("max_prompt_length", 512, "");
    lora(draft, "train.lora", tuning, false);
}

fn preference_model(draft: &mut Draft, answers: &InitAnswers, tuning: Tuning) {
    draft.section("preference", "a preference model");
    data(draft, answers);
    draft.key("kind", "gpm", "bradley-terry: one reward for each answer, no cycles");
    draft.key("holdout", 0.05, "share of the pairs that accuracy is measured on");
    training(draft, tuning, LearningRates { full: 1e-5, adapter: 1e-4 }, "adamw", 32);
    lora(draft, "preference.lora", tuning, false);
}

fn data(draft: &mut Draft, answers: &InitAnswers) {
    draft.key("data", answers.data.clone(), "each file's layout is recognised by its columns");
}

/// Learning rates.
struct LearningRates {
    full: f64,
    adapter: f64,
}

fn training(draft: &mut Draft, tuning: Tuning, rates: LearningRates, optimizer: &str, batch: i64) {
    draft.key(
        "optimizer",
        optimizer,
        "adamw8bit and rmsprop8bit keep their state in a quarter of the memory",
    );
    let (rate, why) = match tuning {
        Tuning::Full => (rates.full, "for billions of parameters; models below one take, and need, more"),
        Tuning::Lora | Tuning::Qlora => (rates.adapter, "ten times that of all parameters"),
    };
    draft.key("learning_rate", rate, why);
    draft.key("warmup_ratio", 0.1, "");
    draft.key("epochs", 1, "a second pass over the same rows overfits sooner");
    draft.key("batch_size", batch, "examples of an optimizer step");
    draft.key("micro_batch_tokens", 16_384, "tokens of a pass: memory against speed, same result");
    draft.key("max_length", 1024, "longer examples are cut");
    draft.key("recompute", "auto", "keeps as much for the backward pass as the memory allows");
}

fn lora(draft: &mut Draft, section: &'static str, tuning: Tuning, iterates: bool) {
    if tuning == Tuning::Full {
        return;
    }
    draft.section(section, "the adapter");
    draft.key("rank", 32, "more: more that can be learnt, and more memory");
    draft.key("alpha", 32, "scales the adapter by alpha / rank");
    draft.key("target_modules", "all-linear", "");
    if iterates {
        draft.key("each_iteration", "continue", "one adapter, trained further in each iteration");
    }
    if tuning == Tuning::Qlora {
        draft.key("merge", "never", "selfplay merge makes a whole model of it where its 16 bits fit");
    }
}
