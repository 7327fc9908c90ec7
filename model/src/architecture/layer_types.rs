//! `layer_types` and `sliding_window` of config.json: which layers see all that is before them, and which have a window.

use serde_json::Value;

use super::Architecture;
use super::fields::{Fields, MOST_POSITIONS, shorten};
use crate::error::ModelError;

/// A type of layers, as `layer_types` and transformers 5's `rope_parameters` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerType {
    /// Sees all that is before it.
    Full,
    /// Has a window.
    Sliding,
}

impl LayerType {
    pub(super) const ALL: [Self; 2] = [Self::Full, Self::Sliding];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }

    /// What goes before the keys of the type's rotary embedding in messages.
    pub(super) fn rope_prefix(self) -> &'static str {
        match self {
            Self::Full => "rope_parameters.full_attention.",
            Self::Sliding => "rope_parameters.sliding_attention.",
        }
    }
}

/// `sliding_window`: 4096 where it is absent, none where it is null.
pub(super) fn window(fields: &Fields) -> Result<Option<usize>, ModelError> {
    if fields.is_written("sliding_window") {
        fields.count("sliding_window", MOST_POSITIONS)
    } else {
        Ok(Some(4096))
    }
}

/// The window on each layer that `layer_types` calls sliding, or `is_sliding` where that key is absent.
pub(super) fn windows_by_layer(
    fields: &Fields,
    window: Option<usize>,
    num_layers: usize,
    is_sliding: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let types = read(fields, num_layers, is_sliding)?;
    Ok(types.into_iter().map(|kind| window.filter(|_| kind == LayerType::Sliding)).collect())
}

/// What `layer_types` calls each layer; sliding where `is_sliding` says so if that key is absent.
pub(super) fn read(
    fields: &Fields,
    num_layers: usize,
    is_sliding: impl Fn(usize) -> bool,
) -> Result<Vec<LayerType>, ModelError> {
    let Some(value) = fields.get("layer_types") else {
        let kind = |layer| if is_sliding(layer) { LayerType::Sliding } else { LayerType::Full };
        return Ok((0..num_layers).map(kind).collect());
    };
    let Some(types) = value.as_array().filter(|types| types.len() == num_layers) else {
        return Err(fields.wrong(
            "layer_types",
            &format!("is {}", shorten(value)),
            &format!("it must be a list of {num_layers} names, one for each layer"),
        ));
    };
    let kind = |name: &Value| {
        LayerType::ALL.into_iter().find(|kind| name.as_str() == Some(kind.name())).ok_or_else(|| {
            fields.wrong(
                "layer_types",
                &format!("holds {}, which is not supported", shorten(name)),
                "supported are full_attention and sliding_attention",
            )
        })
    };
    types.iter().map(kind).collect()
}

/// Refuses layers that slide without a window, which transformers cannot compute either.
pub(super) fn need_window(
    fields: &Fields,
    window: Option<usize>,
    types: &[LayerType],
) -> Result<(), ModelError> {
    if window.is_none() && types.contains(&LayerType::Sliding) {
        let want = "give the window's size in tokens";
        return Err(fields.wrong("sliding_window", "is not set, but some layers are sliding", want));
    }
    Ok(())
}

/// The key `layer_types` of an architecture whose layers have windows or none.
pub(super) fn write(a: &Architecture) -> Value {
    let kind = |w: &Option<usize>| if w.is_some() { LayerType::Sliding } else { LayerType::Full }.name();
    a.windows.iter().map(kind).collect()
}
