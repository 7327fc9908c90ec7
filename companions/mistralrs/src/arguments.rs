//! The command line.

use std::path::PathBuf;

use mistralrs_core::ModelDType;

const HELP: &str = "\
Runs a model with mistral.rs for selfplay, which starts this program and speaks with it over pipes.

Usage: selfplay-mistralrs --model PATH [OPTIONS]

  --model PATH           a folder in Hugging Face layout, or FILE.gguf
  --max-seqs N           responses that are written at the same time at most [1]; see companions/README.md before you set more
  --dtype TYPE           f32, bf16, f16 or auto: what weights of a folder are computed in [f32 on a CPU, else auto]
  --chat-template FILE   a .jinja or .json file in the place of the model's own template
";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The folder or GGUF file.
    pub model: PathBuf,
    /// Responses at the same time.
    pub max_seqs: usize,
    /// What a folder's weights are computed in; `None`: by the device.
    pub dtype: Option<ModelDType>,
    /// A template's file.
    pub chat_template: Option<String>,
}

impl Arguments {
    /// Reads them; `None` after `--help` and `--version`, which are answered here.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let (mut model, mut max_seqs, mut dtype, mut chat_template) = (None, 1, None, None);
        while let Some(word) = words.next() {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if name == "--help" || name == "-h" {
                print!("{HELP}");
                return Ok(None);
            }
            if name == "--version" {
                println!("selfplay-mistralrs {} (mistralrs-core 0.8.1)", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            let mut value =
                || inline.clone().or_else(|| words.next()).ok_or(format!("{name}: a value is wanted"));
            match name.as_str() {
                "--model" => model = Some(PathBuf::from(value()?)),
                "--max-seqs" => {
                    let text = value()?;
                    max_seqs = text
                        .parse()
                        .ok()
                        .filter(|&count| count > 0)
                        .ok_or(format!("--max-seqs {text}: a number from 1 is wanted"))?;
                }
                "--dtype" => {
                    dtype = Some(match value()?.as_str() {
                        "f32" => ModelDType::F32,
                        "bf16" => ModelDType::BF16,
                        "f16" => ModelDType::F16,
                        "auto" => ModelDType::Auto,
                        other => return Err(format!("--dtype {other}: f32, bf16, f16 or auto is wanted")),
                    });
                }
                "--chat-template" => chat_template = Some(value()?),
                other => return Err(format!("{other}: no such option; see --help")),
            }
        }
        let model = model.ok_or("--model is wanted; see --help")?;
        Ok(Some(Self { model, max_seqs, dtype, chat_template }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Arguments>, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let read = parse("--max-seqs=4 --model a/b.gguf --dtype bf16").unwrap().unwrap();
        assert_eq!((read.model, read.max_seqs), (PathBuf::from("a/b.gguf"), 4));
        assert!(matches!(read.dtype, Some(ModelDType::BF16)));
        for (line, words) in [
            ("", "--model is wanted"),
            ("--model", "a value is wanted"),
            ("--model a --max-seqs 0", "a number from 1"),
            ("--model a --dtype int8", "f32, bf16"),
            ("--mode a", "no such option"),
        ] {
            assert!(parse(line).unwrap_err().contains(words), "{line}");
        }
    }
}
