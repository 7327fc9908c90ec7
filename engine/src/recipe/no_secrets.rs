//! A recipe holds no secret: it is copied into runs, reports, trackers and logs.

use selfplay_records::Problems;

use crate::secrets::secret;

/// Takes texts that look like a secret out of `table`, so that no message repeats them, and adds their keys to `problems`.
pub(super) fn refuse(table: &mut toml::Table, problems: &mut Problems) {
    for (key, value) in table.iter_mut() {
        refuse_below(key, value, problems);
    }
}

fn refuse_below(path: &str, value: &mut toml::Value, problems: &mut Problems) {
    match value {
        toml::Value::String(text) => {
            if let Some(start) = secret(text.as_bytes()) {
                problems.value(path, format!("{start}…"), WANTED);
                text.clear();
            }
        }
        toml::Value::Array(list) => {
            for (place, one) in list.iter_mut().enumerate() {
                refuse_below(&format!("{path}[{place}]"), one, problems);
            }
        }
        toml::Value::Table(table) => {
            for (key, one) in table.iter_mut() {
                refuse_below(&format!("{path}.{key}"), one, problems);
            }
        }
        _ => {}
    }
}

const WANTED: &str = "no secret, as recipes are copied into runs and reports: put it into a variable of the environment, which api_key_env \
                      names and programs can read";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_named_by_their_keys() {
        let text = "[score]\ncommand = [\"judge\", \"--key=sk-abcdefgh0123456789\"]\n[[sft.data]]\npath = \"hf_abcdefghijklmnop1234\"\n\
                    [policy]\nmodel = \"org/hf_transformers_model_name\"";
        let mut table: toml::Table = toml::from_str(text).unwrap();
        let mut problems = Problems::default();
        refuse(&mut table, &mut problems);
        let mut keys = problems.keys();
        keys.sort_unstable();
        assert_eq!(keys, ["score.command[1]", "sft.data[0].path"]);
        let told = format!("{problems} {table}");
        assert!(
            !told.contains("abcdefgh") && told.contains("sk-…") && told.contains("hf_transformers"),
            "{told}"
        );
    }
}
