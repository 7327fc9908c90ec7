//! Mistral: Llama's form, with a window on every layer where the configuration has one.

use serde_json::{Map, Value, json};

use super::family::Family;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::layer_types;
use crate::architecture::{Architecture, layout};
use crate::error::ModelError;

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    multimodal: None,
    class: "MistralForCausalLM",
    defaults: Defaults { kv_heads: Some(8), max_positions: 131_072, ..Defaults::LLAMA },
    read,
    write,
    modules: |a| layout::modules(a, layout::layer),
    exercise: |window| json!({"sliding_window": window}),
};

fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    a.windows = vec![layer_types::window(fields)?; a.num_layers];
    Ok(())
}

fn write(_: &Architecture, _: &mut Map<String, Value>) {}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, round_trip};
    use super::*;

    #[test]
    fn a_window_is_on_every_layer_unless_it_is_null() {
        let windows = |keys| {
            let arch = read("mistral", keys);
            round_trip(&arch);
            arch.windows
        };
        assert_eq!(windows(json!({"sliding_window": 8})), vec![Some(8); 3]);
        assert_eq!(windows(json!({"sliding_window": null})), vec![None; 3]);
        assert_eq!(windows(json!({})), vec![Some(4096); 3]);
    }

    #[test]
    fn absent_keys_have_the_class_s_defaults() {
        let mut config = super::super::testing::config("mistral", json!({"num_attention_heads": 16}));
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        let arch = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        assert_eq!((arch.num_kv_heads, arch.max_positions), (8, 131_072));
        assert!(!arch.qkv_bias && !arch.output_bias && !arch.mlp_bias);
    }
}
