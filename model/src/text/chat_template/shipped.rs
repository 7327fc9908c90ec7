//! Templates that are shipped with the program, for models that have none: data, read from `recipes/templates/`.

use std::path::Path;

const TEMPLATES: [(&str, &str); 2] = [
    ("alpaca", include_str!("../../../../recipes/templates/alpaca.jinja")),
    ("openbezoar", include_str!("../../../../recipes/templates/openbezoar.jinja")),
];

/// The template of this name; `None` where there is none, or a file that is called so.
pub(super) fn of(path: &Path) -> Option<&'static str> {
    let (_, text) = TEMPLATES.iter().find(|(name, _)| path == Path::new(name))?;
    (!path.exists()).then_some(*text)
}

/// The names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use selfplay_records::Message;

    use super::super::ChatTemplate;
    use super::*;
    use crate::text::SpecialTokens;

    fn render(name: &str, turns: &[(&str, &str)], prompt: bool) -> Result<String, String> {
        let special = SpecialTokens::new([("bos_token", "<s>"), ("eos_token", "</s>")]);
        let template =
            ChatTemplate::from_source(of(Path::new(name)).unwrap(), Path::new(name), &special).unwrap();
        let messages: Vec<Message> = turns.iter().map(|(role, text)| Message::new(*role, *text)).collect();
        template.render(&messages, prompt).map_err(|error| error.to_string())
    }

    #[test]
    fn alpaca_is_stanford_s_prompt() {
        let plain = "<s>Below is an instruction that describes a task. Write a response that appropriately completes the \
                     request.\n\n### Instruction:\nAdd.\n\n### Response:\n";
        assert_eq!(render("alpaca", &[("user", "Add.")], true).unwrap(), plain);
        let answered = render("alpaca", &[("user", "Add."), ("assistant", "3")], false).unwrap();
        assert_eq!(answered, format!("{plain}3"));
        let with_input = "<s>Below is an instruction that describes a task, paired with an input that provides further \
                          context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n\
                          ### Input:\n1 and 2\n\n### Response:\n";
        assert_eq!(render("alpaca", &[("user", "Add."), ("input", "1 and 2")], true).unwrap(), with_input);
        let turns = [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c")];
        let expected = "<s>Be brief.\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc\n\n### Response:\n";
        assert_eq!(render("alpaca", &turns, true).unwrap(), expected);
        assert!(render("alpaca", &[("tool", "a")], true).unwrap_err().contains("tool"));
    }

    #[test]
    fn openbezoar_has_a_system_section_where_there_is_one() {
        let turns = [("system", "s"), ("user", "q"), ("assistant", "a")];
        let prompt = "<s>### System:\ns\n\n### Instruction:\nq\n\n### Response:\n";
        assert_eq!(render("openbezoar", &turns[..2], true).unwrap(), prompt);
        assert_eq!(render("openbezoar", &turns, false).unwrap(), format!("{prompt}a"));
        let without = "<s>### Instruction:\nq\n\n### Response:\n";
        assert_eq!(render("openbezoar", &turns[1..2], true).unwrap(), without);
    }

    #[test]
    fn a_name_is_no_template_where_a_file_has_it() {
        assert!(ChatTemplate::is_shipped(Path::new("alpaca")));
        assert!(!ChatTemplate::is_shipped(Path::new("./alpaca.jinja")));
        assert_eq!(ChatTemplate::shipped_names(), ["alpaca", "openbezoar"]);
    }
}
