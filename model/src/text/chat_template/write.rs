//! A template put into a model folder, so that every program that opens the folder renders conversations as in training.

use std::path::Path;

use selfplay_records::atomic;
use serde_json::Value;

use super::ChatTemplate;
use crate::error::ModelError;
use crate::json::read_json;

impl ChatTemplate {
    /// Puts the template where `folder` has one: chat_template.jinja, and `chat_template` of tokenizer_config.json and
    /// chat_template.json; a folder without any gets chat_template.jinja. Error: a failed write.
    pub fn write_into(&self, folder: &Path) -> Result<(), ModelError> {
        let write =
            |path: &Path, text: &str| atomic::write_bytes(path, text.as_bytes()).map_err(ModelError::from);
        let mut is_there = false;
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            let mut config = read_json(&path, "")?;
            if let Value::Object(map) = &mut config
                && map.get("chat_template").is_some_and(|found| !found.is_null())
            {
                map.insert("chat_template".to_owned(), Value::from(self.source()));
                write(&path, &format!("{config:#}\n"))?;
                is_there = true;
            }
        }
        let file = folder.join("chat_template.jinja");
        if file.is_file() || !is_there {
            write(&file, self.source())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpecialTokens;

    #[test]
    fn the_template_stands_wherever_the_folder_had_one() {
        let template =
            ChatTemplate::from_source("new", Path::new("t.jinja"), &SpecialTokens::default()).unwrap();
        let read = |folder: &Path| {
            let found = ChatTemplate::for_model(folder, None).unwrap().unwrap();
            (found.source().to_owned(), found.path().file_name().unwrap().to_owned())
        };
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            atomic::write_bytes(&folder.path().join(name), text.as_bytes()).unwrap();
        };
        put("tokenizer_config.json", r#"{"eos_token": "e"}"#);
        template.write_into(folder.path()).unwrap();
        assert_eq!(read(folder.path()), ("new".to_owned(), "chat_template.jinja".into()));
        put("chat_template.jinja", "old");
        put("tokenizer_config.json", r#"{"eos_token": "e", "chat_template": "old"}"#);
        template.write_into(folder.path()).unwrap();
        assert_eq!(read(folder.path()).0, "new");
        std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        assert_eq!(read(folder.path()), ("new".to_owned(), "tokenizer_config.json".into()));
        assert_eq!(read_json(&folder.path().join("tokenizer_config.json"), "").unwrap()["eos_token"], "e");
    }
}
