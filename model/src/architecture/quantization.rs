//! `quantization_config` of config.json: which quantised weights are read, and the others by name.

use std::path::Path;

use serde_json::Value;

use super::fields::{Fields, shorten};
use crate::error::ModelError;
use crate::json::read_json;

const KEY: &str = "quantization_config";
const WANT: &str = "use the model's unquantised weights (float32, bfloat16 or float16), or bitsandbytes' NF4";

/// Whether the model in `folder` has its maps stored in NF4, as config.json says.
pub fn is_stored_in_four_bits(folder: &Path) -> bool {
    let config = read_json(&folder.join("config.json"), "").unwrap_or_default();
    config[KEY]["bnb_4bit_quant_type"] == "nf4"
}

/// Errors: weights quantised as anything but bitsandbytes' NF4.
pub(super) fn check(fields: &Fields) -> Result<(), ModelError> {
    let Some(config) = fields.get(KEY) else { return Ok(()) };
    let method = config["quant_method"].as_str();
    let is = |key: &str| config[key] == Value::Bool(true);
    // Files of the method's first time do not name it.
    let is_bitsandbytes = method.is_none() && (is("load_in_4bit") || is("load_in_8bit"));
    let what = match method {
        Some("bitsandbytes") | None if method.is_some() || is_bitsandbytes => {
            if is("load_in_8bit") || is("_load_in_8bit") {
                "LLM.int8() of bitsandbytes".to_owned()
            } else {
                match config["bnb_4bit_quant_type"].as_str() {
                    Some("nf4") => return Ok(()),
                    // The default of bitsandbytes' configuration.
                    Some("fp4") | None => "FP4 of bitsandbytes".to_owned(),
                    Some(other) => format!("{} of bitsandbytes", shorten(&Value::from(other))),
                }
            }
        }
        Some("gptq") => "GPTQ".to_owned(),
        Some("awq") => "AWQ".to_owned(),
        Some(other) => shorten(&Value::from(other)),
        None => "of an unknown method".to_owned(),
    };
    Err(fields.wrong(
        KEY,
        &format!("says that the weights are quantised ({what}), which is not supported"),
        WANT,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Architecture;

    #[test]
    fn nf4_is_read_and_every_other_method_is_named() {
        let read = |config: Value| {
            let config = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 1, "quantization_config": config});
            Architecture::from_json(&config, "config.json".as_ref())
        };
        let nf4 = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
        assert!(read(nf4).is_ok());
        assert!(read(json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"})).is_ok());
        for (config, name) in [
            (json!({"quant_method": "gptq", "bits": 4}), "GPTQ"),
            (json!({"quant_method": "awq"}), "AWQ"),
            (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "int8"),
            (
                json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}),
                "FP4",
            ),
            (json!({"load_in_4bit": true}), "FP4"),
            (json!({"quant_method": "hqq"}), "hqq"),
            (json!({}), "unknown"),
        ] {
            let text = read(config).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("quantization_config"), "{text}");
        }
    }
}
