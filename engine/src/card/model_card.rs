//! The facts of a model, and the card that they make.

use std::fmt::Write as _;

use super::form::ModelForm;
use super::front_matter::FrontMatter;
use super::papers::Methods;
use super::parent::ParentCard;
use super::results::{CardResult, table};
use super::settings::{settings, without_path};
use super::usage::usage;
use crate::recipe::{DataSource, ModelSource, Recipe};

/// What made the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadeBy {
    /// An iteration of a run, from 1.
    Iteration(usize),
    /// A command with its section of the recipe: `train`, `sft`, `train-preference`, `merge`.
    Command { name: &'static str, section: &'static str },
}

/// What the model was trained from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CardBase {
    /// As a reader knows it: a hub's id, or the name of a folder.
    name: String,
    /// The hub's id, where there is one: the base's own, or that of the model that the base was made from.
    id: Option<String>,
    parent: ParentCard,
}

impl CardBase {
    /// Of a model source and the card in its folder.
    pub(crate) fn of(source: &ModelSource, parent: ParentCard) -> Self {
        match source {
            ModelSource::Hub { id, .. } => Self { name: id.clone(), id: Some(id.clone()), parent },
            other => Self {
                name: without_path(&other.to_string()),
                id: parent.base_model.first().cloned(),
                parent,
            },
        }
    }
}

/// Everything that a card tells.
pub(crate) struct ModelCard<'a> {
    pub(crate) form: ModelForm,
    pub(crate) made_by: MadeBy,
    pub(crate) recipe: &'a Recipe,
    pub(crate) base: CardBase,
    /// Files and data sets, as messages name them.
    pub(crate) data: Vec<DataSource>,
    pub(crate) results: Vec<CardResult>,
}

impl ModelCard<'_> {
    /// The card's text.
    pub(crate) fn text(&self) -> String {
        let mut text = self.front_matter();
        let _ = write!(text, "\n# {}\n\n{}\n", self.title(), self.purpose());
        let _ = write!(text, "\n## Use\n\n{}", usage(self.form, &self.base.name));
        let _ = write!(text, "\n## Training\n\n{}", self.training());
        if !self.results.is_empty() {
            let _ = write!(text, "\n## Results\n\n{}", table(&self.results));
        }
        let _ = write!(text, "\n{}", super::EVALUATIONS);
        let papers = self.methods().bibtex();
        if !papers.is_empty() {
            let _ = write!(text, "\n## Citation\n\n```bibtex\n{papers}```\n");
        }
        text
    }

    fn front_matter(&self) -> String {
        let parent = &self.base.parent;
        let mut yaml = FrontMatter::default();
        if let Some(id) = &self.base.id {
            yaml.text("base_model", id);
            let relation = if self.form == ModelForm::Adapter { "adapter" } else { "finetune" };
            yaml.text("base_model_relation", relation);
        }
        let ids = self.data.iter().filter_map(|source| match source {
            DataSource::Hub { id, .. } => Some(id.clone()),
            _ => None,
        });
        let mut datasets: Vec<String> = Vec::new();
        for id in ids.chain(parent.datasets.iter().cloned()) {
            if !datasets.contains(&id) {
                datasets.push(id);
            }
        }
        yaml.list("datasets", &datasets);
        yaml.list("language", &parent.language);
        if let Some(license) = &parent.license {
            yaml.text("license", license);
        }
        yaml.text("library_name", if self.form == ModelForm::Adapter { "peft" } else { "transformers" });
        let pipeline = match self.form {
            ModelForm::Preference => "text-classification",
            ModelForm::Whole | ModelForm::Adapter => "text-generation",
        };
        yaml.text("pipeline_tag", pipeline);
        yaml.list("tags", &self.tags());
        yaml.finish()
    }

    fn tags(&self) -> Vec<String> {
        let mut tags = vec!["selfplay".to_owned()];
        match self.made_by {
            MadeBy::Iteration(_) => tags.push("alignment".to_owned()),
            MadeBy::Command { name, .. } => tags.push(name.to_owned()),
        }
        let methods = self.methods();
        tags.extend(methods.loss.map(|loss| loss.to_string()));
        if self.form == ModelForm::Preference {
            tags.push("preference-model".to_owned());
        }
        if methods.adapter {
            tags.push("lora".to_owned());
        }
        if self.form == ModelForm::Adapter {
            tags.push("transformers".to_owned());
            tags.extend(self.base.id.as_ref().map(|id| format!("base_model:adapter:{id}")));
        }
        tags
    }

    fn title(&self) -> String {
        let base = self.base.name.rsplit('/').next().unwrap_or(&self.base.name);
        match self.made_by {
            MadeBy::Iteration(number) => {
                format!("{base}, {}, iteration {number}", self.recipe.train.loss.to_string().to_uppercase())
            }
            MadeBy::Command { name, .. } => format!("{base}, {name}"),
        }
    }

    fn purpose(&self) -> String {
        let what = match self.form {
            ModelForm::Whole => "A language model",
            ModelForm::Adapter => "An adapter (LoRA, PEFT's layout)",
            ModelForm::Preference => "A preference model",
        };
        let base = match &self.base.id {
            Some(id) if *id == self.base.name => format!("[{id}](https://huggingface.co/{id})"),
            _ => format!("`{}`", self.base.name),
        };
        let version = env!("CARGO_PKG_VERSION");
        match self.made_by {
            MadeBy::Iteration(number) => format!(
                "{what} that began as {base} and was aligned by its own answers: in each iteration it answers prompts, a \
                 preference model ({}) compares the answers, and it is trained on the pairs. This is iteration {number}, \
                 made by selfplay {version}.",
                score_name(self.recipe)
            ),
            MadeBy::Command { name: "merge", .. } => {
                format!("{what}: {base} with an adapter merged into it, by selfplay {version}.")
            }
            MadeBy::Command { name, .. } => {
                format!("{what} trained from {base} by `selfplay {name}`, version {version}.")
            }
        }
    }

    fn training(&self) -> String {
        let mut text = String::new();
        let data: Vec<String> = self.data.iter().map(|one| without_path(&one.to_string())).collect();
        if !data.is_empty() {
            let _ = writeln!(text, "Data: {}.\n", data.join(", "));
        }
        let settings = settings(self.recipe, self.sections());
        if settings.is_empty() {
            text.push_str("Every setting has selfplay's default.\n");
        } else {
            text.push_str("Settings that are not selfplay's defaults:\n\n```toml\n");
            settings.iter().for_each(|line| {
                let _ = writeln!(text, "{line}");
            });
            text.push_str("```\n");
        }
        text
    }

    fn sections(&self) -> &'static [&'static str] {
        match self.made_by {
            MadeBy::Iteration(_) => &["policy", "prompts", "sample", "score", "pair", "train", "eval"],
            MadeBy::Command { section: "train", .. } => &["policy", "train"],
            MadeBy::Command { section: "sft", .. } => &["policy", "sft"],
            MadeBy::Command { section: "preference", .. } => &["policy", "preference"],
            MadeBy::Command { .. } => &["policy"],
        }
    }

    fn methods(&self) -> Methods {
        let recipe = self.recipe;
        let (loss, preference, lora) = match self.made_by {
            MadeBy::Iteration(_) => (Some(recipe.train.loss), true, recipe.train.lora.is_some()),
            MadeBy::Command { section: "train", .. } => {
                (Some(recipe.train.loss), false, recipe.train.lora.is_some())
            }
            MadeBy::Command { section: "sft", .. } => (None, false, recipe.sft.train.lora.is_some()),
            MadeBy::Command { section: "preference", .. } => {
                (None, true, recipe.preference.train.lora.is_some())
            }
            MadeBy::Command { .. } => (None, false, false),
        };
        let four_bits = lora && recipe.policy.quantize.is_some();
        Methods { loss, preference, adapter: lora, four_bits }
    }
}

/// The preference model's name, without a path.
fn score_name(recipe: &Recipe) -> String {
    match &recipe.score.model {
        ModelSource::Unset => "a program of the maker's".to_owned(),
        source => format!("`{}`", without_path(&source.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Purpose, load_text};

    fn card(base: &str, form: ModelForm) -> String {
        let text = "seed = 7\n[policy]\nquantize = \"nf4\"\n[train]\nloss = \"sppo\"\nbeta = 0.5\n[train.lora]\nrank = 4\n";
        let recipe = load_text(text, "test", None, "x", &[], Purpose::Stage).unwrap();
        let source = ModelSource::parse(base, None);
        let parent = ParentCard { license: Some("mit".to_owned()), ..ParentCard::default() };
        let data = vec![
            DataSource::parse("hf://datasets/org/data", None).unwrap(),
            DataSource::parse("/home/me/prompts.jsonl", None).unwrap(),
        ];
        let results = vec![CardResult { what: "win rate".to_owned(), value: "51.0 %".to_owned() }];
        let made_by = MadeBy::Iteration(2);
        ModelCard { form, made_by, recipe: &recipe, base: CardBase::of(&source, parent), data, results }
            .text()
    }

    #[test]
    fn an_adapter_s_card_has_peft_s_fields() {
        let text = card("org/base", ModelForm::Adapter);
        let head = "---\nbase_model: org/base\nbase_model_relation: adapter\ndatasets:\n- org/data\nlicense: mit\n\
                    library_name: peft\npipeline_tag: text-generation\ntags:\n- selfplay\n- alignment\n- sppo\n- lora\n\
                    - transformers\n- \"base_model:adapter:org/base\"\n---\n\n# base, SPPO, iteration 2\n";
        assert!(text.starts_with(head), "{text}");
        for part in [
            "seed = 7",
            "train.beta = 0.5",
            "train.lora.rank = 4",
            "2405.00675",
            "2106.09685",
            "2305.14314",
            "AutoPeftModelForCausalLM",
            "vllm serve org/base --enable-lora",
            "| win rate | 51.0 % |",
            "prompts.jsonl",
            super::super::EVALUATIONS,
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_card_has_no_path_of_the_machine() {
        let text = card("/home/me/models/tiny", ModelForm::Whole);
        assert!(!text.contains("/home") && !text.contains("base_model:"), "{text}");
        assert!(text.contains("began as `tiny`") && text.contains("library_name: transformers"), "{text}");
    }
}
