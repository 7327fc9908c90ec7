//! What the flags left open is asked at a terminal; where there is none, the missing flags are named.

use std::io::{BufRead, Write};

use clap::ValueEnum;

use super::answers::InitGoal;
use crate::error::{EngineError, Result};
use crate::plan::device::ByteSize;

/// What is answered without a word: UltraFeedback's prompts in three splits, one for each iteration.
const PROMPTS: [&str; 3] = [
    "hf://datasets/UCLA-AGI/data-mistral-7b-instruct-sppo-iter1",
    "hf://datasets/UCLA-AGI/data-mistral-7b-instruct-sppo-iter2",
    "hf://datasets/UCLA-AGI/data-mistral-7b-instruct-sppo-iter3",
];

/// The preference model of most shipped recipes.
const PREFERENCE_MODEL: &str = "general-preference/GPM-Gemma-2B";

/// What the flags say; `None` is still open.
#[derive(Clone, Debug, Default)]
pub(crate) struct InitQuestions {
    pub(crate) goal: Option<InitGoal>,
    pub(crate) policy: Option<String>,
    pub(crate) preference_model: Option<String>,
    pub(crate) data: Vec<String>,
    pub(crate) gpu_memory: Option<ByteSize>,
}

/// Closes the open questions. `terminal` has the lines that are typed and the screen; without one, what has a default takes it.
///
/// # Errors
/// The flags that are wanted where no one can be asked; a terminal that closes.
pub(crate) fn ask(
    mut open: InitQuestions,
    terminal: Option<(&mut dyn BufRead, &mut dyn Write)>,
) -> Result<InitQuestions> {
    let Some((lines, screen)) = terminal else { return by_flags_alone(open) };
    let mut terminal = Terminal { lines, screen };
    if open.goal.is_none() {
        let names: Vec<String> = InitGoal::value_variants()
            .iter()
            .filter_map(|goal| Some(goal.to_possible_value()?.get_name().to_owned()))
            .collect();
        let question = format!("What is it for? {}", names.join(", "));
        open.goal =
            Some(terminal.parsed(&question, "self-play", |text| InitGoal::from_str(text, true).ok())?);
    }
    if open.policy.is_none() {
        let question = "Which model is trained? A folder, or a hub id ORG/NAME";
        open.policy = Some(terminal.text(question, None)?);
    }
    let goal = open.goal.unwrap_or(InitGoal::SelfPlay);
    if goal == InitGoal::SelfPlay && open.preference_model.is_none() {
        let question = "Which preference model compares its answers?";
        open.preference_model = Some(terminal.text(question, Some(PREFERENCE_MODEL))?);
    }
    if open.data.is_empty() {
        let question = format!(
            "Which {}? Files (.jsonl, .json, .parquet) or hf://datasets/ORG/NAME, apart by spaces",
            goal.data()
        );
        let default = (goal == InitGoal::SelfPlay).then(|| PROMPTS.join(" "));
        let typed = terminal.text(&question, default.as_deref())?;
        open.data = typed.split_whitespace().map(str::to_owned).collect();
    }
    if open.gpu_memory.is_none() {
        let question = "How much memory has the GPU? As 24GB; cpu: no GPU";
        open.gpu_memory = terminal.parsed(question, "cpu", |text| {
            if text == "cpu" { Some(None) } else { text.parse().ok().map(Some) }
        })?;
    }
    Ok(open)
}

fn by_flags_alone(mut open: InitQuestions) -> Result<InitQuestions> {
    let goal = *open.goal.get_or_insert(InitGoal::SelfPlay);
    if goal == InitGoal::SelfPlay {
        open.preference_model.get_or_insert_with(|| PREFERENCE_MODEL.to_owned());
        if open.data.is_empty() {
            open.data = PROMPTS.map(str::to_owned).to_vec();
        }
    }
    let mut wanted = Vec::new();
    if open.policy.is_none() {
        wanted.push("--policy MODEL (a folder, or a hub id)".to_owned());
    }
    if open.data.is_empty() {
        wanted.push(format!("--data FILE (the {})", goal.data()));
    }
    if wanted.is_empty() {
        return Ok(open);
    }
    Err(EngineError::input(format!("init: there is no terminal to ask at: give {}", wanted.join(" and "))))
}

struct Terminal<'a> {
    lines: &'a mut dyn BufRead,
    screen: &'a mut dyn Write,
}

impl Terminal<'_> {
    fn parsed<T>(&mut self, question: &str, default: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        loop {
            let text = self.text(question, Some(default))?;
            match parse(&text) {
                Some(found) => return Ok(found),
                None => self.say(&format!("{text:?} is not understood.\n"))?,
            }
        }
    }

    fn text(&mut self, question: &str, default: Option<&str>) -> Result<String> {
        loop {
            match default {
                Some(default) => self.say(&format!("{question}\n  [{default}] "))?,
                None => self.say(&format!("{question}\n  "))?,
            }
            let mut line = String::new();
            let failed = |error| EngineError::failure(format!("init: the terminal cannot be read: {error}"));
            if self.lines.read_line(&mut line).map_err(failed)? == 0 {
                return Err(EngineError::input("init: the questions were not answered; nothing is written"));
            }
            match (line.trim(), default) {
                ("", Some(default)) => return Ok(default.to_owned()),
                ("", None) => {}
                (typed, _) => return Ok(typed.to_owned()),
            }
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let failed = |error| EngineError::failure(format!("init: the terminal cannot be written: {error}"));
        self.screen.write_all(text.as_bytes()).and_then(|()| self.screen.flush()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(open: InitQuestions, typed: &str) -> (Result<InitQuestions>, String) {
        let mut screen = Vec::new();
        let found = ask(open, Some((&mut typed.as_bytes(), &mut screen)));
        (found, String::from_utf8(screen).unwrap())
    }

    #[test]
    fn what_is_open_is_asked_and_asked_again_until_it_is_understood() {
        let (found, screen) =
            asked(InitQuestions::default(), "nonsense\n\n\norg/name\n\na.jsonl b.jsonl\nlots\n24GB\n");
        let found = found.unwrap();
        assert_eq!(found.goal, Some(InitGoal::SelfPlay));
        assert_eq!(found.policy.as_deref(), Some("org/name"));
        assert_eq!(found.preference_model.as_deref(), Some(PREFERENCE_MODEL));
        assert_eq!(found.data, ["a.jsonl", "b.jsonl"]);
        assert_eq!(found.gpu_memory.map(ByteSize::bytes), Some(24_000_000_000));
        assert!(screen.contains("\"nonsense\" is not understood") && screen.contains("\"lots\""), "{screen}");
    }

    #[test]
    fn what_flags_say_is_not_asked() {
        let open = InitQuestions {
            goal: Some(InitGoal::Sft),
            policy: Some("p".to_owned()),
            data: vec!["d".to_owned()],
            gpu_memory: "1GB".parse().ok(),
            ..InitQuestions::default()
        };
        let (found, screen) = asked(open, "");
        assert_eq!((found.unwrap().preference_model, screen.as_str()), (None, ""));
    }

    #[test]
    fn a_terminal_that_closes_and_one_that_is_not_there_are_told_apart() {
        let closed = asked(InitQuestions::default(), "self-play\n").0.unwrap_err();
        assert_eq!(closed.exit_status(), 2);
        assert!(closed.to_string().contains("not answered"), "{closed}");
        let open = InitQuestions { goal: Some(InitGoal::Pairs), ..InitQuestions::default() };
        let absent = ask(open, None).unwrap_err().to_string();
        assert!(absent.contains("--policy") && absent.contains("--data"), "{absent}");
    }
}
