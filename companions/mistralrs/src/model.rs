//! mistral.rs with a model loaded.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use mistralrs_core::{
    AutoDeviceMapParams, DefaultSchedulerMethod, DetokenizationRequest, DeviceMapSetting, LoaderBuilder,
    MistralRs, MistralRsBuilder, ModelDType, ModelSelected, Request, SchedulerConfig, TokenSource,
    get_auto_device_map_params, get_model_dtype,
};
use tokio::sync::mpsc::channel;

use crate::arguments::Arguments;

/// A model that answers.
pub struct LoadedModel {
    engine: Arc<MistralRs>,
    /// The folder or file.
    pub path: String,
    /// Its name.
    pub name: String,
}

impl LoadedModel {
    /// Loads the model. Nothing is fetched from anywhere.
    ///
    /// # Errors
    /// A model that is not there, or that mistral.rs cannot run.
    pub async fn load(arguments: &Arguments) -> Result<Self> {
        let path = arguments.model.canonicalize();
        let path = path.with_context(|| format!("{}: no such file or folder", arguments.model.display()))?;
        let device = device()?;
        let dtype =
            arguments.dtype.unwrap_or(if device.is_cpu() { ModelDType::F32 } else { ModelDType::Auto });
        let selected = selected(&path, dtype)?;
        let (dtype, map) = (get_model_dtype(&selected)?, get_auto_device_map_params(&selected)?);
        let loader =
            LoaderBuilder::new(selected).with_chat_template(arguments.chat_template.clone()).build()?;
        let map = if device.is_cpu() { DeviceMapSetting::dummy() } else { DeviceMapSetting::Auto(map) };
        let pipeline =
            loader.load_model_from_hf(None, TokenSource::None, &dtype, &device, true, map, None, None);
        let pipeline = pipeline.with_context(|| format!("{}: mistral.rs cannot load it", path.display()))?;
        let at_a_time = NonZeroUsize::new(arguments.max_seqs).unwrap_or(NonZeroUsize::MIN);
        let method = SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(at_a_time) };
        // Without its prefix cache: where that has a beginning of the prompt, the rest alone is told and counted as the prompt.
        let engine =
            MistralRsBuilder::new(pipeline, method, false, None).with_no_prefix_cache(true).build().await;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { engine, path: path.to_string_lossy().into_owned(), name })
    }

    /// Hands a request to the engine.
    ///
    /// # Errors
    /// An engine that has ended.
    pub async fn send(&self, request: Request) -> Result<()> {
        let sender = self.engine.get_sender(None).map_err(|error| anyhow!("{error:?}"))?;
        sender.send(request).await.map_err(|_| anyhow!("mistral.rs has ended"))
    }

    /// The text of ids.
    ///
    /// # Errors
    /// Ids that the tokenizer does not know.
    pub async fn text_of(&self, tokens: Vec<u32>, skip_special_tokens: bool) -> Result<String> {
        let (response, mut texts) = channel(1);
        self.send(Request::Detokenize(DetokenizationRequest { tokens, skip_special_tokens, response }))
            .await?;
        texts.recv().await.unwrap_or_else(|| Err(anyhow!("mistral.rs has ended")))
    }
}

/// What it runs on: a GPU where this build has its kernels and there is one.
fn device() -> Result<Device> {
    if cfg!(feature = "metal") {
        return Ok(Device::new_metal(0)?);
    }
    Ok(Device::cuda_if_available(0)?)
}

fn selected(path: &Path, dtype: ModelDType) -> Result<ModelSelected> {
    let (max_seq_len, max_batch_size) =
        (AutoDeviceMapParams::DEFAULT_MAX_SEQ_LEN, AutoDeviceMapParams::DEFAULT_MAX_BATCH_SIZE);
    if path.is_dir() {
        return Ok(ModelSelected::Run {
            model_id: path.to_string_lossy().into_owned(),
            tokenizer_json: None,
            dtype,
            topology: None,
            organization: None,
            write_uqff: None,
            from_uqff: None,
            imatrix: None,
            calibration_file: None,
            max_edge: None,
            max_seq_len,
            max_batch_size,
            max_num_images: None,
            max_image_length: None,
            hf_cache_path: None,
            matformer_config_path: None,
            matformer_slice_name: None,
        });
    }
    let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
        bail!("{}: no file", path.display())
    };
    if !file.to_string_lossy().to_lowercase().ends_with(".gguf") {
        bail!("{}: a folder in Hugging Face layout or a .gguf file is wanted", path.display());
    }
    Ok(ModelSelected::GGUF {
        tok_model_id: None,
        quantized_model_id: folder.to_string_lossy().into_owned(),
        quantized_filename: file.to_string_lossy().into_owned(),
        dtype,
        topology: None,
        max_seq_len,
        max_batch_size,
    })
}
