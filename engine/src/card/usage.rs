//! How a model is loaded: snippets of a card. docs/python.md has more of them.

use super::form::ModelForm;

/// The line that names the model in every snippet; a push puts the repository's id in its place.
const MODEL: &str = "model = \"path/to/this/folder\"  # or the id that it is published under\n";

/// A card whose snippets name a repository.
pub(crate) fn named(card: &str, id: &str) -> String {
    card.replace(MODEL, &format!("model = \"{id}\"\n"))
}

/// The section's text.
pub(super) fn usage(form: ModelForm, base: &str) -> String {
    match form {
        ModelForm::Whole => format!(
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n{MODEL}\
             tokenizer = AutoTokenizer.from_pretrained(model)\n\
             policy = AutoModelForCausalLM.from_pretrained(model, dtype=\"auto\", device_map=\"auto\")\n{ANSWER}```\n\n\
             With vLLM: `vllm serve path/to/this/folder`.\n"
        ),
        ModelForm::Adapter => format!(
            "```python\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n{MODEL}\
             policy = AutoPeftModelForCausalLM.from_pretrained(model, dtype=\"auto\", device_map=\"auto\")\n\
             tokenizer = AutoTokenizer.from_pretrained(policy.peft_config[\"default\"].base_model_name_or_path)\n{ANSWER}```\n\n\
             With vLLM: `vllm serve {base} --enable-lora --lora-modules policy=path/to/this/folder`. `selfplay merge --adapter \
             path/to/this/folder --output DIR` makes a whole model of it.\n"
        ),
        ModelForm::Preference => "```sh\nselfplay score --preference-model path/to/this/folder --candidates FILE --output FILE\n\
             ```\n\nThe heads are tensors of their own in the safetensors files, beside the decoder's: `value_head.weight` and, \
             where it has one, `prompt_head.weight`.\n"
            .to_owned(),
    }
}

const ANSWER: &str = "messages = [{\"role\": \"user\", \"content\": \"Hello!\"}]\n\
    inputs = tokenizer.apply_chat_template(\n    messages, add_generation_prompt=True, return_tensors=\"pt\", return_dict=True\n\
    ).to(policy.device)\n\
    answer = policy.generate(**inputs, max_new_tokens=128)\n\
    print(tokenizer.decode(answer[0, inputs[\"input_ids\"].shape[1]:], skip_special_tokens=True))\n";
