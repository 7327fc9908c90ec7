//! The heads of a preference model: linear maps over chosen rows of a decoder's hidden states.
//!
//! Their weights are parameters of the decoder's, so that they are trained and saved with it; nothing else of the decoder
//! knows of them.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::architecture::{Architecture, ParameterKind, TensorSpec};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::gradients::Gradients;
use crate::linear::{Linear, NewModule, SumOrder};
use crate::ops::rows::{add_rows, select_rows};
use crate::parameters::{Parameter, Parameters};
use crate::weights::{WeightFiles, random_tensor};

const VALUE: &str = "value_head";
const PROMPT: &str = "prompt_head";

/// One head, W \[d, h].
pub struct PreferenceHead(Linear);

/// The heads that a preference model has.
pub struct PreferenceHeads {
    /// `value_head.weight` \[d, h], read at a conversation's last token.
    pub value: PreferenceHead,
    /// `prompt_head.weight` \[d/2, h], read at the prompt's last token.
    pub prompt: Option<PreferenceHead>,
}

impl PreferenceHeads {
    /// The heads among a decoder's parameters; `None` where it has no value head and is none of a preference model.
    pub fn of(decoder: &Decoder) -> Option<Self> {
        let head = |name: &str| Linear::named(decoder.parameters(), name).map(PreferenceHead);
        Some(Self { value: head(VALUE)?, prompt: head(PROMPT) })
    }

    /// Gives a decoder fresh heads where it has none: a value head of `dim` outputs and, if asked, a
    /// prompt head of `dim / 2`, normal with deviation 1 / (hidden + 1).
    ///
    /// # Errors
    /// A head of another size is there already.
    pub fn add(
        decoder: &mut Decoder,
        dim: usize,
        prompt_head: bool,
        seed: u64,
    ) -> std::result::Result<(), ModelError> {
        for (name, outputs, is_wanted) in [(VALUE, dim, true), (PROMPT, dim / 2, prompt_head)] {
            let weight = format!("{name}.weight");
            if is_wanted && decoder.parameters().find(&weight).is_none() {
                let weight = fresh(decoder, &weight, outputs, seed)?;
                let module = NewModule { name: name.to_owned(), weight, bias: None };
                Linear::insert(decoder.parameters_mut(), vec![module])?;
            }
        }
        let hidden = decoder.architecture().hidden_size;
        for (name, want) in [(VALUE, dim), (PROMPT, dim / 2)] {
            let Some(head) = decoder.parameters().find(&format!("{name}.weight")) else { continue };
            let parameter = decoder.parameters().get(head);
            if parameter.value.dims() != [want, hidden] {
                return Err(ModelError::value(
                    format!(
                        "{} has the shape {:?}, not [{want}, {hidden}]",
                        parameter.name,
                        parameter.value.dims()
                    ),
                    "set preference.dim to the head's size, or start from a model without heads",
                ));
            }
        }
        Ok(())
    }
}

fn fresh(
    decoder: &Decoder,
    name: &str,
    outputs: usize,
    seed: u64,
) -> std::result::Result<Tensor, ModelError> {
    let hidden = decoder.architecture().hidden_size;
    let spec = TensorSpec { name: name.into(), shape: vec![outputs, hidden], kind: ParameterKind::Matrix };
    let fresh = random_tensor(&spec, decoder.architecture(), seed, decoder.dtype(), decoder.device())?;
    // `random_tensor` draws with deviation 0.02.
    Ok((fresh / 0.02)?.affine(1.0 / (hidden as f64 + 1.0), 0.0)?)
}

/// Reads the heads that a model folder holds, under their plain names whatever they are stored as.
pub(crate) fn load_heads(
    files: &WeightFiles,
    architecture: &Architecture,
    dtype: DType,
    device: &Device,
    parameters: &mut Parameters,
) -> std::result::Result<(), ModelError> {
    let heads = files.heads(architecture)?;
    for (spec, name) in [(heads.value_head, VALUE), (heads.prompt_head, PROMPT)] {
        let Some(spec) = spec else { continue };
        let value = files.get(&spec, dtype, device)?;
        parameters.push(Parameter::new(format!("{name}.weight"), value, ParameterKind::Matrix));
    }
    Ok(())
}

impl PreferenceHead {
    /// d.
    pub fn outputs(&self) -> usize {
        self.0.outputs()
    }

    /// hidden\[rows]·Wᵀ, \[n]\[d].
    ///
    /// # Errors
    /// A row outside `hidden` \[t, h].
    pub fn forward(&self, decoder: &Decoder, hidden: &Tensor, rows: &[usize]) -> Result<Vec<Vec<f32>>> {
        self.forward_on_device(decoder, hidden, rows)?.to_vec2()
    }

    /// As [`PreferenceHead::forward`], f32 \[n, d] where `hidden` is.
    ///
    /// # Errors
    /// As that.
    pub fn forward_on_device(&self, decoder: &Decoder, hidden: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let x = select_rows(hidden, rows)?;
        self.0.forward_wide(decoder.parameters(), &x, SumOrder::Fastest)?.to_dtype(DType::F32)
    }

    /// The backward of [`PreferenceHead::forward`]: adds to `d_hidden` \[t, h] in place and to the head's gradient.
    ///
    /// # Errors
    /// A row outside `hidden`, or d_out that is not \[n]\[d].
    pub fn backward(
        &self,
        decoder: &Decoder,
        hidden: &Tensor,
        rows: &[usize],
        d_out: &[Vec<f32>],
        d_hidden: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (n, d) = (rows.len(), self.0.outputs());
        if d_out.len() != n || d_out.iter().any(|row| row.len() != d) {
            bail!("the gradient of a head of {d} outputs at {n} rows has another shape")
        }
        let x = select_rows(hidden, rows)?;
        let dy = Tensor::from_vec(d_out.concat(), (n, d), hidden.device())?.to_dtype(hidden.dtype())?;
        let dx = self.0.backward(decoder.parameters(), &x, &dy, gradients)?;
        add_rows(d_hidden, &dx, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None)
    }
}
